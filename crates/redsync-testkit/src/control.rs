//! Commands to the server over its unix socket.

use std::io::{self, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::RedisServer;
use crate::resp::{self, Reply};

/// What the kit authenticates itself with.
#[derive(Debug, Clone)]
pub(crate) struct Credentials {
    pub(crate) user: Option<String>,
    pub(crate) password: String,
}

/// The control channel. Each command has a connection of its own over the unix socket, so that a command that got
/// no answer leaves nothing behind that the next could mistake for its own.
impl RedisServer {
    /// Sends a command and returns its answer, which may well be [`Reply::Error`].
    ///
    /// # Panics
    ///
    /// When no answer comes: the server is down, refuses the kit's password, or stays silent for 2 s.
    #[track_caller]
    pub fn command(&self, command: &[&str]) -> Reply {
        match self.try_command(command) {
            Ok(reply) => reply,
            Err(error) => panic!("no answer to {command:?} on {}: {error}", self.socket().display()),
        }
    }

    /// Like [`command`](Self::command), by a user of the server's.
    #[track_caller]
    pub fn command_as(&self, user: &str, password: &str, command: &[&str]) -> Reply {
        let credentials = Credentials { user: Some(user.to_owned()), password: password.to_owned() };
        match ask(&self.socket(), Some(&credentials), command) {
            Ok(reply) => reply,
            Err(error) => panic!("no answer to {command:?} on {}: {error}", self.socket().display()),
        }
    }

    /// Like [`command`](Self::command), for a server that may be unable to answer.
    ///
    /// A paused server executes the command all the same once it is resumed.
    ///
    /// # Errors
    ///
    /// When no answer comes: the server is down, refuses the kit's password, or stays silent for 2 s.
    pub fn try_command(&self, command: &[&str]) -> io::Result<Reply> {
        ask(&self.socket(), self.credentials(), command)
    }

    /// The value of a string key, `None` when there is no such key.
    #[track_caller]
    pub fn get(&self, key: &str) -> Option<String> {
        match self.command(&["GET", key]) {
            Reply::Nil => None,
            reply => Some(reply.text().to_owned()),
        }
    }

    /// Sets a string key, to expire after `px` milliseconds or never.
    #[track_caller]
    pub fn set(&self, key: &str, value: &str, px: Option<u64>) {
        let reply = match px {
            Some(px) => self.command(&["SET", key, value, "PX", &px.to_string()]),
            None => self.command(&["SET", key, value]),
        };
        assert_eq!(reply, Reply::Status("OK".to_owned()), "SET {key}");
    }

    /// The milliseconds until a key expires; -1 when it never does, -2 when there is no such key.
    #[track_caller]
    pub fn pttl(&self, key: &str) -> i64 {
        self.command(&["PTTL", key]).int()
    }

    /// All keys of database 0, sorted.
    #[track_caller]
    pub fn keys(&self) -> Vec<String> {
        let mut keys: Vec<String> =
            self.command(&["KEYS", "*"]).array().iter().map(|key| key.text().to_owned()).collect();
        keys.sort();
        keys
    }

    /// Removes all keys of all databases.
    #[track_caller]
    pub fn flushall(&self) {
        assert_eq!(self.command(&["FLUSHALL"]), Reply::Status("OK".to_owned()), "FLUSHALL");
    }

    /// How many wait in the queue for the lock called `name`, which has no hash tag: each has two members there.
    #[track_caller]
    pub fn waiting(&self, name: &str) -> usize {
        let members = self.command(&["ZCARD", &format!("{{{name}}}:redsync:line")]).int();
        usize::try_from(members / 2).unwrap_or_else(|_| unreachable!("no set has fewer members than none"))
    }

    /// How often the server has executed a command since it started, calls inside scripts and the kit's own
    /// included. A subcommand is named as in `config|get`.
    #[track_caller]
    pub fn command_count(&self, name: &str) -> u64 {
        let [count] = self.command_counts([name]);
        count
    }

    /// The [`command_count`](Self::command_count) of each of these, by one question.
    #[track_caller]
    pub fn command_counts<const N: usize>(&self, names: [&str; N]) -> [u64; N] {
        let counts = self.info("commandstats");
        names.map(|name| {
            let key = format!("cmdstat_{}:calls=", name.to_ascii_lowercase());
            let calls = |line: &str| line.strip_prefix(&key)?.split(',').next()?.parse().ok();
            counts.lines().find_map(calls).unwrap_or(0)
        })
    }

    /// A section of `INFO`: lines of `field:value`.
    #[track_caller]
    pub fn info(&self, section: &str) -> String {
        self.command(&["INFO", section]).text().to_owned()
    }
}

fn ask(socket: &Path, credentials: Option<&Credentials>, command: &[&str]) -> io::Result<Reply> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
    let mut connection = BufReader::new(stream);

    if let Some(Credentials { user, password }) = credentials {
        let auth: Vec<&str> =
            ["AUTH"].into_iter().chain(user.as_deref()).chain([password.as_str()]).collect();
        connection.get_mut().write_all(&resp::encode(&auth))?;
        if let Reply::Error(message) = Reply::read(&mut connection)? {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
        }
    }
    connection.get_mut().write_all(&resp::encode(command))?;
    Reply::read(&mut connection)
}

const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
