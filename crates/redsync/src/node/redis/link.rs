//! One connection to one server, kept healthy.
//!
//! All requests of a node share one multiplexed RESP3 connection. One task connects at a time; callers wait for it
//! as long as their own deadlines allow, and fail fast while the server is known to be down. A connection that
//! leaves requests unanswered is replaced. So is one whose server refuses to write, and may have been demoted. Nothing is
//! sent twice here.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use rand::RngExt;
use redis::aio::MultiplexedConnection;
use redis::{ServerError, Value};
use tokio::sync::watch;

use super::account::Account;
use super::address::Address;
use super::client::{Command, Reply};
use super::dial::{CONNECT_TIMEOUT, ConnectionDriver, DIAL_AGAIN, Dialled};
use super::facts::{Facts, Seen};
use super::pushes::{Channels, Pushes};
use super::replies::{disconnect_fault, reply_from};
use super::reply_limit::TOO_LARGE;
use super::reusable_request::ReusableRequest;
use super::stream::Excess;
use crate::node::{Answer, NodeFault};
use crate::{clock, events, protocol};

/// While a server is known to be down, how long callers wait for it to be back: long enough to connect to one that is
/// near.
const RECONNECT_GRACE: Duration = Duration::from_millis(30);

/// After a failed connect, callers fail at once for this long; doubled for each further failure, with jitter.
const BACKOFF_LEAST: Duration = Duration::from_millis(20);
const BACKOFF_MOST: Duration = Duration::from_millis(500);

/// How many spare requests of a connection are kept, of some 1.5 kB each.
const SPARE_REQUESTS: usize = 128;

/// A request that is given up unanswered after this long counts as a sign of a dead connection.
const SILENCE: Duration = Duration::from_millis(40);

/// So many such requests in a row, with no answer in between, and the connection is replaced.
const SILENT_REQUESTS: u32 = 2;

/// A connection that ends is replaced at once, so many times in a row; and in the long run this often at most: a server may
/// accept connections and break each.
const REPLACED_AT_ONCE: u32 = 32;
const REPLACED_EVERY: Duration = Duration::from_millis(100);

/// A server that refuses to write may have been demoted, and its name lead elsewhere by now: its connection is given up.
/// Where the next server refuses, too, its connection is kept for the least pause, the next one for twice as long, and so on.
const DEMOTED_LEAST: Duration = Duration::from_millis(250);
const DEMOTED_MOST: Duration = Duration::from_secs(1);

/// A refusal after so long is the first of its kind, whatever came before.
const DEMOTED_ANEW: Duration = Duration::from_secs(30);

pub(super) struct Link {
    shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) address: Address,
    state: Mutex<State>,
    /// What the server last connected to said of itself. Set before the connection is used.
    seen: Seen,
    /// Who is told of what the server publishes.
    pub(super) pushes: Arc<Pushes>,
    /// How many times connecting was begun.
    connects: AtomicU64,
    /// Whether the server has taken a connection since connecting was begun.
    pub(super) is_connected: AtomicBool,
    /// When all replacements so far will be as long ago as they have to be.
    replaced: Mutex<Option<Instant>>,
    /// How many connections in a row were given up because their server refused to write.
    demotions: AtomicU32,
}

/// A connection that stands, as far as is known.
pub(super) struct Live {
    pub(super) connection: MultiplexedConnection,
    /// Those that have nothing to carry.
    pub(super) spare_requests: Mutex<Vec<ReusableRequest>>,
    /// Requests in a row that were given up unanswered.
    pub(super) silent_requests: AtomicU32,
    pub(super) channels: Channels,
    pub(super) since: Instant,
    pub(super) excess: Excess,
    pub(super) _driver: ConnectionDriver,
}

enum State {
    /// Nobody has asked yet, or the connection was given up.
    Idle,
    /// A task connects.
    Connecting {
        /// Learns when it is done.
        done: watch::Receiver<()>,
        /// Why it failed the last time, where it did.
        failed: Option<NodeFault>,
        since: Instant,
        number: u64,
    },
    Up(Arc<Live>),
    Down {
        fault: NodeFault,
        failures: u32,
        retry_at: Instant,
    },
}

impl Link {
    pub(super) fn new(address: Address, pushes: Arc<Pushes>) -> Self {
        let (state, seen, connects) = (Mutex::new(State::Idle), Seen::default(), AtomicU64::new(0));
        let (replaced, demotions) = (Mutex::default(), AtomicU32::new(0));
        let is_connected = AtomicBool::new(false);
        let shared = Shared { address, state, seen, pushes, connects, is_connected, replaced, demotions };
        Self { shared: Arc::new(shared) }
    }

