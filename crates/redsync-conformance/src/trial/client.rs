//! One who waits at the node on behalf of others, and what it hears.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use redsync::{ClientId, Entered, Grant, Listener, LockName, Place, Ticket};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::{Breach, Lock, Owner, Trial, Verdict, Waiter, answered};

/// A client of the node. When its last clone and its last waiter are dropped, its listener is gone.
#[derive(Clone)]
pub(crate) struct Client {
    trial: Trial,
    id: ClientId,
    grant_listener: Arc<GrantListener>,
    /// What the node last said of how soon it has to be asked.
    ask_within: Arc<Mutex<Option<Duration>>>,
}

/// What a node told a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    Granted(Grant),
    Freed(LockName),
    Interrupted,
}

impl Client {
    pub(super) fn new(trial: Trial) -> Self {
        let is_interrupted = Arc::clone(&trial.is_interrupted);
        let (id, grant_listener) =
            (ClientId::random(), Arc::new(GrantListener { heard: watch::Sender::default(), is_interrupted }));
        let listener = Arc::downgrade(&grant_listener);
        trial.node.listen(&id, listener);
        Self { trial, id, grant_listener, ask_within: Arc::default() }
    }

    /// Somebody with a new token who may wait for `lock` at `ticket`; `who` must be a word.
    pub(crate) fn waiter(&self, lock: &Lock, who: &'static str, ticket: u64) -> Waiter {
        self.waiter_as(lock.owner(who), Ticket::from_micros(ticket))
    }

    /// `owner`, who may wait at `ticket`.
    pub(crate) fn waiter_as(&self, owner: Owner, ticket: Ticket) -> Waiter {
        Waiter::new(owner, self.clone(), ticket)
    }

    /// Several places of one lock in one request.
    pub(crate) async fn enter(&self, places: &[(&Waiter, Duration)]) -> Result<Entered, Breach> {
        let who: Vec<&str> = places.iter().map(|(waiter, _)| waiter.owner().who()).collect();
        let places: Vec<Place> = places.iter().map(|(waiter, lasting)| waiter.place(*lasting)).collect();
        let request = format!("enter by {}", who.join(", "));
        self.note(answered(request, self.trial.node.enter(&self.id, &places)).await?)
    }

    pub(super) async fn yield_lease(&self, waiter: &Waiter, lasting: Duration) -> Result<Entered, Breach> {
        let place = waiter.place(lasting);
        let request = format!("yield by {}", waiter.owner().who());
        self.note(answered(request, self.trial.node.yield_lease(&self.id, &place)).await?)
    }

    pub(super) fn id(&self) -> &ClientId {
        &self.id
    }

    fn note(&self, entered: Entered) -> Result<Entered, Breach> {
        *self.ask_within.lock().unwrap_or_else(PoisonError::into_inner) = entered.ask_within;
        Ok(entered)
    }
}

/// What it hears.
impl Client {
    /// How soon the node has to be asked, as it said itself, since it cannot tell; or since it said that something may not
    /// have been told.
    pub(crate) fn has_to_ask_within(&self) -> Option<Duration> {
        let said = *self.ask_within.lock().unwrap_or_else(PoisonError::into_inner);
        said.or(self
            .grant_listener
            .heard
            .borrow()
            .contains(&Heard::Interrupted)
            .then_some(AFTER_AN_INTERRUPTION))
    }

    /// Waits until something is heard that `is_it`, or that was interrupted. `false` where nothing came in time.
    pub(super) async fn hears(&self, is_it: impl Fn(&Heard) -> bool) -> bool {
        let mut heard = self.grant_listener.heard.subscribe();
        let it = heard.wait_for(|heard| heard.iter().any(|one| *one == Heard::Interrupted || is_it(one)));
        timeout(TELLING_DEADLINE, it).await.is_ok()
    }

    /// Expects that it hears this, unless the node has to be asked.
    pub(crate) async fn is_told(&self, expected: &Heard) -> Verdict {
        if self.has_to_ask_within().is_some() || self.hears(|heard| heard == expected).await {
            return Ok(());
        }
        Err(Breach::answered(format!("within {TELLING_DEADLINE:?} it is told: {expected:?}"), self.heard()))
    }

    /// Expects that it hears these, in any order, and nothing else, unless the node has to be asked.
    pub(crate) async fn was_told_only(&self, expected: &[Heard]) -> Verdict {
        for one in expected {
            self.is_told(one).await?;
        }
        // What is told too often announces itself by nothing else, so there is no event to wait for.
        sleep(STRAGGLING).await;
        let heard = self.heard();
        if self.has_to_ask_within().is_some() || heard.len() == expected.len() {
            return Ok(());
        }
        Err(Breach::answered(format!("it is told only: {expected:?}"), heard))
    }

    pub(super) fn heard(&self) -> Vec<Heard> {
        self.grant_listener.heard.borrow().clone()
    }

    /// When it is too late for the node to answer as it should.
    pub(super) fn gives_up_at() -> Instant {
        Instant::now() + TELLING_DEADLINE
    }
}

#[derive(Debug)]
struct GrantListener {
    heard: watch::Sender<Vec<Heard>>,
    is_interrupted: Arc<AtomicBool>,
}

impl Listener for GrantListener {
    fn granted(&self, grant: Grant) {
        self.heard.send_modify(|heard| heard.push(Heard::Granted(grant)));
    }

    fn freed(&self, name: LockName) {
        self.heard.send_modify(|heard| heard.push(Heard::Freed(name)));
    }

    fn interrupted(&self) {
        self.is_interrupted.store(true, Ordering::SeqCst);
        self.heard.send_modify(|heard| heard.push(Heard::Interrupted));
    }
}

/// What is not told by then counts as never told.
const TELLING_DEADLINE: Duration = Duration::from_secs(5);

/// What is told too often is told by then.
const STRAGGLING: Duration = Duration::from_millis(250);

const AFTER_AN_INTERRUPTION: Duration = Duration::from_millis(20);
