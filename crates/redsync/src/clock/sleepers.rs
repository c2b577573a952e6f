//! Who sleeps until when.

use std::collections::BTreeMap;
use std::task::Waker;

use crate::protocol::Instant;

/// Sleepers in the order of their deadlines.
///
/// A waker that is dropped may take a whole task with it, and with that other sleeps. So whatever leaves is handed out, to
/// be woken or dropped when no lock is held any more.
#[derive(Debug, Default)]
pub(super) struct Sleepers {
    next: u64,
    by_deadline: BTreeMap<Place, Waker>,
}

/// A sleeper's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    deadline: Instant,
    number: u64,
}

impl Sleepers {
    /// A place for one who sleeps until `deadline`.
    pub(super) fn enter(&mut self, deadline: Instant, waker: Waker) -> Place {
        let place = Place { deadline, number: self.next };
        self.next += 1;
        self.by_deadline.insert(place, waker);
        place
    }

    /// Has `waker` woken in place of the one that was there, which is handed out.
    pub(super) fn stay(&mut self, place: Place, waker: &Waker) -> Option<Waker> {
        match self.by_deadline.get_mut(&place) {
            Some(present) if present.will_wake(waker) => None,
            Some(present) => Some(std::mem::replace(present, waker.clone())),
            None => self.by_deadline.insert(place, waker.clone()),
        }
    }

    pub(super) fn leave(&mut self, place: Place) -> Option<Waker> {
        self.by_deadline.remove(&place)
    }

    /// Those whose deadline is not after `now`. They have left.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Waker> {
        let mut due = Vec::new();
        while let Some(first) = self.by_deadline.first_entry()
            && first.key().deadline <= now
        {
            due.push(first.remove());
        }
        due
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.by_deadline.keys().next().map(|place| place.deadline)
    }
}
