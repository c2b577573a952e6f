//! Making a connection, and having its server say who it is before it is used.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{PushKind, Value};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use super::address::Address;
use super::client::Command;
use super::facts::{self, Facts};
use super::first_bytes::FirstBytes;
use super::link::{Live, Shared};
use super::pushes::Channels;
use super::replies::{connect_fault, is_wordless, socket_fault, speaks_tls_fault, text};
use super::scripts;
use super::stream::{Stream, speaks_tls};
use crate::node::NodeFault;

/// How long connecting may take before it is given up and tried anew. Callers have shorter deadlines of their own.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// While connecting is silent, it is begun anew beside it this often. Where packets are lost, an attempt may never be
/// answered though the server is back.
pub(super) const DIAL_AGAIN: Duration = Duration::from_millis(500);

/// So many attempts at once: each may cost what a server's first replies cost. The first goes on, and of the others the newest.
const DIALS: usize = 3;

/// How many requests may be queued for the connection before the next has to wait for its turn to be queued.
const QUEUE: usize = 1024;

/// The task that moves a connection's bytes. It ends with whatever owns this.
pub(super) struct ConnectionDriver(AbortHandle);

impl Drop for ConnectionDriver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A new connection, what learns of its end, and what its server said of itself.
pub(super) struct Dialled {
    pub(super) live: Arc<Live>,
    pub(super) is_gone: watch::Receiver<bool>,
    pub(super) facts: Option<Facts>,
}

impl Shared {
    pub(super) async fn dial_until_answered(self: &Arc<Self>) -> Result<Dialled, NodeFault> {
        self.is_connected.store(false, Ordering::Relaxed);
        let in_time = async {
            let mut dialling = JoinSet::new();
            let mut attempts = VecDeque::<AbortHandle>::with_capacity(DIALS);
            loop {
                if attempts.len() == DIALS
                    && let Some(attempt) = attempts.remove(1)
                {
                    // The first goes on: it may be that the server is far away.
                    attempt.abort();
                }
                attempts.push_back(dialling.spawn(Arc::clone(self).dial()));
                let again = tokio::time::sleep(DIAL_AGAIN);
                let mut again = pin!(again);
                loop {
                    tokio::select! {
                        biased;
                        Some(dialled) = dialling.join_next() => match dialled {
                            Ok(dialled) => return dialled,
                            Err(error) if error.is_cancelled() && attempts.len() == DIALS => {}
                            Err(_) => return Err(NodeFault::unreachable("the runtime is ending")),
                        },
                        () = &mut again => break,
                    }
                }
            }
        };
        let silent = |_| {
            Err(NodeFault::unreachable(match self.is_connected.load(Ordering::Relaxed) {
                true => format!(
                    "it takes connections and says nothing within {CONNECT_TIMEOUT:?}; does it hang, or is it a Redis?"
                ),
                false => format!("no connection within {CONNECT_TIMEOUT:?}"),
            }))
        };
        tokio::time::timeout(CONNECT_TIMEOUT, in_time).await.unwrap_or_else(silent)
    }

    /// Connects once, and has the server say who it is.
    async fn dial(self: Arc<Self>) -> Result<Dialled, NodeFault> {
        let (gone, is_gone) = watch::channel(false);
        // The caller's deadline is the only one for a request; the redis crate must not add its own.
        let pushes = Arc::clone(&self.pushes);
        let config = redis::AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None)
            .set_pipeline_buffer_size(QUEUE)
            .set_push_sender(move |push: redis::PushInfo| {
                match (push.kind, push.data.as_slice()) {
                    (PushKind::Disconnection, _) => _ = gone.send_replace(true),
                    (
                        PushKind::Message | PushKind::SMessage,
                        [Value::BulkString(channel), Value::BulkString(payload)],
                    ) => pushes.message(&String::from_utf8_lossy(channel), payload),
                    _ => {}
                }
                Ok::<(), redis::aio::SendError>(())
            });
        let Address { place, login, account, .. } = &self.address;
        let first = FirstBytes::default();
        let stream = Stream::open(place, &first).await;
        let stream = stream.map_err(|error| socket_fault(&error, &first.read(), place.has_tls(), account))?;
        let excess = stream.excess();
        self.is_connected.store(true, Ordering::Relaxed);
        let (connection, driver) = match MultiplexedConnection::new_with_config(login, stream, config).await {
            Ok(connected) => connected,
            Err(error) if is_wordless(&error, &first.read()) && speaks_tls(place).await => {
                return Err(speaks_tls_fault());
            }
            Err(error) => return Err(connect_fault(&error, &first.read(), place.has_tls(), account)),
        };
        let driver = ConnectionDriver(tokio::spawn(driver).abort_handle());
        let ask = |command: Command| {
            let mut connection = connection.clone();
            async move { connection.send_packed_command(command.as_redis()).await }
        };
        // Undo must not need a second trip to teach the server how: a client that is about to end, or that the server
        // answers only after a pause, would not be there to make it. Where the user may not load scripts, EVAL still
        // teaches them.
        let [server, replication, memory] = Facts::questions();
        let (server, replication, memory, ..) = tokio::join!(
            ask(server),
            ask(replication),
            ask(memory),
            ask(scripts::RELEASE.load()),
            // One trip less in which what is given up could be overtaken by its release.
            ask(scripts::ENTER.load()),
        );
        let answers = [text(server, account)?, text(replication, account)?, text(memory, account)?];
        if let Some(fault) = facts::no_store(&answers[0]) {
            return Err(fault);
        }
        // Where the server refuses to speak of itself, nothing is known of this incarnation.
        let facts = Facts::read(&answers, Instant::now());
        let (spare_requests, silent_requests, channels) =
            (Mutex::default(), AtomicU32::new(0), Channels::default());
        let since = Instant::now();
        let live =
            Live { connection, spare_requests, silent_requests, channels, since, excess, _driver: driver };
        let live = Arc::new(live);
        Ok(Dialled { live, is_gone, facts })
    }
}
