//! One caller's part in a queue.

use std::future::poll_fn;
use std::sync::Arc;

use super::request::{Asking, Request};
use super::state::Waiting;
use super::{CLOCK_MARGIN, Queue};
use crate::error::{Error, NodeError, Operation};
use crate::events::RequestKind;
use crate::fan_out::Count;
use crate::leases::{LeaseSet, RequestNumber, Standing};
use crate::node::Remedy;
use crate::protocol::{Instant, Ticket, Token};

/// One caller's membership of a line; it ends when this is dropped.
pub(crate) struct Waiter {
    queue: Arc<Queue>,
    waiting: Arc<Waiting>,
    token: Token,
    /// It has the lock.
    goes_on_listening: bool,
}

/// How things stand for one who waits.
pub(crate) enum WaitStatus {
    /// The lock is its own.
    Held,
    /// Its time was over before the caller came for it. Another token may get it.
    Over,
    /// This token cannot be relied on any more; another may get it.
    NeedsNewToken,
    /// It is to wait on, and to look again then.
    Waiting(Instant),
    /// No quorum of nodes could be reached for too long, or waiting does not help.
    Unreachable(Error),
}

impl Waiter {
    /// Joins `line` with a ticket that was drawn at `drawn`.
    pub(in crate::service) fn join(
        queue: &Arc<Queue>,
        leases: &Arc<LeaseSet>,
        ticket: Ticket,
        drawn: Instant,
    ) -> Self {
        leases.expect_grants();
        let (token, now) = (leases.config.claim.token.clone(), leases.core.clock.now());
        let waiting = queue.lock().admit(leases, ticket, drawn, now);
        Self { queue: Arc::clone(queue), waiting, token, goes_on_listening: false }
    }

    /// Makes sure that somebody renews its place. False where there is no runtime to do it in.
    pub(crate) fn attend(&self) -> bool {
        self.queue.attend(&self.waiting.leases.core)
    }

    /// Takes down what nodes said to a first question, asked at `began`, that was not about a place.
    pub(crate) fn heard(&self, error: &Error, began: Instant) {
        let core = &self.waiting.leases.core;
        let now = core.clock.now();
        let mut state = self.queue.lock();
        for error in error.nodes() {
            let Some(index) = core.nodes.iter().position(|node| node.to_string() == error.node()) else {
                continue;
            };
            let view = &mut state.views[index];
            match error {
                NodeError::Taken { holder, .. } => _ = view.holder.get_or_insert_with(|| holder.clone()),
                NodeError::Withheld { wait, .. } => {
                    view.unconfirmed(error.clone(), began);
                    let at = now + wait.unwrap_or(self.waiting.leases.refresh()) + CLOCK_MARGIN;
                    state.schedule(&self.token, index, at.min(now + self.waiting.leases.refresh()));
                }
                // That it fails, its answer for a place says.
                _ => {}
            }
        }
    }

    /// Completes when things may stand differently.
    pub(crate) async fn changed(&self) {
        self.waiting.changed.notified().await;
    }

    /// How things stand at `now`, for one who has been asking since `began`.
    pub(crate) fn status(&self, began: Instant, now: Instant) -> WaitStatus {
        let leases = &self.waiting.leases;
        match leases.standing() {
            _ if leases.needs_new_token() => return WaitStatus::NeedsNewToken,
            Standing::Lost => return WaitStatus::Over,
            // What has become of leases that were given back is known soon, and before anybody relies on the others.
            Standing::Held if leases.is_yielding() => return WaitStatus::Waiting(now + leases.refresh()),
            Standing::Held => return WaitStatus::Held,
            Standing::Released => {}
        }
        let (expiry, quorum) = (leases.config.claim.expiry.as_duration(), leases.core.quorum);
        let (remedy, lost_at) = {
            let state = self.queue.lock();
            let failing = state.views.iter().filter_map(|view| view.failing.as_ref());
            let remedies = failing.filter_map(|(error, _)| error.remedy());
            let remedy = Remedy::of_too_many(remedies, quorum.nodes());
            let mut failing: Vec<Instant> = state
                .views
                .iter()
                .filter_map(|view| view.failing.as_ref().map(|(_, since)| *since))
                .collect();
            failing.sort_unstable();
            (remedy, failing.get(quorum.nodes() - quorum.majority()).copied())
        };
        if remedy.is_some() {
            return WaitStatus::Unreachable(self.error(began, now));
        }
        match lost_at.map(|lost_at| lost_at.max(began) + expiry) {
            Some(end) if end < now => WaitStatus::Unreachable(self.error(began, now)),
            Some(end) => WaitStatus::Waiting((end + CLOCK_MARGIN).min(now + leases.refresh())),
            None => WaitStatus::Waiting(now + leases.refresh()),
        }
    }

