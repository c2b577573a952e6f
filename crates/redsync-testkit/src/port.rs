//! A TCP port that stays the server's own, also while the server is down.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, socket_with, sockopt};

/// A free port on 127.0.0.1, reserved until drop.
///
/// The reservation is a socket that is bound and never listens. The kernel then gives the port to nobody who asks
/// for *any* port, be it a listener or an outgoing connection, yet the server, which names the port and sets
/// `SO_REUSEADDR` as we do, can listen on it, and clients are refused while it does not. Without it, the port of a
/// killed server could become the port of another test's server, and answer.
#[derive(Debug)]
pub(crate) struct ReservedPort {
    number: u16,
    _socket: OwnedFd,
}

impl ReservedPort {
    pub(crate) fn any() -> Self {
        Self::try_any().unwrap_or_else(|error| panic!("cannot reserve a port on 127.0.0.1: {error}"))
    }

    pub(crate) fn number(&self) -> u16 {
        self.number
    }

    fn try_any() -> rustix::io::Result<Self> {
        let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        sockopt::set_socket_reuseaddr(&socket, true)?;
        bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))?;
        let number = SocketAddr::try_from(getsockname(&socket)?)?.port();
        Ok(Self { number, _socket: socket })
    }
}
