//! A Redis client of a user's own: slow, simple, and good for one thing, to be any version that a test wants.

mod subscriptions;

use std::fmt;
use std::future::ready;
use std::sync::Arc;

use redsync::{Answer, Client, Command, Messages, NodeFault, Reply};
use redsync_testkit::RedisServer;

use self::subscriptions::Subscriptions;

/// Which server the client pretends to speak to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    AsItIs,
    /// One whose `SET` refuses `NX` together with `GET`, as Redis 6 does.
    BeforeSeven,
}

/// A client over the server's unix socket, with a connection for each command, and perhaps one for what the server tells.
pub(crate) struct SocketClient {
    server: Arc<RedisServer>,
    version: Version,
    subscriptions: Option<Subscriptions>,
}

impl SocketClient {
    pub(crate) fn new(server: Arc<RedisServer>, version: Version) -> Self {
        Self { server, version, subscriptions: None }
    }

    /// One that can be told.
    pub(crate) fn subscribing(server: Arc<RedisServer>, version: Version) -> Self {
        let subscriptions = Subscriptions::over(&server.unix_url()).expect("a server that just started");
        Self { server, version, subscriptions: Some(subscriptions) }
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

    fn subscribe<'a>(&'a self, channel: &'a str, messages: Messages) -> Answer<'a, bool> {
        match &self.subscriptions {
            Some(subscriptions) => Box::pin(subscriptions.add(channel, messages)),
            None => Box::pin(ready(Ok(false))),
        }
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
