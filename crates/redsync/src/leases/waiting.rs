//! What is asked of nodes for a token that waits in the queue, and what they answer.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{LeaseSet, RequestNumber};
use crate::error::NodeError;
use crate::events;
use crate::node::{Grant, Place, Uptime};
use crate::protocol::{Fence, Instant, Ticket};

/// What a grant that a node told of comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// It counts, if there are enough of them.
    Counts,
    /// The lease is there, and counts for nothing until the node is asked again: too old, or the node forgot others. Or it is
    /// to be confirmed that the lease is there.
    InDoubt,
    /// It is over.
    Stale,
    /// The token is being given back there, and the lease with it.
    TakenAlong,
    /// The token was given back, and the lease is for nobody.
    Unwanted,
}

impl LeaseSet {
    /// Records that a place in the queue is about to be asked for, or renewed, on `nodes`.
    pub(crate) fn ask_to_enter(&self, nodes: &[usize]) -> (RequestNumber, Instant) {
        let trusted = self.config.trusted();
        let (number, sent, ()) = self.ask(&self.config, |ledger| {
            nodes.iter().for_each(|&node| ledger.ask_to_enter(node, trusted));
        });
        (number, sent)
    }

    /// Records that the leases are about to be given back that are too few, and places in the queue asked for instead. None
    /// where there is nothing to give back.
    ///
    /// SAFETY RULE (protocol §7): looked at in the step that asks; leases that make a majority are not given away.
    pub(crate) fn ask_to_yield(&self) -> Option<(RequestNumber, Vec<usize>)> {
        let (trusted, now) = (self.config.trusted(), self.core.clock.now());
        let mut ledger = self.ledger();
        let minority = ledger.minority(now);
        if minority.is_empty() {
            return None;
        }
        let horizon = now + self.config.claim.expiry.as_duration();
        let number = ledger.ask(now, trusted, horizon);
        minority.iter().for_each(|&node| ledger.ask_to_yield(node, number, trusted));
        Some((number, minority))
    }

    /// Records that node `index` has a place in the queue for the token.
    pub(crate) fn queued(&self, index: usize, number: RequestNumber) {
        self.ledger().queued(index, number, self.core.clock.now());
    }

    /// Records that a request for a place was never sent to node `index`.
    pub(crate) fn unapplied(&self, index: usize) {
        self.ledger().unapplied(index);
    }

    /// Records that request `number` to yield was never sent to node `index`.
    pub(crate) fn not_yielded(&self, index: usize, number: RequestNumber) {
        self.ledger().not_yielded(index, number);
    }

    /// Records that node `index` answered request `number` to yield.
    pub(crate) fn yielded(&self, index: usize, number: RequestNumber) {
        self.ledger().yielded(index, number);
    }

    /// Records that node `index`, up for `uptime` and with its counter at `fence`, granted what request `number` asked for at
    /// `sent`; unless its vote is withheld.
    pub(crate) fn vote(
        &self,
        index: usize,
        (number, sent): (RequestNumber, Instant),
        fence: Option<Fence>,
        uptime: Uptime,
    ) -> Result<(), NodeError> {
        let now = self.core.clock.now();
        let Some(wait) = self.withheld(uptime, sent, now) else {
            let mut ledger = self.ledger();
            // What it told of before its uptime was known was granted to an earlier request.
            let unconfirmed = ledger.unconfirmed_since(index);
            if unconfirmed.is_some_and(|sent| self.withheld(uptime, sent, now).is_none()) {
                ledger.believe(index);
            }
            ledger.granted(index, number, fence, now);
            return Ok(());
        };
        self.granted_unconfirmed(index, number);
        let node = &self.core.nodes[index];
        events::withheld(&self.config.claim.name, node, wait);
        Err(NodeError::Withheld { node: node.to_string(), wait })
    }

    /// Records that node `index` tells of a grant.
    pub(crate) fn told(&self, index: usize, grant: &Grant, uptime: Uptime) -> Told {
        let (number, now) = (RequestNumber::from(grant.round), self.core.clock.now());
        let mut ledger = self.ledger();
        if ledger.is_released() {
            return match ledger.told_while_released(index, number) {
                true => Told::TakenAlong,
                false => Told::Unwanted,
            };
        }
        let sent = ledger.sent(number);
        let counts = !self.is_to_be_confirmed(grant, now)
            && sent.is_some_and(|sent| self.withheld(uptime, sent, now).is_none());
        match ledger.told(index, number, grant.fence, counts, now) {
            false => Told::Stale,
            true if counts && ledger.end_on(index).is_some_and(|end| now < end) => Told::Counts,
            true => Told::InDoubt,
        }
    }

