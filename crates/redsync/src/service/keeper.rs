//! Keeps guards: has them renewed in time, and fires their losses on time.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Notify;

use crate::clock::Clock;
use crate::holding::{Due, Holding};
use crate::protocol::Instant;
use crate::service::reaper::{Place, UnderWay};

/// The deadlines of all guards of one [`Redsync`](crate::Redsync), and the one task that waits for them.
///
/// Each guard has one place, at whatever comes first for it: its renewal or its loss. The task runs as long as there are
/// guards. If its runtime ends before them, the next caller starts it again in another.
#[derive(Clone)]
pub(crate) struct Keeper(Arc<Shared>);

struct Shared {
    deadlines: Mutex<Deadlines>,
    /// The first deadline has become an earlier one.
    is_earlier: Notify,
    renewing: Arc<UnderWay>,
    /// Guards are renewed no more.
    is_shut: AtomicBool,
}

#[derive(Default)]
struct Deadlines {
    guards: BTreeMap<Deadline, Arc<Holding>>,
    entered: u64,
    /// When the task looks next; nothing where there is no task.
    looks_at: Option<Instant>,
}

/// A guard's place among the deadlines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Deadline {
    at: Instant,
    number: u64,
}

impl Keeper {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Shared {
            deadlines: Mutex::default(),
            is_earlier: Notify::new(),
            renewing: Arc::default(),
            is_shut: AtomicBool::new(false),
        }))
    }

    /// Gives `holding` a place at its next deadline.
    pub(crate) fn enter(&self, holding: &Arc<Holding>) {
        self.place(holding, |_| true);
    }

    /// Moves `holding` to its next deadline, if it has a place.
    pub(crate) fn look_again(&self, holding: &Arc<Holding>) {
        self.place(holding, |former| former.is_some());
    }

    fn place(&self, holding: &Arc<Holding>, is_wanted: impl FnOnce(Option<Deadline>) -> bool) {
        let mut deadlines = self.0.lock();
        let mut keep = holding.keep();
        if !is_wanted(keep.place) {
            return;
        }
        let former = keep.place.take().and_then(|place| deadlines.guards.remove(&place));
        deadlines.entered += 1;
        let place = Deadline { at: holding.next_deadline(&keep), number: deadlines.entered };
        deadlines.guards.insert(place, Arc::clone(holding));
        keep.place = Some(place);
        if deadlines.looks_at.is_some_and(|looks_at| place.at < looks_at) {
            deadlines.looks_at = Some(place.at);
            self.0.is_earlier.notify_one();
        }
        drop((keep, deadlines));
        drop(former);
    }

    /// Takes the place from `holding`, and says whether it had one.
    pub(crate) fn leave(&self, holding: &Holding) -> bool {
        let mut deadlines = self.0.lock();
        let place = holding.keep().place.take();
        let left = place.and_then(|place| deadlines.guards.remove(&place));
        drop(deadlines);
        left.is_some()
    }

    /// Makes sure that somebody waits for the deadlines, in `runtime` if nobody does yet.
    pub(crate) fn attend(&self, runtime: impl FnOnce() -> Option<Handle>, clock: &Arc<dyn Clock>) {
        let mut deadlines = self.0.lock();
        if deadlines.looks_at.is_some() || deadlines.guards.is_empty() {
            return;
        }
        let Some(runtime) = runtime() else { return };
        deadlines.looks_at = Some(Instant::default());
        drop(deadlines);
        // A runtime that has ended drops the task at once, and with it the mark that there is one.
        runtime.spawn(Attending { shared: Arc::clone(&self.0), is_over: false }.attend(Arc::clone(clock)));
    }

    /// Has no guard renewed from here on, and says how many there are.
    pub(crate) fn shut(&self) -> usize {
        self.0.is_shut.store(true, Ordering::Release);
        self.0.lock().guards.len()
    }

    /// Whether [`shut`](Self::shut) was called.
    pub(crate) fn is_shut(&self) -> bool {
        self.0.is_shut.load(Ordering::Acquire)
    }

    /// Completes when no renewal is under way.
    pub(crate) async fn drain(&self) {
        self.0.renewing.all_done().await;
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Deadlines> {
        self.deadlines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What has come due at one time.
#[derive(Default)]
struct Batch {
    renewals: Vec<Arc<Holding>>,
    losses: Vec<Arc<Holding>>,
}

impl Deadlines {
    /// Takes what is due at `now`. What is to be renewed keeps a place, for its loss.
    fn take_due(&mut self, now: Instant, is_shut: bool) -> Batch {
        let mut batch = Batch::default();
        let soon = Deadline { at: now + TOGETHER, number: u64::MAX };
        // Looked at one by one: a guard that is put back may be due again at the same time.
        let due: Vec<Deadline> = self.guards.range(..=soon).map(|(place, _)| *place).collect();
        for place in due {
            let Some(holding) = self.guards.get(&place) else { continue };
            let mut keep = holding.keep();
            let due = holding.due(&mut keep, now, TOGETHER, is_shut);
            let at = holding.next_deadline(&keep);
            if matches!(due, Due::Nothing) && at == place.at {
                continue;
            }
            keep.place = None;
            drop(keep);
            let Some(holding) = self.guards.remove(&place) else { continue };
            match due {
                Due::Loss => batch.losses.push(holding),
                Due::Nothing | Due::Renewal => {
                    let place = Deadline { at, ..place };
                    holding.keep().place = Some(place);
                    if matches!(due, Due::Renewal) {
                        batch.renewals.push(Arc::clone(&holding));
                    }
                    self.guards.insert(place, holding);
                }
            }
        }
        batch
    }
}

/// The task. Its end, for whatever reason, is seen.
struct Attending {
    shared: Arc<Shared>,
    /// It ended by itself, with the last guard.
    is_over: bool,
}

impl Attending {
    async fn attend(mut self, clock: Arc<dyn Clock>) {
        let shared = Arc::clone(&self.shared);
        loop {
            let (batch, next) = {
                let mut deadlines = shared.lock();
                let is_shut = shared.is_shut.load(Ordering::Acquire);
                let batch = deadlines.take_due(clock.now(), is_shut);
                let next = deadlines.guards.keys().next().map(|place| place.at);
                deadlines.looks_at = next;
                self.is_over = next.is_none();
                (batch, next)
            };
            // SAFETY RULE (design §9): losses are fired on time; nothing is waited for before them.
            batch.losses.iter().for_each(|holding| holding.fire_loss());
            for holding in batch.renewals {
                let place = Place::take(&shared.renewing);
                tokio::spawn(async move {
                    holding.renew().await;
                    drop(place);
                });
            }
            let Some(next) = next else { return };
            let is_earlier = shared.is_earlier.notified();
            tokio::select! {
                biased;
                () = is_earlier => {}
                () = clock.sleep_until(next) => {}
            }
        }
    }
}

impl Drop for Attending {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let left: Vec<Arc<Holding>> = {
            let mut deadlines = self.shared.lock();
            deadlines.looks_at = None;
            deadlines.guards.values().cloned().collect()
        };
        if !left.is_empty() {
            tracing::warn!(
                guards = left.len(),
                "the runtime that renewed guards has ended; they are renewed again when redsync is next used in another",
            );
            // Whoever waits for a loss in another runtime has it attended there.
            left.iter().for_each(|holding| holding.signals.wake());
        }
    }
}

/// What comes due so soon after another is done together with it: fewer wake-ups, and the requests share their writes.
const TOGETHER: Duration = Duration::from_millis(5);

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keeper({} guards)", self.0.lock().guards.len())
    }
}
