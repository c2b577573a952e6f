//! A primary and its replica behind one address, which leads to whichever is the primary.

use std::time::Duration;

use crate::{Proxy, RedisServer, wait_until};

/// Two servers and the address before them, as a proxy, a virtual address or a name service gives it.
///
/// Connections that were made before a failover stay with the server that they were made to, which then is a replica.
#[derive(Debug)]
pub struct Pair {
    /// The primary, until [`fail_over`](Self::fail_over).
    pub first: RedisServer,
    /// Its replica, and the primary after that.
    pub second: RedisServer,
    /// The address before them.
    pub proxy: Proxy,
}

impl Pair {
    /// Starts both, in step.
    #[track_caller]
    pub fn start() -> Self {
        let first = RedisServer::start();
        let second = RedisServer::builder().replica_of(&first).start();
        let proxy = Proxy::before(&first);
        Self { first, second, proxy }
    }

    /// Makes the replica the primary, with all data, and the primary its replica. The address leads new connections to the
    /// new primary.
    #[track_caller]
    pub fn fail_over(&self) {
        // Nothing may be written that the replica does not get.
        self.first.command(&["CLIENT", "PAUSE", "10000", "WRITE"]);
        wait_until("the replica has all data", PATIENCE, || offset(&self.first) == offset(&self.second));
        self.second.command(&["REPLICAOF", "NO", "ONE"]);
        self.proxy.lead_to(&self.second);
        self.first.command(&["REPLICAOF", "127.0.0.1", &self.second.port().to_string()]);
        self.first.command(&["CLIENT", "UNPAUSE"]);
        wait_until("the former primary follows the new one", PATIENCE, || {
            self.first.info("replication").contains("master_link_status:up")
        });
    }
}

fn offset(server: &RedisServer) -> Option<String> {
    let info = server.info("replication");
    info.lines().find_map(|line| line.strip_prefix("master_repl_offset:").map(str::to_owned))
}

const PATIENCE: Duration = Duration::from_secs(10);
