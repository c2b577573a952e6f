//! One connection to one server, kept healthy.
//!
//! All requests of a node share one multiplexed RESP3 connection. One task connects at a time; callers wait for it
//! as long as their own deadlines allow, and fail fast while the server is known to be down. A connection that
//! leaves requests unanswered is replaced. Nothing is ever sent twice.

use std::error::Error;
use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rand::RngExt;
use redis::aio::MultiplexedConnection;
use redis::{ErrorKind, RedisError, Value};
use tokio::sync::watch;

use super::address::Address;
use super::client::{Command, Reply};
use crate::node::NodeFault;

/// How long connecting may take before it is given up and tried anew. Callers have shorter deadlines of their own.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// After a failed connect, callers fail at once for this long; doubled for each further failure, with jitter.
const BACKOFF_LEAST: Duration = Duration::from_millis(20);
const BACKOFF_MOST: Duration = Duration::from_millis(500);

/// How many requests may be queued for the connection before the next has to wait for its turn to be queued.
const QUEUE: usize = 1024;

/// A request that is given up unanswered after this long counts as a sign of a dead connection.
const SILENCE: Duration = Duration::from_millis(40);

/// So many such requests in a row, with no answer in between, and the connection is replaced.
const SILENT_REQUESTS: u32 = 2;

pub(super) struct Link {
    shared: Arc<Shared>,
}

struct Shared {
    address: Address,
    state: Mutex<State>,
    silent_requests: AtomicU32,
}

enum State {
    /// Nobody has asked yet, or the connection was given up.
    Idle,
    /// A task connects. The receiver learns when it is done.
    Connecting(watch::Receiver<()>),
    Up {
        connection: MultiplexedConnection,
        epoch: u64,
    },
    Down {
        fault: NodeFault,
        failures: u32,
        retry_at: Instant,
    },
}

impl Link {
    pub(super) fn new(address: Address) -> Self {
        let shared = Shared { address, state: Mutex::new(State::Idle), silent_requests: AtomicU32::new(0) };
        Self { shared: Arc::new(shared) }
    }

    /// The connection as it is; made first if there is none.
    async fn connection(&self) -> Result<(MultiplexedConnection, u64), NodeFault> {
        loop {
            let mut connecting = {
                let mut state = self.shared.state();
                match &*state {
                    State::Up { connection, epoch } => return Ok((connection.clone(), *epoch)),
                    State::Down { fault, retry_at, .. } if Instant::now() < *retry_at => {
                        return Err(fault.clone());
                    }
                    // A runtime that ended takes its connecting task with it; its sender is gone then.
                    State::Connecting(done) if done.has_changed().is_ok() => done.clone(),
                    State::Idle | State::Down { .. } | State::Connecting(_) => {
                        let failures = if let State::Down { failures, .. } = &*state { *failures } else { 0 };
                        let (finished, done) = watch::channel(());
                        *state = State::Connecting(done.clone());
                        tokio::spawn(Arc::clone(&self.shared).connect(failures, finished));
                        done
                    }
                }
            };
            // An error means that the task is gone, finished or not: look again.
            let _ = connecting.changed().await;
        }
    }
}

impl Shared {
    async fn connect(self: Arc<Self>, failures: u32, finished: watch::Sender<()>) {
        // The caller's deadline is the only one for a request; the redis crate must not add its own.
        let config = redis::AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None)
            .set_pipeline_buffer_size(QUEUE);
        let connecting = self.address.client.get_multiplexed_async_connection_with_config(&config);
        let state = match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(Ok(connection)) => {
                self.silent_requests.store(0, Ordering::Relaxed);
                State::Up { connection, epoch: next_epoch() }
            }
            Ok(Err(error)) => down(connect_fault(error), failures),
            Err(_) => {
                down(NodeFault::unreachable(format!("no connection within {CONNECT_TIMEOUT:?}")), failures)
            }
        };
        *self.state() = state;
        drop(finished);
    }

    /// Gives the connection of `epoch` up; the next caller makes a new one.
    fn replace(&self, epoch: u64) {
        let mut state = self.state();
        if matches!(&*state, State::Up { epoch: current, .. } if *current == epoch) {
            *state = State::Idle;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Link {
    /// Sends `command` once; see [`Client::execute`](super::client::Client::execute).
    pub(super) async fn execute(&self, command: Command) -> Result<Reply, NodeFault> {
        let (mut connection, epoch) = self.connection().await?;
        let mut unanswered = Unanswered { shared: &self.shared, epoch, since: Some(Instant::now()) };
        let reply = connection.send_packed_command(command.as_redis()).await;
        unanswered.since = None;
        match reply {
            Ok(value) => {
                if self.shared.silent_requests.load(Ordering::Relaxed) > 0 {
                    self.shared.silent_requests.store(0, Ordering::Relaxed);
                }
                reply_from(value)
            }
            Err(error) => {
                self.shared.replace(epoch);
                Err(disconnect_fault(error))
            }
        }
    }
}

/// A request on its way. Dropped before its answer, and not at once, it bears witness against its connection: a
/// half-open one would otherwise time out for ever and never be replaced.
struct Unanswered<'a> {
    shared: &'a Shared,
    epoch: u64,
    since: Option<Instant>,
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if self.since.is_some_and(|since| since.elapsed() >= SILENCE) {
            let silent = self.shared.silent_requests.fetch_add(1, Ordering::Relaxed) + 1;
            if silent >= SILENT_REQUESTS {
                self.shared.silent_requests.store(0, Ordering::Relaxed);
                self.shared.replace(self.epoch);
            }
        }
    }
}