    /// The connection, if there is one.
    fn live(&self) -> Option<Arc<Live>> {
        match &*self.shared.state() {
            State::Up(live) => Some(Arc::clone(live)),
            State::Idle | State::Connecting { .. } | State::Down { .. } => None,
        }
    }

    /// The connection; made first where there is none.
    async fn connection(&self) -> Result<Arc<Live>, NodeFault> {
        let mut has_tried = false;
        loop {
            let (mut connecting, failed) = {
                let mut state = self.shared.state();
                match &*state {
                    State::Up(live) => return Ok(Arc::clone(live)),
                    State::Down { fault, retry_at, .. } if Instant::now() < *retry_at => {
                        return Err(fault.clone());
                    }
                    // A runtime that ended takes its connecting task with it; its sender is gone then.
                    // One that takes for ever stands still with its runtime.
                    State::Connecting { done, failed, since, .. }
                        if done.has_changed().is_ok() && since.elapsed() < CONNECT_TIMEOUT + DIAL_AGAIN =>
                    {
                        (done.clone(), failed.clone())
                    }
                    // One that ends drops what it is given, this task's own attempt too.
                    State::Connecting { .. } if has_tried => {
                        *state = State::Idle;
                        return Err(NodeFault::unreachable("the runtime is ending"));
                    }
                    State::Idle | State::Down { .. } | State::Connecting { .. } => {
                        let (failed, failures) = match &*state {
                            State::Down { fault, failures, .. } => (Some(fault.clone()), *failures),
                            _ => (None, 0),
                        };
                        let (finished, done) = watch::channel(());
                        has_tried = true;
                        let (since, number) = (Instant::now(), self.shared.next_number());
                        *state =
                            State::Connecting { done: done.clone(), failed: failed.clone(), since, number };
                        tokio::spawn(Arc::clone(&self.shared).connect(number, failures, finished));
                        (done, failed)
                    }
                }
            };
            // An error means that the task is gone, finished or not: look again.
            let connected = connecting.changed();
            match failed {
                None => _ = connected.await,
                Some(fault) => match tokio::time::timeout(RECONNECT_GRACE, connected).await {
                    Ok(_) => {}
                    Err(_) => return Err(fault),
                },
            }
        }
    }
}

impl Live {
    fn request(&self) -> ReusableRequest {
        let kept = self.spare_requests().pop();
        kept.unwrap_or_else(|| ReusableRequest::new(self.connection.clone()))
    }

    fn keep(&self, request: ReusableRequest) {
        let mut spare_requests = self.spare_requests();
        if spare_requests.len() < SPARE_REQUESTS {
            spare_requests.push(request);
        }
    }

    fn spare_requests(&self) -> MutexGuard<'_, Vec<ReusableRequest>> {
        self.spare_requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    async fn connect(self: Arc<Self>, number: u64, failures: u32, finished: watch::Sender<()>) {
        let dialled = self.dial_until_answered().await;
        let (dialled, is_ours) = {
            let mut state = self.state();
            // One that stood still for long may find another in its place.
            let is_ours = matches!(&*state, State::Connecting { number: present, .. } if *present == number);
            if is_ours {
                *state = match &dialled {
                    Ok(Dialled { live, facts, .. }) => {
                        self.seen.note(facts.clone());
                        State::Up(Arc::clone(live))
                    }
                    Err(fault) => down(fault.clone(), failures),
                };
            }
            (dialled, is_ours)
        };
        drop(finished);
        if !is_ours {
            return;
        }
        self.tell(&dialled, failures);
        if let Ok(Dialled { live, is_gone, .. }) = dialled {
            // Whoever waits, and has not been able to ask, need not wait any longer to do so.
            self.pushes.interrupted();
            // Its own task lives in this runtime, too: if that ends, so does the connection.
            let end = GivenUp { shared: Arc::downgrade(&self), live: Arc::downgrade(&live) };
            tokio::spawn(watch_over(end, is_gone));
        }
    }

    fn next_number(&self) -> u64 {
        self.connects.fetch_add(1, Ordering::Relaxed)
    }

    /// Says when a server is lost, and when it is back; not each time that it is still lost.
    fn tell(&self, dialled: &Result<Dialled, NodeFault>, failures: u32) {
        let node = &self.address.label;
        match dialled {
            Ok(Dialled { facts, .. }) => {
                events::connected(node, failures, facts.as_ref().map_or(&[], |facts| &facts.health_warnings));
            }
            Err(fault) if failures == 0 => events::unreachable(node, fault),
            Err(_) => {}
        }
    }

