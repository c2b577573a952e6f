//! The temporary directory that holds everything of one server.

use std::fs;
use std::path::{Path, PathBuf};

use crate::place;
use crate::watchdog::{Notice, notify};

/// A directory known to the watchdog, removed on drop.
#[derive(Debug)]
pub(crate) struct ServerDirectory {
    path: PathBuf,
}

impl ServerDirectory {
    pub(crate) fn create() -> Self {
        let path = tempfile::Builder::new()
            .prefix(place::NAME_PREFIX)
            .tempdir_in(place::parent())
            .unwrap_or_else(|error| {
                panic!("cannot make a directory in {}: {error}", place::parent().display())
            })
            .keep();
        notify(&Notice::DirectoryMade(&path));
        Self { path }
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
}

impl Drop for ServerDirectory {
    fn drop(&mut self) {
        match fs::remove_dir_all(&self.path) {
            Err(_) if self.path.exists() => {} // Left to the watchdog, which comes when the test process ends.
            _ => notify(&Notice::DirectoryRemoved(&self.path)),
        }
    }
}

const LOG_TAIL_LINES: usize = 20;
