//! Keeps guards: has them renewed in time, and fires their losses on time.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Notify;

use super::outside::outside;
use super::task_tracker::{Place, UnderWay};
use crate::clock::Clock;
use crate::leases::{Due, LeaseSet, Renewal, Untold};
use crate::protocol::Instant;

/// The deadlines of all guards of one [`Redsync`](crate::Redsync), and the one task that waits for them.
///
/// Each guard has one place, at whatever comes first for it: its renewal or its loss. The task runs as long as there are
/// guards. If its runtime ends before them, or stands still, the next caller starts another in its own.
#[derive(Clone)]
pub(crate) struct Keeper(Arc<Shared>);

struct Shared {
    deadlines: Mutex<Deadlines>,
    renewing: Arc<UnderWay>,
    /// Guards are renewed no more.
    is_shut: AtomicBool,
}

#[derive(Default)]
struct Deadlines {
    guards: BTreeMap<Deadline, Arc<LeaseSet>>,
    entered: u64,
    /// The last that was sent for, or the one that took the role back.
    driver: Option<Driver>,
    /// How many there have been.
    attendants: u64,
}

/// The task that waits for the deadlines.
#[derive(Clone)]
struct Driver {
    number: u64,
    runtime: Handle,
    has_begun: bool,
    /// When it looks next.
    looks_at: Instant,
    /// The first deadline has become an earlier one. Each has its own: one that stands still must not be told in the place
    /// of one that does not.
    is_earlier: Arc<Notify>,
    /// Where its predecessor lived, if that was elsewhere; and how to tell it of an earlier deadline as long as this one has
    /// not begun.
    former: Option<(Handle, Arc<Notify>)>,
}

/// A guard's place among the deadlines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Deadline {
    at: Instant,
    number: u64,
}

impl Deadline {
    /// When something is due.
    pub(crate) const fn at(self) -> Instant {
        self.at
    }
}

impl Keeper {
    /// So long after it should have looked, the task is taken to stand still with its runtime.
    pub(crate) const OVERDUE: Duration = Duration::from_millis(50);

    pub(crate) fn new() -> Self {
        Self(Arc::new(Shared {
            deadlines: Mutex::default(),
            renewing: Arc::default(),
            is_shut: AtomicBool::new(false),
        }))
    }

    /// Gives `leases` a place at its next deadline.
    pub(crate) fn enter(&self, leases: &Arc<LeaseSet>) {
        self.place(leases, |_| true);
    }

    /// Moves `leases` to its next deadline, if it has a place.
    pub(crate) fn look_again(&self, leases: &Arc<LeaseSet>) {
        self.place(leases, |former| former.is_some());
    }

    fn place(&self, leases: &Arc<LeaseSet>, is_wanted: impl FnOnce(Option<Deadline>) -> bool) {
        let mut deadlines = self.0.lock();
        let mut keep = leases.keep();
        if !is_wanted(keep.place) {
            return;
        }
        let former = keep.place.take().and_then(|place| deadlines.guards.remove(&place));
        deadlines.entered += 1;
        let place = Deadline { at: leases.next_deadline(&keep), number: deadlines.entered };
        deadlines.guards.insert(place, Arc::clone(leases));
        keep.place = Some(place);
        drop(keep);
        if let Some(driver) = deadlines.driver.as_mut().filter(|driver| place.at < driver.looks_at) {
            driver.looks_at = place.at;
            let is_earlier = Arc::clone(&driver.is_earlier);
            outside(&driver.runtime, move || is_earlier.notify_one());
            if let Some((runtime, is_earlier)) = driver.former.clone().filter(|_| !driver.has_begun) {
                outside(&runtime, move || is_earlier.notify_one());
            }
        }
        drop(deadlines);
        drop(former);
    }

