//! A server behind a misbehaving network.

use redsync::Redsync;
use redsync_testkit::{Proxy, RedisServer};

use crate::support::over;

/// A server, the network before it, and one [`Redsync`] whose only node it is.
pub(crate) struct Route {
    pub(crate) redsync: Redsync,
    pub(crate) proxy: Proxy,
    pub(crate) server: RedisServer,
}

impl Route {
    /// A route that is healthy, with a connection that stands.
    pub(crate) async fn open() -> Self {
        let server = RedisServer::start();
        let proxy = Proxy::before(&server);
        let redsync = over([proxy.url()]);
        redsync.check_nodes().await.expect("the kit's server answers");
        Self { redsync, proxy, server }
    }
}
