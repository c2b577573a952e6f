//! A clock that the test drives: the server runs under libfaketime, which has it read the time from a file.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::RedisServer;
use crate::directory::ServerDirectory;

impl RedisServer {
    /// Sets the server's clock, in microseconds since 1970: what `TIME` says, and what keys expire by. It stands still
    /// until it is set again.
    ///
    /// A key that expires after some milliseconds is there through the whole of the millisecond in which they are over:
    /// that is how Redis counts.
    ///
    /// # Panics
    ///
    /// When the server was not started with a [driven clock](crate::ServerBuilder::driven_clock).
    #[track_caller]
    pub fn set_clock(&self, micros: u64) {
        assert!(
            self.has_driven_clock,
            "this server has the machine's clock: start it with `.driven_clock(…)`"
        );
        write(&self.directory, micros);
    }

    /// A server that reads another clock than it is told to would make every test about time one about nothing.
    pub(crate) fn assert_clock(&self, micros: u64) {
        let time = self.command(&["TIME"]);
        let shown: Vec<u64> = time.array().iter().map(|part| part.text().parse().unwrap_or(0)).collect();
        assert_eq!(
            shown,
            [micros / 1_000_000, micros % 1_000_000],
            "the server does not follow its driven clock; what libfaketime says:\n{}",
            self.log_tail()
        );
    }
}

/// Has `command` read the time from the file that [`write`] writes.
pub(crate) fn drive(command: &mut Command, directory: &ServerDirectory) {
    let library = library();
    command
        // libfaketime, as it is loaded, allocates; jemalloc, which Debian's server brings, asks for the time as it is first
        // asked for memory; and neither is ready for the other. With glibc's own allocator before it, it never is.
        .env("LD_PRELOAD", format!("libc_malloc_debug.so.0:{}", library.display()))
        .env("FAKETIME_TIMESTAMP_FILE", file(directory))
        .env("FAKETIME_FMT", "%s")
        .env("TZ", "UTC")
        .env("FAKETIME_NO_CACHE", "1")
        // The server's timers go on, or it would never look after its connections.
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
}

/// Has the clock show `micros`.
pub(crate) fn write(directory: &ServerDirectory, micros: u64) {
    let (seconds, fraction) = (micros / 1_000_000, micros % 1_000_000);
    let (file, new) = (file(directory), directory.path().join("clock.new"));
    // libfaketime reads the fraction as a double and cuts it off: with half a microsecond more, it is cut off right.
    // Replaced in one step: the server may read it at any moment.
    fs::write(&new, format!("{seconds}.{fraction:06}5\n"))
        .and_then(|()| fs::rename(&new, &file))
        .unwrap_or_else(|error| panic!("cannot write {}: {error}", file.display()));
}

fn file(directory: &ServerDirectory) -> PathBuf {
    directory.path().join("clock")
}

/// Where distributions put libfaketime: `faketime` directories beside, or in the directories of, other libraries.
fn library() -> PathBuf {
    const NAME: &str = "faketime/libfaketime.so.1";
    let parents = ["/usr/lib", "/usr/lib64", "/usr/local/lib"].map(Path::new);
    let below = |parent: &Path| {
        let entries = fs::read_dir(parent).into_iter().flatten().flatten();
        entries.map(|entry| entry.path().join(NAME)).collect::<Vec<_>>()
    };
    let places = parents.iter().flat_map(|parent| [vec![parent.join(NAME)], below(parent)].concat());
    places.into_iter().find(|place| place.exists()).unwrap_or_else(|| {
        panic!("there is no libfaketime to drive a server's clock with; install it with: apt-get install faketime")
    })
}