    /// Why the lock was not had until `now` by one who has been asking since `began`.
    pub(crate) fn error(&self, began: Instant, now: Instant) -> Error {
        let leases = &self.waiting.leases;
        let (core, claim) = (&leases.core, &leases.config.claim);
        let everyone: Vec<usize> = (0..core.nodes.len()).collect();
        let mut count = Count::new(Operation::Lock, &core.nodes, core.quorum, &everyone);
        let mut nodes = Vec::new();
        let after = now.saturating_since(began);
        let state = self.queue.lock();
        for (index, view) in state.views.iter().enumerate() {
            let node = || core.nodes[index].to_string();
            let failure = view.failing.as_ref().map(|(error, _)| error).or(view.doubt.as_ref());
            let said = match (failure, &view.holder) {
                (Some(error), _) => Err(error.clone()),
                _ if leases.is_granted_on(index) => Ok(()),
                (None, Some(holder)) => Err(NodeError::Taken { node: node(), holder: holder.clone() }),
                (None, None) => Err(NodeError::Timeout { node: node(), after }),
            };
            nodes.extend(said.as_ref().err().cloned());
            count.add(said);
        }
        drop(state);
        // A majority has granted, and what it granted does not count yet: a moment later, the lock would have been had.
        let (name, operation) = (|| claim.name.clone(), Operation::Lock);
        count.into_error(name()).unwrap_or_else(|| Error::Taken { name: name(), operation, nodes })
    }

    /// The request for a place on node `index`, which the caller makes itself: the first is not to wait for others.
    pub(crate) fn first_request(&self, index: usize, asked: (RequestNumber, Instant)) -> FirstRequest {
        let ticket = self.ticket().unwrap_or_default();
        let (number, sent) = asked;
        let asking = Asking { waiting: Arc::clone(&self.waiting), ticket, number, sent };
        let request = Request::new(&self.waiting.leases.core, index, RequestKind::Enter, vec![asking]);
        FirstRequest { queue: Arc::clone(&self.queue), request }
    }

    /// Its place: another than it came with, where that was drawn by a wrong clock.
    pub(crate) fn ticket(&self) -> Option<Ticket> {
        self.queue.lock().waiters.get(&self.token).map(|entry| entry.ticket)
    }

    /// The caller has the lock. What nodes tell of its token is heard as long as it is held: a message that was held up must
    /// not be taken for one about somebody unknown.
    pub(crate) fn acquired(mut self) {
        self.goes_on_listening = true;
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let now = self.waiting.leases.core.clock.now();
        let mut state = self.queue.lock();
        state.unline(&self.token, now);
        let gone = (!self.goes_on_listening).then(|| state.waiters.remove(&self.token));
        drop(state);
        drop(gone);
    }
}

/// A caller's own first request.
pub(crate) struct FirstRequest {
    queue: Arc<Queue>,
    request: Request,
}

impl FirstRequest {
    /// Asks, and takes down the answer.
    pub(crate) async fn run(self) {
        let Self { queue, mut request } = self;
        let returned = poll_fn(|context| request.poll(context)).await;
        if let Some(first) = request.asked.first() {
            let core = Arc::clone(&first.waiting.leases.core);
            queue.answered(&core, request.question(), returned);
        }
    }
}