fn next_epoch() -> u64 {
    static EPOCH: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
    EPOCH.fetch_add(1, Ordering::Relaxed)
}

fn down(fault: NodeFault, failures: u32) -> State {
    let most = BACKOFF_LEAST.saturating_mul(1 << failures.min(10)).min(BACKOFF_MOST);
    let backoff = rand::rng().random_range(most / 2..=most);
    State::Down { fault, failures: failures.saturating_add(1), retry_at: Instant::now() + backoff }
}

/// Whatever goes wrong before a request is sent leaves it unapplied.
fn connect_fault(error: RedisError) -> NodeFault {
    if let Some(code) = error.code()
        && !matches!(error.kind(), ErrorKind::Io)
    {
        return refused(code, error.detail().unwrap_or_default(), error.clone());
    }
    if matches!(error.kind(), ErrorKind::AuthenticationFailed) {
        let said = error.detail().unwrap_or("no reason given").to_owned();
        return NodeFault::refused("WRONGPASS", format!("wrong user or password ({said})"))
            .with_source(error);
    }
    let cause = cause_of(&error);
    let hint = match cause.contains("CertificateRequired") {
        true => "; give it a client certificate: cert=FILE&key=FILE",
        false => "",
    };
    NodeFault::unreachable(format!("cannot connect: {cause}{hint}")).with_source(error)
}

fn disconnect_fault(error: RedisError) -> NodeFault {
    NodeFault::disconnected(format!("the connection broke: {}", cause_of(&error))).with_source(error)
}

/// The innermost cause in plain words, without the operating system's error number.
fn cause_of(error: &RedisError) -> String {
    let mut innermost: &dyn Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    let text = innermost.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    match letters.next() {
        Some(first)
            if !text.starts_with(|c: char| c.is_uppercase() && text[1..].starts_with(char::is_uppercase)) =>
        {
            first.to_lowercase().chain(letters).collect()
        }
        _ => text.to_owned(),
    }
}

fn refused(code: &str, detail: &str, error: RedisError) -> NodeFault {
    let said = format!("{code} {detail}");
    let said = said.trim();
    let message = match code {
        "WRONGTYPE" => format!("the key of this name holds something else than a lock ({said})"),
        "READONLY" => format!("this server is a read-only replica; name its primary instead ({said})"),
        "OOM" => format!("the server is out of memory ({said})"),
        "LOADING" => format!("the server is still loading its data ({said})"),
        "NOAUTH" => format!("the server wants a password ({said})"),
        "WRONGPASS" => format!("wrong user or password ({said})"),
        "NOPERM" => format!("the user lacks a permission ({said})"),
        "MISCONF" => format!("the server cannot write to its disk ({said})"),
        _ => format!("the server refused ({said})"),
    };
    NodeFault::refused(code, message).with_source(error)
}

fn reply_from(value: Value) -> Result<Reply, NodeFault> {
    match value {
        Value::Nil => Ok(Reply::Nil),
        Value::Int(number) => Ok(Reply::Int(number)),
        Value::Boolean(yes) => Ok(Reply::Int(yes.into())),
        Value::BulkString(bytes) => Ok(Reply::Text(bytes)),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => Ok(Reply::Text(text.into_bytes())),
        Value::Okay => Ok(Reply::Text(b"OK".to_vec())),
        Value::Array(values) | Value::Set(values) => {
            Ok(Reply::Array(values.into_iter().map(reply_from).collect::<Result<_, _>>()?))
        }
        Value::ServerError(error) => {
            let code = error.code().to_owned();
            let detail = error.details().unwrap_or_default().to_owned();
            Err(refused(&code, &detail, RedisError::from(error)))
        }
        other => Err(NodeFault::nonsense(format!("the server sent {other:?}"))),
    }
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
