//! What a Redis client must do to serve under a [`RedisNode`](super::RedisNode): execute a command.

use std::fmt;
use std::io::Write;
use std::sync::Arc;

use redis::RedisWrite;

use super::pushes::Pushes;
use crate::node::Answer;

/// A Redis client: yours, if you have one already, or the one that
/// [`RedisNode::open`](super::RedisNode::open) brings.
///
/// [`Display`](fmt::Display) names the server in messages, without any password.
///
/// `examples/own_client.rs` shows one over a plain socket.
pub trait Client: fmt::Debug + fmt::Display + Send + Sync + 'static {
    /// Sends `command` once and gives its reply.
    ///
    /// It must never be sent a second time, not after a reconnect either: a lease that was granted to the first
    /// would be reported as taken by the second. Commands go out in the order of the calls. There is no deadline
    /// to keep; the caller drops the answer when its time is over.
    ///
    /// A server that answers `READONLY` may have been demoted: connect anew after that, and resolve its name again, or a
    /// failover behind a stable address is never noticed.
    ///
    /// # Errors
    ///
    /// An error reply of the server is [`NodeFault::refused`](crate::NodeFault::refused) with its first word for a
    /// code; a command that was certainly not sent is [`NodeFault::unreachable`](crate::NodeFault::unreachable); one
    /// whose reply was lost is [`NodeFault::disconnected`](crate::NodeFault::disconnected).
    fn execute(&self, command: Command) -> Answer<'_, Reply>;

    /// Subscribes to `channel`, now and after each reconnect, and gives `messages` what is published there. Completes when
    /// the server has confirmed it; with `false` where this client cannot, and those who wait for a lock ask again and
    /// again.
    ///
    /// Where messages may have been missed, as after a reconnect, `messages` is told so.
    ///
    /// # Errors
    ///
    /// As [`execute`](Client::execute). It is tried again then.
    fn subscribe<'a>(&'a self, channel: &'a str, messages: Messages) -> Answer<'a, bool>;
}

/// Where the messages of a channel go. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Messages {
    channel: Arc<str>,
    pushes: Arc<Pushes>,
}

impl Messages {
    pub(super) fn new(channel: &str, pushes: &Arc<Pushes>) -> Self {
        Self { channel: channel.into(), pushes: Arc::clone(pushes) }
    }

    /// This was published.
    pub fn message(&self, payload: &[u8]) {
        self.pushes.message(&self.channel, payload);
    }

    /// Some may have been missed.
    pub fn interrupted(&self) {
        self.pushes.interrupted();
    }
}

/// A command and its arguments.
#[derive(Clone)]
pub struct Command(redis::Cmd);

impl Command {
    /// The command `name`, without arguments yet.
    pub fn new(name: &str) -> Self {
        Self::with_room(name, 8, 160)
    }

    /// The command `name`, with room for so many arguments, and for so many bytes of them.
    pub(super) fn with_room(name: &str, arguments: usize, bytes: usize) -> Self {
        Self(redis::Cmd::with_capacity(1 + arguments, name.len() + bytes)).arg(name)
    }

    /// The command with one more argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<[u8]>) -> Self {
        self.0.arg(argument.as_ref());
        self
    }

    /// The command with a number for one more argument, in decimal.
    #[must_use]
    pub fn number(mut self, number: u64) -> Self {
        const DIGITS: [&[u8]; 10] = [b"0", b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"8", b"9"];
        match usize::try_from(number).ok().and_then(|number| DIGITS.get(number)) {
            Some(digit) => self.0.arg(*digit),
            None => self.0.arg(number),
        };
        self
    }

    /// The command with one more argument, of these parts.
    pub(super) fn joined(mut self, parts: &[&str]) -> Self {
        let mut argument = self.0.writer_for_next_arg();
        for part in parts.iter().filter(|part| !part.is_empty()) {
            // Into memory: it cannot fail.
            let _ = argument.write_all(part.as_bytes());
        }
        drop(argument);
        self
    }

    /// The command's name and its arguments, as they are sent.
    pub fn parts(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.0.args_iter().map(|argument| match argument {
            redis::Arg::Simple(bytes) => bytes,
            // Only a scan has one, and no scan is made here.
            _ => b"0",
        })
    }

    pub(super) const fn as_redis(&self) -> &redis::Cmd {
        &self.0
    }
}

/// The command's name alone: arguments may be secret.
impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.parts().next().unwrap_or_default();
        write!(f, "Command({}, {} arguments)", String::from_utf8_lossy(name), self.parts().len() - 1)
    }
}

/// A server's reply. Error replies are not among them: they are [`NodeFault`](crate::NodeFault)s.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reply {
    /// Nothing.
    Nil,
    /// A number.
    Int(i64),
    /// A string, simple or bulk.
    Text(Vec<u8>),
    /// A list.
    Array(Vec<Self>),
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 64;
        match self {
            Self::Nil => f.write_str("nil"),
            Self::Int(number) => write!(f, "{number}"),
            Self::Text(text) => {
                let shown = String::from_utf8_lossy(&text[..text.len().min(SHOWN)]);
                write!(f, "{shown:?}")
            }
            Self::Array(list) => f.debug_list().entries(list).finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_keeps_its_parts_apart() {
        let command = Command::new("SET").arg("a").arg("").arg("bc");
        let parts: Vec<&[u8]> = command.parts().collect();
        assert_eq!(parts, [b"SET".as_slice(), b"a", b"", b"bc"]);
        assert_eq!(format!("{command:?}"), "Command(SET, 3 arguments)");
    }

    #[test]
    fn numbers_and_joined_arguments_are_written_in_full() {
        let command = Command::with_room("X", 0, 0).number(0).number(9).number(10).joined(&["a", "", "bc"]);
        let command = command.number(u64::MAX);
        let parts: Vec<&[u8]> = command.parts().collect();
        assert_eq!(parts, [b"X".as_slice(), b"0", b"9", b"10", b"abc", b"18446744073709551615"]);
    }
}
