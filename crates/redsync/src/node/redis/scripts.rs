//! The server-side steps. Each is a `.lua` file beside this one, whose header says what it takes and gives.

use std::sync::LazyLock;

use super::client::Command;
use crate::protocol::{Expiry, LockName, Token};

/// A script: its source, and the hash that the server knows it by.
pub(super) struct Script {
    source: &'static str,
    hash: String,
}

pub(super) static ACQUIRE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("acquire.lua")));
pub(super) static EXTEND: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("extend.lua")));
pub(super) static RELEASE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("release.lua")));
pub(super) static INSPECT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("inspect.lua")));

impl Script {
    fn new(source: &'static str) -> Self {
        Self { source, hash: redis::Script::new(source).get_hash().to_owned() }
    }

    /// Teaches the script to a server without running it.
    pub(super) fn load(&self) -> Command {
        Command::new("SCRIPT").arg("LOAD").arg(self.source)
    }

    pub(super) fn by_hash(&self, call: &Call<'_>) -> Command {
        call.with("EVALSHA", &self.hash)
    }

    pub(super) fn by_source(&self, call: &Call<'_>) -> Command {
        call.with("EVAL", self.source)
    }
}

/// A script's key and arguments, in the order that all scripts have them in; each takes those it needs.
pub(super) struct Call<'a> {
    pub(super) name: &'a LockName,
    pub(super) token: Option<&'a Token>,
    pub(super) expiry: Option<Expiry>,
    pub(super) retake: Option<bool>,
}

impl Call<'_> {
    fn with(&self, verb: &str, script: &str) -> Command {
        let mut command = Command::new(verb).arg(script).arg("1").arg(self.name.as_str());
        if let Some(token) = self.token {
            command = command.arg(token.as_str());
        }
        if let Some(expiry) = self.expiry {
            command = command.number(expiry.as_millis());
        }
        if let Some(retake) = self.retake {
            command = command.number(retake.into());
        }
        command
    }
}
