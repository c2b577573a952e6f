//! The server-side steps. Each is a `.lua` file beside this one, whose header says what it takes and gives.

use std::sync::LazyLock;

use super::client::Command;
use crate::protocol::LockName;

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

    pub(super) fn by_hash(&self, name: &LockName, arguments: &[&str]) -> Command {
        call("EVALSHA", &self.hash, name, arguments)
    }

    pub(super) fn by_source(&self, name: &LockName, arguments: &[&str]) -> Command {
        call("EVAL", self.source, name, arguments)
    }
}

fn call(verb: &str, script: &str, name: &LockName, arguments: &[&str]) -> Command {
    let command = Command::new(verb).arg(script).arg("1").arg(name.as_str());
    arguments.iter().fold(command, Command::arg)
}
