//! What becomes of a token that is given back: who asks which node, and what its answer says of what may be there yet.

use super::record::{LeaseRecord, NodeState};
use super::{Leases, RequestNumber};
use crate::Instant;
use crate::answer::Released;
use alloc::vec::Vec;

impl Leases {
    /// Whether the token has been given back, so that it must not be anywhere.
    pub fn is_released(&self) -> bool {
        self.is_released
    }

    /// Records that the token is given back at `now`.
    pub fn give_back(&mut self, now: Instant) {
        self.is_past(now);
        self.is_released = true;
    }

    /// Whether some node may have the token, and nobody is asking it to release.
    pub fn is_to_be_released(&self) -> bool {
        self.nodes.iter().any(|entry| entry.is_open() && !entry.is_releasing)
    }

    /// Whether all that was asked of those nodes is answered that may have the token.
    pub fn has_heard_all(&self) -> bool {
        self.nodes.iter().filter(|entry| entry.is_open()).all(|entry| entry.unanswered == 0)
    }

    /// Takes the nodes that are to be asked to release, and that nobody else is asking: those that may have the token,
    /// or a place for it, or only those that are known to. They are the caller's until each has been [answered](Self::released) or
    /// [left](Self::leave).
    pub fn take(&mut self, only_known: bool) -> Vec<(usize, NodeState)> {
        // SAFETY RULE (protocol §3): a node that answered "taken" is never sent a release: it has no mark.
        let wanted = |entry: &LeaseRecord| match only_known {
            true => matches!(entry.state, NodeState::Granted | NodeState::Queued),
            false => entry.is_open(),
        };
        let free =
            self.nodes.iter_mut().enumerate().filter(|(_, entry)| wanted(entry) && !entry.is_releasing);
        free.map(|(node, entry)| {
            entry.is_releasing = true;
            entry.pending_at_release = entry.pending();
            entry.stood_meanwhile = false;
            (node, entry.state)
        })
        .collect()
    }

    /// Gives `node` back without an answer.
    pub fn leave(&mut self, node: usize) {
        self.nodes[node].is_releasing = false;
    }

    /// Records that `node` tells of a grant, to the place of request `number`, of the token that was given back. False unless
    /// somebody is giving that lease back for certain: what an unanswered request brings may come after the release.
    pub fn told_while_released(&mut self, node: usize, number: RequestNumber) -> bool {
        let entry = &mut self.nodes[node];
        let is_taken_along = entry.is_releasing && entry.pending().max(entry.pending_at_release) == 0;
        if is_taken_along {
            // Should the release not arrive, this is to be asked for again.
            entry.state = NodeState::Granted;
            // And what says that it is not there may have been said before it was.
            entry.last_push = entry.last_push.max(number);
        }
        is_taken_along
    }

    /// Records `node`'s answer to a release that was asked when its mark was `before`.
    pub fn released<H>(&mut self, node: usize, before: NodeState, released: &Released<H>) {
        self.leave(node);
        self.lose(node);
        let entry = &mut self.nodes[node];
        // To yield, the lease must have been there before.
        let found = u32::from(before == NodeState::Asked && entry.yielding == 0);
        let pending = entry.pending().max(entry.pending_at_release);
        match released {
            // Where no answer had come, a request that is under way brought what was found. Any other may be applied yet: by
            // another connection, or in a second trip.
            Released::Released | Released::Left if pending > found => entry.state = NodeState::Asked,
            Released::Released | Released::Left => entry.state = NodeState::Released,
            // As long as an answer has not been seen, "not held" may only mean "not yet".
            Released::NotHeld | Released::HeldByAnother(_) if pending > 0 => entry.state = NodeState::Asked,
            Released::NotHeld | Released::HeldByAnother(_) => entry.state = NodeState::None,
        }
        if entry.stood_meanwhile {
            entry.state = NodeState::Granted;
        }
    }
}