    /// Gives a connection up, for this reason where it is known; the next caller makes a new one.
    fn replace(&self, gone: &Arc<Live>, why: Option<&NodeFault>) {
        {
            let mut state = self.state();
            if !matches!(&*state, State::Up(live) if Arc::ptr_eq(live, gone)) {
                return;
            }
            *state = match self.too_soon() {
                None => State::Idle,
                Some(retry_at) => {
                    let why = why.map(|fault| format!(": {fault}")).unwrap_or_default();
                    let fault = NodeFault::unreachable(format!("{AGAIN_AND_AGAIN}{why}"));
                    State::Down { fault, failures: 0, retry_at }
                }
            };
            self.seen.note_end();
        }
        self.pushes.interrupted();
    }

    /// Takes down that a connection is replaced; where that is too often, gives the time until which it has to wait.
    fn too_soon(&self) -> Option<Instant> {
        let mut replaced = self.replaced.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let paid = replaced.map_or(now, |paid| paid.max(now)) + REPLACED_EVERY;
        *replaced = Some(paid);
        let wait = paid.saturating_duration_since(now).checked_sub(REPLACED_EVERY * REPLACED_AT_ONCE)?;
        Some(now + wait)
    }

    /// The server refused to write, and so it may have been demoted. Connections to it may go on for ever, though its name,
    /// or a proxy's address, leads to another by now: has the next caller connect anew.
    fn refused_to_write(&self, live: &Arc<Live>) {
        let age = live.since.elapsed();
        let demotions = match age >= DEMOTED_ANEW {
            true => 0,
            false => self.demotions.load(Ordering::Relaxed),
        };
        let pause = match demotions {
            0 => Duration::ZERO,
            more => DEMOTED_LEAST.saturating_mul(1 << (more - 1).min(10)).min(DEMOTED_MOST),
        };
        if age < pause || !matches!(&*self.state(), State::Up(present) if Arc::ptr_eq(present, live)) {
            return;
        }
        self.demotions.store(demotions.saturating_add(1), Ordering::Relaxed);
        self.replace(live, None);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Link {
    /// Who we are on the server.
    pub(super) fn account(&self) -> &Account {
        &self.shared.address.account
    }

    /// What the server says of itself; connected to first where it is not yet. `None` where it refuses.
    pub(super) async fn facts(&self) -> Result<Option<Arc<Facts>>, NodeFault> {
        if self.live().is_none() {
            self.connection().await?;
        }
        Ok(self.known_facts())
    }

    /// Whether a request that was refused so is to be made again: its connection has been given up since the server may have
    /// been demoted, and the next one may lead to another. The refusal is certain: nothing was applied.
    pub(super) fn leads_elsewhere(&self, fault: &NodeFault) -> bool {
        fault.code().is_some_and(|code| DEMOTED.contains(&code)) && self.live().is_none()
    }

    /// Has the server say anew who it is, the next time that it is needed: it may have been promoted under its connection.
    pub(super) fn ask_again(&self) {
        if let Some(live) = self.live() {
            self.shared.replace(&live, None);
        }
    }

    /// What the server last connected to said of itself.
    pub(super) fn known_facts(&self) -> Option<Arc<Facts>> {
        self.shared.seen.last()
    }

    /// Subscribes on the present connection, unless that is done already; false where the user may not. What is sent after
    /// it by a caller that awaited it is sent on this connection or a later one, on which it has to be done again.
    pub(super) async fn subscribe(&self, verb: &str, channel: &str) -> Result<bool, NodeFault> {
        let live = match self.live() {
            Some(live) => live,
            None => Box::pin(self.connection()).await?,
        };
        let subscribing = || async {
            let subscribe = Command::new(verb).arg(channel);
            match Exchange::begin(&self.shared, Arc::clone(&live), subscribe).await? {
                Value::ServerError(_) => Ok(false),
                _ => Ok(true),
            }
        };
        live.channels.subscribe(channel, subscribing).await
    }

    /// Sends `command` once; see [`Client::execute`](super::client::Client::execute).
    pub(super) fn execute(&self, command: Command) -> Executing<'_> {
        match self.live() {
            Some(live) => Executing::Link(Exchange::begin(&self.shared, live, command)),
            None => Executing::Boxed(Box::pin(async move {
                let live = self.connection().await?;
                let value = Exchange::begin(&self.shared, live, command).await?;
                reply_from(value, &self.shared.address.account)
            })),
        }
    }
}

/// A command under way.
pub(super) enum Executing<'a> {
    /// By a connection that stands. Written out, and no async function: there are some for each lock, and each is polled
    /// through all that stands around it.
    Link(Exchange<'a>),
    /// By a connection that has to be made first, or by another client.
    Boxed(Answer<'a, Reply>),
}

impl Future for Executing<'_> {
    type Output = Result<Reply, NodeFault>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Self::Link(exchange) => {
                let account = &exchange.shared.address.account;
                Pin::new(exchange).poll(context).map(|value| reply_from(value?, account))
            }
            Self::Boxed(answer) => answer.as_mut().poll(context),
        }
    }
}

