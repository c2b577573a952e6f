//! The temporary directory that holds everything of one server.

use std::fs;
use std::path::{Path, PathBuf};

use crate::watchdog::{Notice, notify};

/// A directory known to the watchdog, removed on drop.
#[derive(Debug)]
pub(crate) struct ServerDirectory {
    path: PathBuf,
}

impl ServerDirectory {
    pub(crate) fn create() -> Self {
        let path = tempfile::Builder::new()
            .prefix(NAME_PREFIX)
            .tempdir_in(Self::parent())
            .unwrap_or_else(|error| {
                panic!("cannot make a directory in {}: {error}", Self::parent().display())
            })
            .keep();
        notify(&Notice::DirectoryMade(&path));
        Self { path }
    }

    /// What the path of every server directory begins with.
    pub(crate) fn prefix() -> PathBuf {
        Self::parent().join(NAME_PREFIX)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path.join("redis.sock")
    }

    pub(crate) fn configuration(&self) -> PathBuf {
        self.path.join("redis.conf")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    /// What the server printed before it had opened its log: complaints about its configuration.
    pub(crate) fn output(&self) -> PathBuf {
        self.path.join("output")
    }

    /// The last lines the server wrote, for the message of a panic.
    pub(crate) fn log_tail(&self) -> String {
        let written: String = [self.output(), self.log()]
            .iter()
            .map(|file| String::from_utf8_lossy(&fs::read(file).unwrap_or_default()).into_owned())
            .collect();
        let lines: Vec<&str> = written.lines().collect();
        lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
    }

    /// The system's temporary directory, unless a unix socket in it would have too long a path.
    fn parent() -> PathBuf {
        let configured = std::env::temp_dir();
        if configured.is_absolute() && configured.as_os_str().len() <= LONGEST_PARENT {
            configured
        } else {
            PathBuf::from("/tmp")
        }
    }
}

impl Drop for ServerDirectory {
    fn drop(&mut self) {
        match fs::remove_dir_all(&self.path) {
            Err(_) if self.path.exists() => {} // Left to the watchdog, which comes when the test process ends.
            _ => notify(&Notice::DirectoryRemoved(&self.path)),
        }
    }
}

const NAME_PREFIX: &str = "redsync-testkit-";

/// Linux allows 107 bytes for the path of a unix socket; the names below the parent need some 35.
const LONGEST_PARENT: usize = 70;

const LOG_TAIL_LINES: usize = 20;
