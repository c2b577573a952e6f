//! The second net under every server: it catches what `Drop` cannot, because the test process was killed.
//!
//! One `sh` per test process reads from a pipe that only the test process holds open. When the pipe ends, however
//! that came about, the watchdog kills and removes whatever was not given back. `watchdog.sh` is the other half.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::place;

/// What the watchdog is told: a server's directory and process, each from its beginning to its end.
pub(crate) enum Notice<'a> {
    DirectoryMade(&'a Path),
    DirectoryRemoved(&'a Path),
    ProcessStarted(u32),
    /// This one cleans up behind itself when it gets SIGQUIT.
    ProcessTidiesUp(u32),
    ProcessEnded(u32),
}

/// Tells the watchdog, starting it at the first notice.
pub(crate) fn notify(notice: &Notice<'_>) {
    static PIPE: OnceLock<Mutex<ChildStdin>> = OnceLock::new();

    let line = match notice {
        Notice::DirectoryMade(directory) => format!("made {}\n", directory.display()),
        Notice::DirectoryRemoved(directory) => format!("removed {}\n", directory.display()),
        Notice::ProcessStarted(pid) => format!("started {pid}\n"),
        Notice::ProcessTidiesUp(pid) => format!("tidies {pid}\n"),
        Notice::ProcessEnded(pid) => format!("ended {pid}\n"),
    };
    let pipe = PIPE.get_or_init(|| Mutex::new(start()));
    // Somebody may have killed the watchdog. Notices also come from `Drop`, and the first net still holds.
    let _ = pipe.lock().unwrap_or_else(PoisonError::into_inner).write_all(line.as_bytes());
}

#[expect(clippy::zombie_processes, reason = "it outlives this process on purpose; init reaps it")]
fn start() -> ChildStdin {
    let mut watchdog = Command::new("sh")
        .args(["-c", include_str!("watchdog.sh"), "redsync-testkit-watchdog"])
        .arg(place::prefix())
        .current_dir("/")
        .stdin(Stdio::piped())
        // A test runner waits for the end of its tests' output: the watchdog must not hold it open.
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // A group of its own, so that a runner that kills the tests' whole group does not kill their watchdog.
        .process_group(0)
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start the watchdog, `sh`: {error}"));
    watchdog.stdin.take().expect("the watchdog's stdin was asked to be a pipe")
}