/// One command, and what the server says to it.
///
/// Dropped before its answer, and not at once, it bears witness against its connection: a half-open one would otherwise
/// time out for ever and never be replaced.
pub(super) struct Exchange<'a> {
    shared: &'a Shared,
    live: Arc<Live>,
    since: protocol::Instant,
    /// Until the answer is there.
    request: Option<ReusableRequest>,
}

impl<'a> Exchange<'a> {
    fn begin(shared: &'a Shared, live: Arc<Live>, command: Command) -> Self {
        let request = live.request();
        request.give(command);
        Self { shared, live, since: clock::coarse_now(), request: Some(request) }
    }
}

impl Future for Exchange<'_> {
    type Output = Result<Value, NodeFault>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(request) = &mut self.request else {
            unreachable!("a future is not polled any more after it has completed");
        };
        let Poll::Ready(reply) = request.poll_reply(context) else { return Poll::Pending };
        if let Some(request) = self.request.take() {
            self.live.keep(request);
        }
        Poll::Ready(match reply {
            Ok(value) => {
                if self.live.silent_requests.load(Ordering::Relaxed) > 0 {
                    self.live.silent_requests.store(0, Ordering::Relaxed);
                }
                if matches!(&value, Value::ServerError(error) if says_demoted(error)) {
                    self.shared.refused_to_write(&self.live);
                }
                Ok(value)
            }
            Err(error) => {
                let fault = match self.live.excess.has_happened() {
                    true => NodeFault::disconnected(format!("the connection broke: {TOO_LARGE}")),
                    false => disconnect_fault(&error),
                };
                self.shared.replace(&self.live, Some(&fault));
                Err(fault)
            }
        })
    }
}

impl Drop for Exchange<'_> {
    fn drop(&mut self) {
        if self.request.is_some() && clock::coarse_now().saturating_since(self.since) >= SILENCE {
            let silent = self.live.silent_requests.fetch_add(1, Ordering::Relaxed) + 1;
            if silent >= SILENT_REQUESTS {
                self.shared.replace(&self.live, None);
            }
        }
    }
}

/// Gives a connection up as soon as the server has closed it, so that no request is wasted on finding out: servers and
/// balancers close idle connections. Ends with the connection.
async fn watch_over(_end: GivenUp, mut is_gone: watch::Receiver<bool>) {
    // An error means that the connection's own task is gone, which comes to the same.
    let _ = is_gone.wait_for(|gone| *gone).await;
}

/// Gives a connection up when it is dropped.
struct GivenUp {
    shared: Weak<Shared>,
    live: Weak<Live>,
}

impl Drop for GivenUp {
    fn drop(&mut self) {
        if let (Some(shared), Some(live)) = (self.shared.upgrade(), self.live.upgrade()) {
            shared.replace(&live, None);
        }
    }
}

/// What a server answers that cannot write any more, or not now: it is a replica, or has no replicas of its own left, or is
/// loading another's data.
const DEMOTED: [&str; 4] = ["READONLY", "MASTERDOWN", "LOADING", "NOREPLICAS"];

fn says_demoted(error: &ServerError) -> bool {
    DEMOTED.contains(&error.code())
        // Before 7.0, what a command in a script answers is a part of the script's answer.
        || error.details().is_some_and(|details| details.contains("-READONLY ") || details.contains("-NOREPLICAS "))
}

const AGAIN_AND_AGAIN: &str = "the connection broke again and again, soon after it was made";

fn down(fault: NodeFault, failures: u32) -> State {
    let most = BACKOFF_LEAST.saturating_mul(1 << failures.min(10)).min(BACKOFF_MOST);
    let backoff = rand::rng().random_range(most / 2..=most);
    State::Down { fault, failures: failures.saturating_add(1), retry_at: Instant::now() + backoff }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shared.address.label)
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link({self})")
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::mpsc;
    use std::task::Waker;

    use super::*;
    use crate::node::redis::address;

    #[test]
    fn connecting_in_a_runtime_that_has_ended_fails_and_does_not_spin() {
        let (told, result) = mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let handle = runtime.handle().clone();
            drop(runtime);
            let _inside = handle.enter();
            let link = Link::new(address::parse("redis://127.0.0.1:1").unwrap(), Arc::default());
            let polled = pin!(link.connection()).poll(&mut Context::from_waker(Waker::noop()));
            told.send(matches!(polled, Poll::Ready(Err(_)))).unwrap();
        });
        let failed = result.recv_timeout(Duration::from_secs(10)).expect("it ends");
        assert!(failed);
    }
}