    /// Takes the place from `leases`, and says whether it had one.
    pub(crate) fn leave(&self, leases: &LeaseSet) -> bool {
        let mut deadlines = self.0.lock();
        let place = leases.keep().place.take();
        let left = place.and_then(|place| deadlines.guards.remove(&place));
        drop(deadlines);
        left.is_some()
    }

    /// Makes sure that somebody waits for the deadlines, in `runtime` if nobody does yet, or one who has stood still for
    /// long.
    pub(crate) fn attend(
        &self,
        runtime: impl FnOnce() -> Option<Handle>,
        now: Instant,
        clock: &Arc<dyn Clock>,
    ) {
        let mut deadlines = self.0.lock();
        if deadlines.guards.is_empty() {
            return;
        }
        let present = deadlines.driver.as_ref();
        if present.is_some_and(|driver| now <= driver.looks_at + Self::OVERDUE) {
            return;
        }
        let Some(runtime) = runtime() else { return };
        let is_elsewhere = |driver: &&Driver| driver.runtime.id() != runtime.id();
        if present.is_some_and(|driver| !driver.has_begun && !is_elsewhere(&driver)) {
            // It has been sent for here already, and the runtime has not come to it yet.
            return;
        }
        let former = present
            .filter(is_elsewhere)
            .map(|driver| (driver.runtime.clone(), Arc::clone(&driver.is_earlier)));
        let attending = self.0.send_for(&mut deadlines, &runtime, former, now, clock);
        drop(deadlines);
        attending();
    }

    /// Has no guard renewed from here on, and says how many there are.
    pub(crate) fn shut(&self) -> usize {
        self.0.is_shut.store(true, Ordering::SeqCst);
        self.0.lock().guards.len()
    }

    /// Whether [`shut`](Self::shut) was called.
    pub(crate) fn is_shut(&self) -> bool {
        self.0.is_shut.load(Ordering::SeqCst)
    }

    /// Completes when no renewal is under way.
    pub(crate) async fn drain(&self) {
        self.0.renewing.all_done().await;
    }
}

