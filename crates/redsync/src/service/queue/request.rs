//! Places that are asked for, on their way to one node.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::state::Waiting;
use crate::error::NodeError;
use crate::events::RequestKind;
use crate::leases::{Core, RequestNumber};
use crate::node::{Entered, Node, NodeFault, Place, Placed, Uptime};
use crate::protocol::{Instant, Ticket, Token};

/// A place that is being asked for.
pub(super) struct Asking {
    pub(super) waiting: Arc<Waiting>,
    pub(super) ticket: Ticket,
    pub(super) number: RequestNumber,
    pub(super) sent: Instant,
}

impl Asking {
    pub(super) fn token(&self) -> &Token {
        &self.waiting.leases.config.claim.token
    }

    fn place(&self) -> Place {
        self.waiting.leases.place(self.ticket, self.number)
    }
}

/// What a node said to a request for places, and since when it remembers what it granted.
pub(super) type Returned = Result<(Entered, Uptime), NodeError>;

/// A request for places on its way to one node.
pub(super) struct Request {
    pub(super) index: usize,
    pub(super) what: RequestKind,
    pub(super) asked: Vec<Asking>,
    returned: Pin<Box<dyn Future<Output = Returned> + Send>>,
    is_answered: bool,
}

/// What one node was asked.
#[derive(Clone, Copy)]
pub(super) struct Question<'a> {
    pub(super) index: usize,
    pub(super) what: RequestKind,
    pub(super) asked: &'a [Asking],
}

impl Question<'_> {
    pub(super) const fn is_yielding(self) -> bool {
        matches!(self.what, RequestKind::Yield)
    }
}

impl Request {
    pub(super) fn question(&self) -> Question<'_> {
        Question { index: self.index, what: self.what, asked: &self.asked }
    }

    pub(super) fn new(core: &Core, index: usize, what: RequestKind, asked: Vec<Asking>) -> Self {
        let places: Vec<Place> = asked.iter().map(Asking::place).collect();
        let timeout = asked.iter().map(|asked| asked.waiting.leases.config.request_timeout.as_duration());
        let timeout = timeout.max().unwrap_or_default();
        let is_guarded = asked.iter().any(|asked| asked.waiting.leases.config.restart_guard);
        let (node, client) = (Arc::clone(&core.nodes[index]), core.waiters.client.clone());
        let deadline = core.clock.sleep_until(core.clock.now() + timeout);
        let returned = async move {
            let answer = async {
                let entered = match what {
                    RequestKind::Yield => node.yield_lease(&client, &places[0]).await?,
                    _ => node.enter(&client, &places).await?,
                };
                if entered.places.len() != places.len() {
                    return Err(NodeFault::nonsense("the node answered for another number of places"));
                }
                Ok((entered.clone(), uptime_after(&*node, &entered, is_guarded).await))
            };
            tokio::select! {
                biased;
                answer = answer => answer.map_err(|source| NodeError::Failed { node: node.to_string(), source }),
                () = deadline => Err(NodeError::Timeout { node: node.to_string(), after: timeout }),
            }
        };
        Self { index, what, asked, returned: Box::pin(returned), is_answered: false }
    }

    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Returned> {
        let returned = self.returned.as_mut().poll(context);
        self.is_answered |= returned.is_ready();
        returned
    }
}

/// Nobody will hear the answer: its runtime has ended.
impl Drop for Request {
    fn drop(&mut self) {
        if !self.is_answered && matches!(self.what, RequestKind::Yield) {
            for asked in &self.asked {
                asked.waiting.leases.yield_lost(self.index);
                asked.waiting.changed.notify_one();
            }
        }
    }
}

/// Since when the node remembers: asked after it granted something, where that matters.
async fn uptime_after(node: &dyn Node, entered: &Entered, is_guarded: bool) -> Uptime {
    match is_guarded && entered.places.iter().any(|placed| matches!(placed, Placed::Granted(_))) {
        true => node.uptime().await.unwrap_or(Uptime::Unknown),
        false => Uptime::Unbroken,
    }
}
