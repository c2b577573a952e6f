//! The server-side steps. Each is a `.lua` file beside this one, whose header says what it takes and gives.

use std::sync::LazyLock;

use super::client::Command;
use super::keys::Key;

/// A script: its source, and the hash that the server knows it by.
pub(super) struct Script {
    source: &'static str,
    hash: String,
}

pub(super) static ACQUIRE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("acquire.lua")));
pub(super) static ACQUIRE_FENCED: LazyLock<Script> = LazyLock::new(|| {
    Script::new(concat!(
        include_str!("acquire_fenced_free.lua"),
        include_str!("fence.lua"),
        include_str!("acquire_fenced.lua")
    ))
});
pub(super) static ENTER: LazyLock<Script> = LazyLock::new(|| {
    Script::new(concat!(include_str!("fence.lua"), include_str!("line.lua"), include_str!("enter.lua")))
});
pub(super) static EXTEND: LazyLock<Script> =
    LazyLock::new(|| Script::new(concat!(include_str!("fence.lua"), include_str!("extend.lua"))));
pub(super) static RELEASE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(concat!(
        include_str!("release_alone.lua"),
        include_str!("fence.lua"),
        include_str!("line.lua"),
        include_str!("release.lua")
    ))
});
pub(super) static INSPECT: LazyLock<Script> = LazyLock::new(|| {
    Script::new(concat!(include_str!("fence.lua"), include_str!("line.lua"), include_str!("inspect.lua")))
});

pub(super) static PERMITTED: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("permitted.lua")));
pub(super) static LIST: LazyLock<Script> =
    LazyLock::new(|| Script::new(concat!(include_str!("fence.lua"), include_str!("list.lua"))));

impl Script {
    fn new(source: &'static str) -> Self {
        Self { source, hash: redis::Script::new(source).get_hash().to_owned() }
    }

    /// Teaches the script to a server without running it.
    pub(super) fn load(&self) -> Command {
        Command::new("SCRIPT").arg("LOAD").arg(self.source)
    }

    /// Runs the script that the server has learnt, on `keys`. Arguments are to be added.
    pub(super) fn by_hash(&self, keys: &[Key<'_>]) -> Command {
        called("EVALSHA", &self.hash, keys)
    }

    /// Runs the script, and teaches it by that. Arguments are to be added.
    pub(super) fn by_source(&self, keys: &[Key<'_>]) -> Command {
        called("EVAL", self.source, keys)
    }
}

fn called(verb: &str, script: &str, keys: &[Key<'_>]) -> Command {
    // With room for a token and a few numbers.
    const ARGUMENTS: (usize, usize) = (5, 120);
    let bytes: usize = keys.iter().flatten().map(|part| part.len()).sum();
    let command =
        Command::with_room(verb, 2 + keys.len() + ARGUMENTS.0, script.len() + 1 + bytes + ARGUMENTS.1);
    let command = command.arg(script).number(keys.len() as u64);
    keys.iter().fold(command, |command, key| command.joined(key))
}