impl Shared {
    /// Makes a new driver, who lives in `runtime`. What is given sends for it, with no lock held.
    fn send_for(
        self: &Arc<Self>,
        deadlines: &mut Deadlines,
        runtime: &Handle,
        former: Option<(Handle, Arc<Notify>)>,
        now: Instant,
        clock: &Arc<dyn Clock>,
    ) -> impl FnOnce() + use<> {
        deadlines.attendants += 1;
        let driver = Driver {
            number: deadlines.attendants,
            runtime: runtime.clone(),
            has_begun: false,
            looks_at: now,
            is_earlier: Arc::default(),
            former,
        };
        deadlines.driver = Some(driver.clone());
        let (shared, clock, runtime) = (Arc::clone(self), Arc::clone(clock), runtime.clone());
        move || {
            let attending = Driving { shared, clock, role: driver, is_over: false };
            let handle = runtime.clone();
            // A runtime that has ended drops the task at once, and with it the mark that there is one.
            outside(&runtime, move || drop(handle.spawn(attending.attend())));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Deadlines> {
        self.deadlines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what is due at `now`. What is to be renewed keeps a place, for its loss.
    fn take_due(&self, deadlines: &mut Deadlines, now: Instant) -> Batch {
        let is_shut = self.is_shut.load(Ordering::SeqCst);
        let mut batch = Batch::default();
        let soon = Deadline { at: now + TOGETHER, number: u64::MAX };
        // Looked at one by one: a guard that is put back may be due again at the same time.
        let due: Vec<Deadline> = deadlines.guards.range(..=soon).map(|(place, _)| *place).collect();
        for place in due {
            let Some(leases) = deadlines.guards.get(&place) else { continue };
            let mut keep = leases.keep();
            let due = leases.due(&mut keep, now, TOGETHER, is_shut);
            let at = leases.next_deadline(&keep);
            if matches!(due, Due::Nothing) && at == place.at {
                continue;
            }
            keep.place = None;
            drop(keep);
            let Some(leases) = deadlines.guards.remove(&place) else { continue };
            match due {
                Due::Loss => batch.losses.push(leases),
                Due::Nothing | Due::Renewal => {
                    let place = Deadline { at, ..place };
                    leases.keep().place = Some(place);
                    if matches!(due, Due::Renewal) {
                        batch.renewals.push((Renewal::of(&leases), Place::take(&self.renewing)));
                    }
                    deadlines.guards.insert(place, leases);
                }
            }
        }
        batch
    }
}

/// What has come due at one time.
#[derive(Default)]
struct Batch {
    renewals: Vec<(Renewal, Place)>,
    losses: Vec<Arc<LeaseSet>>,
}

/// The task. Its end, for whatever reason, is seen.
struct Driving {
    shared: Arc<Shared>,
    clock: Arc<dyn Clock>,
    role: Driver,
    /// It ended by itself, with the last guard, or because another has begun.
    is_over: bool,
}

impl Driving {
    async fn attend(mut self) {
        let (shared, clock, is_earlier) =
            (Arc::clone(&self.shared), Arc::clone(&self.clock), Arc::clone(&self.role.is_earlier));
        self.role.has_begun = true;
        loop {
            let (batch, next) = {
                let mut deadlines = shared.lock();
                if deadlines
                    .driver
                    .as_ref()
                    .is_some_and(|other| other.number != self.role.number && other.has_begun)
                {
                    self.is_over = true;
                    return;
                }
                let batch = shared.take_due(&mut deadlines, clock.now());
                let next = deadlines.guards.keys().next().map(|place| place.at);
                // One that was sent for in this one's place and has not begun, or has ended, leaves it the role.
                deadlines.driver = next.map(|looks_at| Driver { looks_at, ..self.role.clone() });
                self.is_over = next.is_none();
                (batch, next)
            };
            // SAFETY RULE (protocol §8): losses are fired on time. Nothing comes before those who have to stop working.
            batch.losses.iter().for_each(|leases| leases.signals.wake());
            for (renewal, place) in batch.renewals {
                tokio::spawn(async move {
                    renewal.run().await;
                    drop(place);
                });
            }
            if !batch.losses.is_empty() {
                // Not here, and last: the program's own functions may take their time, and who was woken must not wait behind
                // them for this worker.
                let untold: Vec<Untold> = batch.losses.into_iter().map(Untold::of).collect();
                tokio::spawn(async move { drop(untold) });
            }
            let Some(next) = next else { return };
            tokio::select! {
                biased;
                () = is_earlier.notified() => {}
                () = clock.sleep_until(next) => {}
            }
        }
    }
}

impl Drop for Driving {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let mut deadlines = self.shared.lock();
        if deadlines.driver.as_ref().is_some_and(|other| other.number != self.role.number) {
            return;
        }
        deadlines.driver = None;
        let left: Vec<Arc<LeaseSet>> = deadlines.guards.values().cloned().collect();
        // One that was never begun changes nothing, and must not be sent for again for ever.
        if !self.role.has_begun || left.is_empty() {
            return;
        }
        let former = self.role.former.take();
        let has_former = former.is_some();
        let again = former.map(|(former, _)| {
            self.shared.send_for(&mut deadlines, &former, None, self.clock.now(), &self.clock)
        });
        drop(deadlines);
        if let Some(again) = again {
            again();
        }
        if !has_former {
            tracing::warn!(
                guards = left.len(),
                "the runtime that renewed guards has ended; they are renewed again when redsync is next used in another",
            );
        }
        // Whoever waits for a loss in another runtime has it attended there.
        left.iter().for_each(|leases| leases.signals.wake());
    }
}

/// What comes due so soon after another is done together with it: fewer wake-ups, and the requests share their writes.
const TOGETHER: Duration = Duration::from_millis(5);

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keeper({} guards)", self.0.lock().guards.len())
    }
}
