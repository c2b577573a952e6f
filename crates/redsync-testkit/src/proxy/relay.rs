//! All connections of a proxy, and the door they come in by.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Instant;

use rustix::net::{Shutdown, shutdown};

use crate::port::ReservedPort;

use super::connection::{Connection, reset};
use super::lane::Next;
use super::mode::Mode;
use super::poller::Poller;

/// What a proxy consists of. Everything happens in [`pump`](Self::pump), in whatever thread calls it.
#[derive(Debug)]
pub(super) struct Relay {
    port: ReservedPort,
    /// `None` while connections are refused.
    listener: Option<TcpListener>,
    arrivals: Arrivals,
    connections: Vec<Connection>,
    accepted: usize,
    upstream: SocketAddr,
    poller: Arc<Poller>,
    closed: bool,
}

impl Relay {
    pub(super) fn new(port: ReservedPort, upstream: SocketAddr, poller: Arc<Poller>) -> Self {
        let mut relay = Self {
            port,
            listener: None,
            arrivals: Arrivals::Welcome(Mode::Pass),
            connections: Vec::new(),
            accepted: 0,
            upstream,
            poller,
            closed: false,
        };
        relay.listen();
        relay
    }

    /// Accepts who waits and moves what can be moved. Never blocks. Returns when to call it again even if no
    /// socket has news before.
    pub(super) fn pump(&mut self) -> Option<Instant> {
        let now = Instant::now();
        self.accept();
        let mut next: Option<Instant> = None;
        self.connections.retain_mut(|connection| match connection.pump(now) {
            Next::Event => true,
            Next::At(time) => {
                next = Some(next.map_or(time, |earliest| earliest.min(time)));
                true
            }
            Next::Over => false,
            Next::Reset => {
                connection.reset();
                false
            }
        });
        next
    }

    pub(super) fn set_existing(&mut self, mode: Mode) {
        for connection in &mut self.connections {
            connection.set_mode(mode);
        }
    }

    /// Also ends a refusal.
    pub(super) fn set_arrivals(&mut self, arrivals: Arrivals) {
        self.arrivals = arrivals;
        if self.listener.is_none() {
            self.listen();
        }
    }

    pub(super) fn set_upstream(&mut self, upstream: SocketAddr) {
        self.upstream = upstream;
    }

    pub(super) fn reset_existing(&mut self) {
        for connection in self.connections.drain(..) {
            connection.reset();
        }
    }

    /// Refuses connections and closes those there are.
    pub(super) fn shut(&mut self) {
        if let Some(listener) = self.listener.take() {
            // As with connections, descriptors of it may live on in a process that is being started.
            let _ = shutdown(&listener, Shutdown::Both);
        }
        for connection in self.connections.drain(..) {
            connection.close();
        }
    }

    /// Like [`shut`](Self::shut), for good.
    pub(super) fn close(&mut self) {
        self.shut();
        self.closed = true;
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    pub(super) fn accepted(&self) -> usize {
        self.accepted
    }

    pub(super) fn held_by_clients(&self) -> usize {
        self.connections.iter().filter(|connection| connection.is_held_by_client()).count()
    }

    fn listen(&mut self) {
        let port = self.port.number();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
            .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
            .unwrap_or_else(|error| panic!("the proxy cannot listen on port {port}: {error}"));
        self.poller.watch(&listener);
        self.listener = Some(listener);
    }

    fn accept(&mut self) {
        while let Some(listener) = &self.listener {
            match listener.accept() {
                Ok((client, _)) => {
                    self.accepted += 1;
                    match self.arrivals {
                        Arrivals::Welcome(mode) => {
                            let connection = Connection::open(client, self.upstream, mode, &self.poller);
                            self.connections.push(connection);
                        }
                        Arrivals::Reset => reset(&client),
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // Of a client that gave up before.
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => panic!("the proxy cannot accept a connection: {error}"),
            }
        }
    }
}

/// What becomes of connections that come.
#[derive(Debug, Clone, Copy)]
pub(super) enum Arrivals {
    /// They begin with this mode.
    Welcome(Mode),
    /// They are reset before the server hears of them.
    Reset,
}
