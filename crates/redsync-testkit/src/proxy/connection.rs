//! One client's connection and its counterpart to the server.

use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Instant;

use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, connect_unspec, socket_with};

use super::lane::{Lane, Next};
use super::mode::{Mode, Way};
use super::poller::Poller;

/// Two sockets, and a lane each way between them.
#[derive(Debug)]
pub(super) struct Connection {
    client: TcpStream,
    upstream: TcpStream,
    requests: Lane,
    replies: Lane,
    mode: Mode,
}

impl Connection {
    /// Begins to connect an accepted client to `upstream`.
    pub(super) fn open(client: TcpStream, upstream: SocketAddr, mode: Mode, poller: &Poller) -> Self {
        let upstream = connecting_to(upstream)
            .unwrap_or_else(|error| panic!("the proxy cannot make a socket for {upstream}: {error}"));
        for stream in [&client, &upstream] {
            stream
                .set_nonblocking(true)
                // Latency is for the mode to add, not for Nagle's algorithm.
                .and_then(|()| stream.set_nodelay(true))
                .unwrap_or_else(|error| panic!("the proxy cannot configure a connection: {error}"));
            poller.watch(stream);
        }
        Self { client, upstream, requests: Lane::new(Way::Requests), replies: Lane::new(Way::Replies), mode }
    }

    pub(super) fn set_mode(&mut self, mode: Mode) {
        self.mode = mode;
    }

    pub(super) fn is_held_by_client(&self) -> bool {
        !self.requests.source_has_ended()
    }

    /// Moves what can be moved both ways.
    pub(super) fn pump(&mut self, now: Instant) -> Next {
        // The replies first: a socket tells its error once, and here it is the read that has to learn it.
        let replies = self.replies.pump(&self.upstream, &self.client, self.mode, now);
        let requests = self.requests.pump(&self.client, &self.upstream, self.mode, now);
        match (requests, replies) {
            (Next::Reset, _) | (_, Next::Reset) => Next::Reset,
            (Next::Over, other) | (other, Next::Over) => other,
            (Next::Event, other) | (other, Next::Event) => other,
            (Next::At(one), Next::At(other)) => Next::At(one.min(other)),
        }
    }

    /// Ends both sides with RST.
    pub(super) fn reset(&self) {
        reset(&self.client);
        reset(&self.upstream);
    }

    /// Ends both sides with FIN.
    pub(super) fn close(&self) {
        for stream in [&self.client, &self.upstream] {
            // Not left to drop, for the reason in `reset`. An error means that it is closed already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// Ends a connection with RST.
///
/// `SO_LINGER` would do it too, but only when the last descriptor of the socket is closed. While another thread
/// starts a process, the child has them all until it executes its program.
pub(super) fn reset(stream: &TcpStream) {
    connect_unspec(stream).unwrap_or_else(|error| panic!("the proxy cannot reset a connection: {error}"));
}

/// A connect that does not block: the server may be paused, and its backlog full.
fn connecting_to(address: SocketAddr) -> rustix::io::Result<TcpStream> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    // Whatever comes of it now or later, the first read from the socket tells.
    let _ = connect(&socket, &address);
    Ok(TcpStream::from(socket))
}
