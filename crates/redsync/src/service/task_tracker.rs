//! Finishes what callers left: releases of dropped guards, undo of abandoned attempts, answers of slow nodes.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::Poll;
use std::time::Duration;

use tokio::runtime::{self, Handle};
use tokio::sync::Notify;

use crate::clock::{Clock, Sleep};

/// Owns the background work of one [`Redsync`](crate::Redsync).
///
/// Each task is a task of its own and ends by itself: all it does has deadlines. (One task for all of them would
/// share one cooperative budget, and tasks would starve each other under load.) Giving a task never blocks. It
/// works outside a runtime too, where the task goes to the first runtime that a lock was asked for in; if that has
/// ended, the task is dropped, and may say so.
pub(crate) struct TaskTracker {
    /// The runtime that all tasks go to, where it is known to outlive them.
    home: OnceLock<Handle>,
    /// The first runtime that a lock was asked for in.
    first: OnceLock<Handle>,
    under_way: Arc<UnderWay>,
    chasing: Arc<UnderWay>,
    batches: Arc<Batches>,
}

/// Work that goes on without a caller.
type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

#[derive(Default)]
pub(super) struct UnderWay {
    tasks: AtomicUsize,
    all_done: Notify,
}

impl TaskTracker {
    pub(crate) fn new() -> Self {
        Self {
            home: OnceLock::new(),
            first: OnceLock::new(),
            under_way: Arc::default(),
            chasing: Arc::default(),
            batches: Arc::default(),
        }
    }

    /// Sends all tasks to `runtime`, wherever they are given: a caller's own may stand still or end.
    #[cfg(feature = "blocking")]
    pub(crate) fn move_in(&self, runtime: Handle) {
        let _ = self.home.set(runtime);
    }

    /// Remembers the runtime that the caller works in, for tasks that are given outside of any. False where there is
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

    /// Does `task` in the background; drops it where there is no runtime to do it in.
    pub(crate) fn run(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(runtime) = self.runtime() {
            let place = Place::take(&self.under_way);
            runtime.spawn(async move {
                let _place = place;
                task.await;
            });
        }
    }

    /// Does `task` a moment later, in one task with others of the same runtime: for answers that are all but there.
    /// Under load this spares a task for each.
    pub(crate) fn run_soon(&self, clock: &Arc<dyn Clock>, task: impl Future<Output = ()> + Send + 'static) {
        let Some(runtime) = self.runtime() else { return };
        let place = Place::take(&self.under_way);
        let task: Task = Box::pin(async move {
            let _place = place;
            task.await;
        });
        if self.batches.add(runtime.id(), task) {
            let moment = clock.sleep_until(clock.now() + BATCH_DELAY);
            let departing = Departing { batches: Some(Arc::clone(&self.batches)), runtime: runtime.id() };
            runtime.spawn(departing.depart(moment));
        }
    }

    /// Where tasks that are given here are done.
    pub(crate) fn runtime(&self) -> Option<Handle> {
        self.home.get().cloned().or_else(|| Handle::try_current().ok()).or_else(|| self.first.get().cloned())
    }

    /// A place among those who ask again and again; none when there are too many.
    pub(crate) fn begin_chase(&self) -> Option<Place> {
        let place = Place::take(&self.chasing);
        (self.chasing.tasks.load(Ordering::Relaxed) <= MOST_RETRIES).then_some(place)
    }

    /// Completes when no task is under way.
    pub(crate) async fn drain(&self) {
        self.batches.is_urgent.notify_waiters();
        self.batches.is_urgent.notify_one();
        self.under_way.all_done().await;
    }
}

impl UnderWay {
    /// Completes when nothing is under way.
    pub(super) async fn all_done(&self) {
        loop {
            // Listens before it looks, so that the last one cannot end in between unheard.
            let all_done = self.all_done.notified();
            if self.tasks.load(Ordering::Acquire) == 0 {
                return;
            }
            all_done.await;
        }
    }
}

/// Errands that wait to be done together: for each runtime its own, since one that stands still must not keep the others
/// waiting.
#[derive(Default)]
struct Batches {
    /// There is one runtime, as a rule.
    tasks: Mutex<Vec<(runtime::Id, Vec<Task>)>>,
    is_urgent: Notify,
}

impl Batches {
    /// Adds a task, and says whether it is its runtime's first, so that somebody has to see to the batch.
    fn add(&self, runtime: runtime::Id, task: Task) -> bool {
        let mut batches = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        match batches.iter_mut().find(|(other, _)| *other == runtime) {
            Some((_, batch)) => batch.push(task),
            None => {
                batches.push((runtime, vec![task]));
                return true;
            }
        }
        false
    }

    fn take(&self, runtime: runtime::Id) -> Vec<Task> {
        let mut batches = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        let at = batches.iter().position(|(other, _)| *other == runtime);
        at.map(|at| batches.swap_remove(at).1).unwrap_or_default()
    }
}

/// Sees to one batch. Dropped before that, with its runtime, it drops the tasks.
struct Departing {
    /// Taken when it is done.
    batches: Option<Arc<Batches>>,
    runtime: runtime::Id,
}

impl Departing {
    async fn depart(mut self, moment: Sleep) {
        if let Some(batches) = &self.batches {
            tokio::select! {
                biased;
                () = moment => {}
                () = batches.is_urgent.notified() => {}
            }
        }
        let tasks = self.batches.take().map(|batches| batches.take(self.runtime)).unwrap_or_default();
        // Most are done by being looked at once; without a budget, or those after the first hundred would look undone.
        tokio::task::coop::unconstrained(async {
            for mut task in tasks {
                if poll_fn(|context| Poll::Ready(task.as_mut().poll(context))).await.is_pending() {
                    tokio::spawn(task);
                }
            }
        })
        .await;
    }
}

impl Drop for Departing {
    fn drop(&mut self) {
        if let Some(batches) = &self.batches {
            drop(batches.take(self.runtime));
        }
    }
}

/// How many tasks may ask again and again. Each costs a task and a request every few seconds.
const MOST_RETRIES: usize = 1_000;

/// How long tasks wait for others: far less than anybody would notice, and more than most answers take.
const BATCH_DELAY: Duration = Duration::from_millis(3);

/// A task's place among those under way, given back also when its runtime drops it.
pub(crate) struct Place(Arc<UnderWay>);

impl Place {
    pub(super) fn take(under_way: &Arc<UnderWay>) -> Self {
        under_way.tasks.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(under_way))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.0.tasks.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.all_done.notify_waiters();
        }
    }
}

impl fmt::Debug for TaskTracker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TaskTracker({} tasks)", self.under_way.tasks.load(Ordering::Relaxed))
    }
}
