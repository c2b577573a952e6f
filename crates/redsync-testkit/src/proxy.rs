//! A misbehaving network between clients and a server.

mod connection;
mod lane;
mod mode;
mod poller;
mod relay;

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::RedisServer;
use crate::port::ReservedPort;

use mode::Mode;
use poller::Poller;
use relay::{Arrivals, Relay};

/// A TCP proxy on 127.0.0.1 that does to connections what networks do to them.
///
/// It forwards until it is told otherwise. Each method that changes its behaviour replaces the one before, for:
///
/// | | connections that exist | connections that come |
/// |---|---|---|
/// | [`pass`](Self::pass) | forwarded | forwarded |
/// | [`delay`](Self::delay) | requests come later | the same |
/// | [`hold`](Self::hold) | kept back | the same |
/// | [`drop_requests`](Self::drop_requests) | requests swallowed | the same |
/// | [`drop_replies`](Self::drop_replies) | replies swallowed | the same |
/// | [`half_open`](Self::half_open) | swallowed both ways | forwarded |
/// | [`black_hole`](Self::black_hole) | swallowed both ways | the same |
/// | [`reset`](Self::reset) | reset, once | as before |
/// | [`reset_each_new`](Self::reset_each_new) | as before | reset when accepted |
/// | [`reset_on_request`](Self::reset_on_request) | reset when a request comes | the same |
/// | [`slow_close`](Self::slow_close) | ends are passed on later | the same |
/// | [`refuse`](Self::refuse) | closed | refused |
/// | [`lead_to`](Self::lead_to) | as before | forwarded to another server |
///
/// A change has happened when its method returns. What reached the proxy before the call, be it bytes or
/// connections, was still treated in the old way. What is kept back at that moment is treated in the new way: it
/// arrives at once, waits on, or is swallowed. Bytes that were swallowed never come back, and as they leave a hole
/// in the conversation, a connection that lost some is seldom of use later.
///
/// When one side ends or resets its connection, the other learns it after all bytes before; where these bytes
/// would be swallowed or kept back it learns nothing until the behaviour changes. When the server cannot be
/// connected to, the client is reset.
///
/// Nothing limits how much is kept back. Connecting itself is never slow: clients that are to wait for that need
/// another tool.
///
/// Dropping the proxy closes its port and all connections.
///
/// ```
/// use std::time::Duration;
///
/// use redsync_testkit::{Client, Proxy, RedisServer};
///
/// let server = RedisServer::start();
/// let proxy = Proxy::before(&server);
/// let mut client = Client::connect(proxy.address())?;
///
/// proxy.drop_replies();
/// client.send(&["SET", "greeting", "hello"])?;
/// assert!(client.receive_within(Duration::from_millis(50)).is_err());
/// assert_eq!(server.get("greeting").as_deref(), Some("hello"));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    /// As the server's URL has it.
    userinfo: String,
    relay: Arc<Mutex<Relay>>,
    poller: Arc<Poller>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// A proxy before a server's port without TLS. It outlives restarts of the server.
    ///
    /// # Panics
    ///
    /// When the server has a unix socket only.
    #[track_caller]
    pub fn before(server: &RedisServer) -> Self {
        Self::start(server.address(), server.userinfo())
    }

    /// A proxy before anything that listens on TCP: `"localhost:6379"`, or `("127.0.0.1", server.tls_port())`.
    ///
    /// # Panics
    ///
    /// When `upstream` is no address.
    #[track_caller]
    pub fn to(upstream: impl ToSocketAddrs) -> Self {
        Self::start(upstream, String::new())
    }

    /// `redis://127.0.0.1:PORT`, with `:PASSWORD@` for a proxy [before](Self::before) a server that has one.
    pub fn url(&self) -> String {
        format!("redis://{}{}", self.userinfo, self.address())
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The port of the proxy. It stays the same, and nobody else gets it while connections are refused.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Forwards everything, as at the beginning. What was kept back arrives at once, in order.
    pub fn pass(&self) {
        self.obey(Mode::Pass);
    }

    /// Adds `latency` to every round trip, all of it on the way to the server: a request is executed so much
    /// later, a reply or a published message comes at once. Any number of requests can be under way.
    pub fn delay(&self, latency: Duration) {
        self.obey(Mode::Delay(latency));
    }

    /// Keeps back everything, both ways, as a network does that pauses.
    pub fn hold(&self) {
        self.obey(Mode::Hold);
    }

    /// Swallows requests. What the server says by itself, such as published messages, arrives.
    pub fn drop_requests(&self) {
        self.obey(Mode::DropRequests);
    }

    /// Swallows replies: requests are executed, and nobody learns it.
    pub fn drop_replies(&self) {
        self.obey(Mode::DropReplies);
    }

    /// Makes the connections that exist now half-open: bytes are swallowed both ways, and neither side learns of
    /// the other's end. New connections are healthy, as after a firewall that forgot its state, or a failover.
    pub fn half_open(&self) {
        self.change(|relay| {
            relay.set_existing(Mode::DropBoth);
            relay.set_arrivals(Arrivals::Welcome(Mode::Pass));
        });
    }

    /// Swallows all bytes both ways, on new connections as well. Connecting still works.
    pub fn black_hole(&self) {
        self.obey(Mode::DropBoth);
    }

    /// Resets (RST) all connections there are, on both sides, once. Behaviour does not change otherwise.
    pub fn reset(&self) {
        self.change(Relay::reset_existing);
    }

    /// Resets each new connection when it is accepted. The server does not hear of it.
    pub fn reset_each_new(&self) {
        self.change(|relay| relay.set_arrivals(Arrivals::Reset));
    }

    /// Resets a connection, on both sides, when a client sends anything over it; the server does not get it.
    /// Connecting works, and so does a connection that stays idle.
    pub fn reset_on_request(&self) {
        self.obey(Mode::ResetOnRequest);
    }

    /// Passes on the end of a connection, from either side, only `late` after it came, and all bytes at once.
    ///
    /// Until then a connection whose server has gone looks open to its client, and requests on it vanish. Then the
    /// client gets an end of file (a half-close): it can still write until it closes the connection itself.
    pub fn slow_close(&self, late: Duration) {
        self.obey(Mode::SlowClose(late));
    }

    /// Closes all connections (FIN), and refuses new ones as a host does on which no server runs.
    pub fn refuse(&self) {
        self.change(Relay::shut);
    }

    /// Leads connections that come to `server`, and keeps those that exist where they are: a stable address after a
    /// failover. Behaviour does not change otherwise.
    ///
    /// # Panics
    ///
    /// When the server has a unix socket only.
    pub fn lead_to(&self, server: &RedisServer) {
        let upstream = resolved(server.address());
        self.change(|relay| relay.set_upstream(upstream));
    }

    /// How many connections were accepted since the proxy was made, those included that were reset at once.
    pub fn connections(&self) -> usize {
        let mut relay = self.relay();
        relay.pump();
        relay.accepted()
    }

    /// How many connections clients hold open now. One that the client closed does not count, even if the server
    /// does not know yet; one whose server has gone counts until the client closes it.
    pub fn open_connections(&self) -> usize {
        let mut relay = self.relay();
        relay.pump();
        relay.held_by_clients()
    }

    #[track_caller]
    fn start(upstream: impl ToSocketAddrs, userinfo: String) -> Self {
        let upstream = resolved(upstream);
        let port = ReservedPort::any();
        let number = port.number();
        let poller = Arc::new(Poller::new());
        let relay = Arc::new(Mutex::new(Relay::new(port, upstream, Arc::clone(&poller))));
        let thread = thread::Builder::new()
            .name(format!("proxy-{number}"))
            .spawn({
                let (relay, poller) = (Arc::clone(&relay), Arc::clone(&poller));
                move || run(&relay, &poller)
            })
            .unwrap_or_else(|error| panic!("cannot start the proxy's thread: {error}"));
        Self { port: number, userinfo, relay, poller, thread: Some(thread) }
    }

    /// The same mode for all connections, those that exist and those that come.
    fn obey(&self, mode: Mode) {
        self.change(|relay| {
            relay.set_existing(mode);
            relay.set_arrivals(Arrivals::Welcome(mode));
        });
    }

    fn change(&self, change: impl FnOnce(&mut Relay)) {
        let mut relay = self.relay();
        // Between the kernel's buffers and the proxy there is no old and new: empty them under the old rules.
        relay.pump();
        change(&mut relay);
        relay.pump();
        drop(relay);
        // The next delivery may be due at another time than the thread is waiting for.
        self.poller.wake();
    }

    fn relay(&self) -> MutexGuard<'_, Relay> {
        lock(&self.relay)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // As a change, because a socket with unread bytes would be closed by RST.
        self.change(Relay::close);
        if let Some(thread) = self.thread.take() {
            // A panic in it has printed its message already.
            let _ = thread.join();
        }
    }
}

#[track_caller]
fn resolved(upstream: impl ToSocketAddrs) -> SocketAddr {
    match upstream.to_socket_addrs().map(|mut addresses| addresses.next()) {
        Ok(Some(address)) => address,
        Ok(None) => panic!("the proxy's upstream has no address"),
        Err(error) => panic!("the proxy's upstream has no address: {error}"),
    }
}

/// The proxy's thread: moves bytes whenever there are some, and whenever some are due.
fn run(relay: &Mutex<Relay>, poller: &Poller) {
    loop {
        let mut relay = lock(relay);
        if relay.is_closed() {
            return;
        }
        let next = relay.pump();
        drop(relay);
        poller.wait(next);
    }
}

fn lock(relay: &Mutex<Relay>) -> MutexGuard<'_, Relay> {
    // A panic in one thread must not keep another from closing the connections.
    relay.lock().unwrap_or_else(PoisonError::into_inner)
}
