//! A Redis client of a user's own: slow, simple, and good for one thing, to be any version that a test wants.

use std::fmt;
use std::sync::Arc;

use redsync::{Answer, Client, Command, NodeFault, Reply};
use redsync_testkit::RedisServer;

/// Which server the client pretends to speak to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    AsItIs,
    /// One whose `SET` refuses `NX` together with `GET`, as Redis 6 does.
    BeforeSeven,
}

/// A client over the server's unix socket, with a connection for each command.
pub(crate) struct SocketClient {
    server: Arc<RedisServer>,
    version: Version,
}

impl SocketClient {
    pub(crate) fn new(server: Arc<RedisServer>, version: Version) -> Self {
        Self { server, version }
    }

    fn refuses(&self, parts: &[&str]) -> bool {
        self.version == Version::BeforeSeven
            && parts[0] == "SET"
            && ["NX", "GET"].iter().all(|option| parts[3..].contains(option))
    }
}

impl Client for SocketClient {
    fn execute(&self, command: Command) -> Answer<'_, Reply> {
        Box::pin(async move {
            let parts: Result<Vec<&str>, _> = command.parts().map(std::str::from_utf8).collect();
            let parts = parts.map_err(|error| NodeFault::unreachable("not UTF-8").with_source(error))?;
            if self.refuses(&parts) {
                return Err(NodeFault::refused("ERR", "ERR syntax error"));
            }
            // Blocks, for the microseconds that a local server takes.
            match self.server.try_command(&parts) {
                Ok(reply) => reply_from(reply),
                Err(error) => Err(NodeFault::disconnected("the socket broke").with_source(error)),
            }
        })
    }
}

fn reply_from(reply: redsync_testkit::Reply) -> Result<Reply, NodeFault> {
    use redsync_testkit::Reply as Said;
    Ok(match reply {
        Said::Nil => Reply::Nil,
        Said::Int(number) => Reply::Int(number),
        Said::Text(text) | Said::Status(text) => Reply::Text(text.into_bytes()),
        Said::Array(list) => Reply::Array(list.into_iter().map(reply_from).collect::<Result<_, _>>()?),
        Said::Error(error) => {
            let code = error.split(' ').next().unwrap_or_default().to_owned();
            return Err(NodeFault::refused(code, error));
        }
    })
}

impl fmt::Display for SocketClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.server.unix_url())
    }
}

impl fmt::Debug for SocketClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SocketClient({self})")
    }
}