    /// Whether the node has to be asked whether it granted this. What it tells comes by a channel on which others may publish.
    ///
    /// SAFETY RULE (protocol §7): a fence that no clock explains is believed only where the node's own answer has it.
    fn is_to_be_confirmed(&self, grant: &Grant, now: Instant) -> bool {
        let core = &self.core;
        let time = || Fence::from(core.waiters.tickets.time(&core.clock, now));
        self.config.confirm_grants || grant.fence.is_some_and(|fence| fence.is_far_ahead_of(time()))
    }

    /// Whether the vote of a node that had been up for `uptime` a moment before `now` is withheld from a request sent at
    /// `sent`; and for how much longer, if that is known.
    #[expect(clippy::option_option, reason = "whether, and for how long")]
    fn withheld(&self, uptime: Uptime, sent: Instant, now: Instant) -> Option<Option<Duration>> {
        let ago = now.saturating_since(sent);
        match uptime {
            _ if !self.config.restart_guard => None,
            Uptime::Unbroken => None,
            Uptime::AtLeast(uptime) => self.config.quarantine().wait(uptime, ago).map(Some),
            Uptime::Unknown => Some(None),
        }
    }

    /// How often a place in the queue is renewed.
    pub(crate) fn refresh(&self) -> Duration {
        self.config.claim.expiry.as_duration() / 3
    }

    /// Grants may be told of from here on, until nobody is giving the token back any more.
    pub(crate) fn expect_grants(&self) {
        self.is_told.store(true, Ordering::Release);
    }

    /// Nothing that is told is for this token any more.
    pub(super) fn expect_no_grants(&self) {
        if !self.is_told.swap(false, Ordering::AcqRel) {
            return;
        }
        let (name, token) = (&self.config.claim.name, &self.config.claim.token);
        let is_handed_on = self.ledger().is_handed_on();
        match is_handed_on {
            true => self.core.waiters.hand_on(name, token),
            false => self.core.waiters.forget(name, token),
        }
    }

    /// Extends the leases of a guard that was just had: where nodes granted what did not count, by which it does from now on;
    /// and, in the background, where a part of their time had passed already and nobody renews them. What comes of it,
    /// the guard's end says.
    pub(crate) async fn top_up(self: &Arc<Self>) {
        let expiry = self.config.claim.expiry;
        let has_unconfirmed = self.ledger().has_unconfirmed();
        // Where each grant is confirmed, the others are being confirmed, or were told of and will be released.
        if has_unconfirmed && !self.config.confirm_grants {
            let _ = self.extend(expiry).await;
        } else if !self.config.renew && self.remaining() < self.config.trusted().mul_f64(0.9) {
            let leases = Arc::clone(self);
            self.core.tasks.run(async move { _ = leases.extend(expiry).await });
        }
    }

    /// Records that nothing is heard of a request to yield that was sent to node `index`.
    pub(crate) fn yield_lost(&self, index: usize) {
        self.ledger().yield_lost(index);
    }

    /// Records that nothing is heard of any request to yield. Says whether there was one.
    pub(crate) fn yields_lost(&self) -> bool {
        let mut ledger = self.ledger();
        ledger.yields_lost();
        ledger.has_lost_a_yield()
    }

    /// Whether another token has to be drawn: a request to yield was lost, and may be applied at any time.
    ///
    /// SAFETY RULE (protocol §7): nobody holds by such a token, nor hands it on to others, who could not know.
    pub(crate) fn needs_new_token(&self) -> bool {
        self.ledger().has_lost_a_yield()
    }

    /// Whether it is not known yet what has become of a request to yield.
    pub(crate) fn is_yielding(&self) -> bool {
        self.ledger().is_yielding()
    }

    /// Whether some node, but not all of them, is known to have the token.
    pub(crate) fn has_some(&self) -> bool {
        let ledger = self.ledger();
        ledger.is_granted_somewhere() && !ledger.is_granted_everywhere()
    }

    /// The place that request `number` asks for.
    pub(crate) fn place(&self, ticket: Ticket, number: RequestNumber) -> Place {
        Place::new(self.claim_at(ticket), ticket, number.round())
    }
}
