//! Finishes what callers left: releases of dropped guards, undo of abandoned attempts, answers of slow nodes.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::Poll;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Notify;

use crate::clock::{Clock, Sleep};

/// Owns the background work of one [`Redsync`](crate::Redsync).
///
/// Each errand is a task of its own and ends by itself: all it does has deadlines. (One task for all of them would
/// share one cooperative budget, and errands would starve each other under load.) Giving an errand never blocks. It
/// works outside a runtime too, where the errand goes to the first runtime that a lock was asked for in; if that has
/// ended, the errand is dropped, and may say so.
pub(crate) struct Reaper {
    /// The runtime that all errands go to, where it is known to outlive them.
    home: OnceLock<Handle>,
    /// The first runtime that a lock was asked for in.
    first: OnceLock<Handle>,
    under_way: Arc<UnderWay>,
    chasing: Arc<UnderWay>,
    batch: Arc<Batch>,
}

/// Work that goes on without a caller.
type Errand = Pin<Box<dyn Future<Output = ()> + Send>>;

#[derive(Default)]
struct UnderWay {
    errands: AtomicUsize,
    all_done: Notify,
}

impl Reaper {
    pub(crate) fn new() -> Self {
        Self {
            home: OnceLock::new(),
            first: OnceLock::new(),
            under_way: Arc::default(),
            chasing: Arc::default(),
            batch: Arc::default(),
        }
    }

    /// Sends all errands to `runtime`, wherever they are given: a caller's own may stand still or end.
    #[cfg(feature = "blocking")]
    pub(crate) fn move_in(&self, runtime: Handle) {
        let _ = self.home.set(runtime);
    }

    /// Remembers the runtime that the caller works in, for errands that are given outside of any. False where there is
    /// none.
    pub(crate) fn settle(&self) -> bool {
        match Handle::try_current() {
            Ok(current) => {
                self.first.get_or_init(|| current);
                true
            }
            Err(_) => false,
        }
    }

    /// Does `errand` in the background; drops it where there is no runtime to do it in.
    pub(crate) fn run(&self, errand: impl Future<Output = ()> + Send + 'static) {
        let current = Handle::try_current().ok();
        if let Some(runtime) = self.home.get().or(current.as_ref()).or(self.first.get()) {
            let place = Place::take(&self.under_way);
            runtime.spawn(async move {
                let _place = place;
                errand.await;
            });
        }
    }

    /// Does `errand` a moment later, in one task with others: for answers that are all but there. Under load this
    /// spares a task for each.
    pub(crate) fn run_soon(&self, clock: &Arc<dyn Clock>, errand: impl Future<Output = ()> + Send + 'static) {
        let place = Place::take(&self.under_way);
        let errand: Errand = Box::pin(async move {
            let _place = place;
            errand.await;
        });
        if self.batch.add(errand) {
            let moment = clock.sleep_until(clock.now() + MOMENT);
            self.run(Departing { batch: Some(Arc::clone(&self.batch)) }.depart(moment));
        }
    }

    /// A place among those who ask again and again; none when there are too many.
    pub(crate) fn begin_chase(&self) -> Option<Place> {
        let place = Place::take(&self.chasing);
        (self.chasing.errands.load(Ordering::Relaxed) <= MOST_CHASES).then_some(place)
    }

    /// Completes when no errand is under way.
    pub(crate) async fn drain(&self) {
        self.batch.is_urgent.notify_one();
        loop {
            // Listens before it looks, so that the last errand cannot end in between unheard.
            let all_done = self.under_way.all_done.notified();
            if self.under_way.errands.load(Ordering::Acquire) == 0 {
                return;
            }
            all_done.await;
        }
    }
}

/// Errands that wait to be done together.
#[derive(Default)]
struct Batch {
    errands: Mutex<Vec<Errand>>,
    is_urgent: Notify,
}

impl Batch {
    /// Adds an errand, and says whether it is the first, so that somebody has to see to the batch.
    fn add(&self, errand: Errand) -> bool {
        let mut errands = self.errands.lock().unwrap_or_else(PoisonError::into_inner);
        errands.push(errand);
        errands.len() == 1
    }

    fn take(&self) -> Vec<Errand> {
        std::mem::take(&mut *self.errands.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Sees to one batch. Dropped before that, with its runtime, it drops the errands, so that the next one is the first
/// again.
struct Departing {
    batch: Option<Arc<Batch>>,
}

impl Departing {
    async fn depart(mut self, moment: Sleep) {
        if let Some(batch) = &self.batch {
            tokio::select! {
                () = moment => {}
                () = batch.is_urgent.notified() => {}
            }
        }
        let errands = self.batch.take().map(|batch| batch.take()).unwrap_or_default();
        // Most are done by being looked at once; without a budget, or those after the first hundred would look undone.
        tokio::task::coop::unconstrained(async {
            for mut errand in errands {
                if poll_fn(|context| Poll::Ready(errand.as_mut().poll(context))).await.is_pending() {
                    tokio::spawn(errand);
                }
            }
        })
        .await;
    }
}

impl Drop for Departing {
    fn drop(&mut self) {
        if let Some(batch) = &self.batch {
            drop(batch.take());
        }
    }
}

/// How many errands may ask again and again. Each costs a task and a request every few seconds.
const MOST_CHASES: usize = 1_000;

/// How long errands wait for others: far less than anybody would notice, and more than most answers take.
const MOMENT: Duration = Duration::from_millis(3);

/// An errand's place among those under way, given back also when its runtime drops it.
pub(crate) struct Place(Arc<UnderWay>);

impl Place {
    fn take(under_way: &Arc<UnderWay>) -> Self {
        under_way.errands.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(under_way))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.0.errands.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.all_done.notify_waiters();
        }
    }
}

impl fmt::Debug for Reaper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reaper({} errands)", self.under_way.errands.load(Ordering::Relaxed))
    }
}
