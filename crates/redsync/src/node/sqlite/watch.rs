//! Telling those who wait, for a file that tells nobody: it is looked at often enough.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::listeners::Listeners;
use super::store::{Store, Version};
use crate::clock::Clock;
use crate::node::{ClientId, NodeFault, Place, Placed};
use crate::protocol::{Instant, LockName, Token};

/// Who has a place in the queue by this node, and what is known of the file that concerns them.
pub(super) struct Watch {
    listeners: Arc<Listeners>,
    clock: Arc<dyn Clock>,
    places: HashMap<(LockName, Token), Placeholder>,
    /// The file's, when it was last looked at.
    version: Option<Version>,
    /// Which file that was, or the first place was taken in.
    opening: Option<u64>,
    /// This node changed the file itself, which its version does not show.
    has_stepped: bool,
    /// When the last lease was handed over, and the last mark left, that is known of.
    last_grant: i64,
    last_freed: i64,
    due: Instant,
    pause: Duration,
    /// When a queue was last seen to move.
    moved: Instant,
    swept: Instant,
}

/// One that was answered `Queued`, and has not been told of a grant since.
struct Placeholder {
    client: ClientId,
    /// When it is taken for dead, unless it renews its place.
    deadline: Instant,
}

impl Watch {
    pub(super) fn new(listeners: Arc<Listeners>, clock: Arc<dyn Clock>) -> Self {
        let now = clock.now();
        Self {
            listeners,
            clock,
            places: HashMap::new(),
            version: None,
            opening: None,
            has_stepped: false,
            last_grant: 0,
            last_freed: 0,
            due: now,
            pause: PAUSE_LEAST,
            moved: now,
            swept: now,
        }
    }

    /// When to look; not at all where nobody waits.
    pub(super) fn due(&self) -> Option<Instant> {
        (!self.places.is_empty()).then_some(self.due)
    }

    /// Takes down what became of `places` in the file of that opening. Whoever was answered that it has the lease is not to be
    /// told.
    pub(super) fn entered(&mut self, client: &ClientId, places: &[Place], placed: &[Placed], opening: u64) {
        let now = self.clock.now();
        self.opening.get_or_insert(opening);
        for (place, placed) in places.iter().zip(placed) {
            let claim = &place.claim;
            let key = (claim.name.clone(), claim.token.clone());
            match placed {
                Placed::Granted(_) => _ = self.places.remove(&key),
                Placed::Queued(_) => {
                    let deadline = now + claim.expiry.as_duration();
                    let former = self.places.insert(key, Placeholder { client: client.clone(), deadline });
                    if former.is_none() {
                        self.moved = now;
                        self.pause = PAUSE_LEAST;
                    }
                }
            }
        }
        self.has_stepped = true;
    }

    /// Takes down that `token` gave up its lease or its place.
    pub(super) fn left(&mut self, name: LockName, token: Token) {
        self.places.remove(&(name, token));
        self.has_stepped = true;
    }

    /// Looks at the file if that is due, and tells what it finds. No transaction is under way.
    pub(super) fn look(&mut self, store: &mut Store) {
        let now = self.clock.now();
        if self.places.is_empty() || !self.has_stepped && now < self.due {
            return;
        }
        self.leave_for_those_who_are_gone(store);
        self.due = now + self.pause;
        match self.tell(store) {
            Ok(true) => {
                self.moved = now;
                self.pause = PAUSE_LEAST;
                self.due = now + self.pause;
            }
            Ok(false) if now.saturating_since(self.moved) > QUIET_AFTER => self.pause = PAUSE_QUIET,
            Ok(false) => self.pause = (self.pause * 2).min(PAUSE_MOST),
            Err(_) => self.due = now + PAUSE_QUIET,
        }
        if now.saturating_since(self.swept) > SWEEP {
            self.swept = now;
            // Whoever is granted the lease just before its deadline is to be told yet.
            self.places.retain(|_, place| now.saturating_since(place.deadline) < SWEEP);
        }
    }

    /// Leaves the queue for all who still wait by this node: nobody can tell them any more.
    pub(super) fn end(self, store: &mut Store) {
        let places: Vec<_> = self.places.into_keys().collect();
        // What could not be left is over at its deadline.
        let _ = store.leave(&places);
    }

    /// Tells of what happened since the last look, and says whether any queue has moved: places that are renewed, and locks
    /// that nobody waits for, change the file as well.
    fn tell(&mut self, store: &mut Store) -> Result<bool, NodeFault> {
        let version = store.version()?;
        if self.version == Some(version) && !self.has_stepped {
            return Ok(false);
        }
        let (grants, last_grant) = store.handed_over(self.last_grant)?;
        let (freed, last_freed) = store.freed(self.last_freed)?;
        // Another file has taken the file's place, and nobody waits in that.
        let is_another_file = self.opening.is_some_and(|former| former != version.openings);
        let has_moved = is_another_file || !grants.is_empty() || !freed.is_empty();
        (self.version, self.opening) = (Some(version), Some(version.openings));
        self.has_stepped = false;
        (self.last_grant, self.last_freed) = (last_grant, last_freed);
        for grant in grants {
            // Not told twice, and not to one who was answered that it has it: it may have done with it.
            if let Some(place) = self.places.remove(&(grant.name.clone(), grant.token.clone()))
                && let Some(listener) = self.listeners.of(&place.client)
            {
                listener.granted(grant);
            }
        }
        for place in freed {
            if let Some(listener) =
                self.places.get(&place).and_then(|waiting| self.listeners.of(&waiting.client))
            {
                listener.freed(place.0);
            }
        }
        if is_another_file {
            self.listeners.all().iter().for_each(|listener| listener.interrupted());
        }
        Ok(has_moved)
    }

    /// Those whose listener is gone are dead: they leave the queue, and what they were granted is passed on.
    fn leave_for_those_who_are_gone(&mut self, store: &mut Store) {
        let gone = self.listeners.gone();
        if gone.is_empty() {
            return;
        }
        let places = self.places.iter().filter(|(_, place)| gone.contains(&place.client));
        let places: Vec<_> = places.map(|(place, _)| place.clone()).collect();
        if store.leave(&places).is_err() {
            // Tried again at the next look.
            return;
        }
        self.places.retain(|_, place| !gone.contains(&place.client));
        gone.iter().for_each(|client| self.listeners.forget(client));
        self.has_stepped = true;
    }
}

/// From one look to the next: at first after a line moved, and at most.
const PAUSE_LEAST: Duration = Duration::from_millis(1);
const PAUSE_MOST: Duration = Duration::from_millis(10);

/// The same after none has moved for long.
const PAUSE_QUIET: Duration = Duration::from_millis(50);
const QUIET_AFTER: Duration = Duration::from_secs(10);

/// How often those are forgotten who have not renewed their places.
const SWEEP: Duration = Duration::from_secs(1);
