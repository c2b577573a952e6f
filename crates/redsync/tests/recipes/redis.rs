//! The recipe for another Redis.

use std::process::Command;

use redsync::Fence;
use redsync_testkit::{RedisServer, Reply};

use crate::claims::{Refused, Resource, User, fence};
use crate::page::block;

const KEY: &str = "account:7";

/// A hash.
pub(crate) struct Hash {
    server: RedisServer,
}

impl Hash {
    pub(crate) fn new() -> Self {
        Self { server: RedisServer::start() }
    }

    fn ask(&self, words: &[&str]) -> Reply {
        self.server.command(&[&["EVAL", block("lua", "if not"), "1", KEY], words].concat())
    }
}

impl Resource for Hash {
    fn user(&self) -> Box<dyn User + '_> {
        Box::new(HashUser { hash: self })
    }
}

struct HashUser<'a> {
    hash: &'a Hash,
}

impl HashUser<'_> {
    fn ask(&self, words: &[&str]) -> Result<Reply, Refused> {
        let reply = self.hash.ask(words);
        match reply.error() {
            Some(error) => {
                assert!(error.starts_with("STALE "), "{error}");
                Err(Refused)
            }
            None => Ok(reply),
        }
    }
}

impl User for HashUser<'_> {
    fn write(&mut self, number: u64, fence: Fence) -> Result<(), Refused> {
        self.ask(&[&fence.to_string(), "balance", &number.to_string(), "by", "test"]).map(drop)
    }

    fn read(&mut self, fence: Fence) -> Result<u64, Refused> {
        let fields = self.ask(&[&fence.to_string()])?;
        let mut fields = fields.array().iter().map(Reply::text);
        fields.find(|field| *field == "balance");
        Ok(fields.next().unwrap().parse().unwrap())
    }
}

#[test]
fn who_is_refused_is_told_the_largest_fence_in_redis() {
    let hash = Hash::new();
    hash.ask(&[&Fence::MAX.to_string()]);
    let refusal = hash.ask(&[&fence(0).to_string()]);
    assert_eq!(refusal.error(), Some("STALE 9007199254740991 was seen before"));
}

#[test]
fn what_is_no_fence_is_refused_and_leaves_nothing_in_redis() {
    let hash = Hash::new();
    for no_fence in ["", "-1", "nan", "1e300", "0x10", "7 "] {
        let refusal = hash.ask(&[no_fence, "balance", "1"]);
        assert_eq!(refusal.error(), Some("ERR no fence"), "{no_fence:?}");
    }
    assert_eq!(hash.server.keys(), Vec::<String>::new());
}

#[test]
fn the_script_works_from_the_command_line() {
    let hash = Hash::new();
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("fenced.lua"), block("lua", "if not")).unwrap();
    let line = block("sh", "redis-cli").replace("redis-cli", "redis-cli -p \"$PORT\"");

    let ran = Command::new("sh")
        .args(["-c", &line])
        .env("PORT", hash.server.port().to_string())
        .current_dir(directory.path())
        .output()
        .unwrap();

    let said = String::from_utf8(ran.stdout).unwrap();
    assert_eq!(said, "fence\n1700000000000000\nbalance\n110\n");
    assert_eq!(hash.server.command(&["HGET", KEY, "balance"]).text(), "110");
}
