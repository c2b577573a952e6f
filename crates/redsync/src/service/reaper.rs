//! Finishes what callers left: releases of dropped guards, undo of abandoned attempts, answers of slow nodes.

use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::runtime::Handle;
use tokio::sync::Notify;

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
}

#[derive(Default)]
struct UnderWay {
    errands: AtomicUsize,
    all_done: Notify,
}

impl Reaper {
    pub(crate) fn new() -> Self {
        Self { home: OnceLock::new(), first: OnceLock::new(), under_way: Arc::default() }
    }

    /// Sends all errands to `runtime`, wherever they are given: a caller's own may stand still or end.
    #[cfg(feature = "blocking")]
    pub(crate) fn move_in(&self, runtime: Handle) {
        let _ = self.home.set(runtime);
    }

    /// Remembers the runtime that the caller works in, for errands that are given outside of any.
    pub(crate) fn settle(&self) {
        if self.first.get().is_none()
            && let Ok(current) = Handle::try_current()
        {
            let _ = self.first.set(current);
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

    /// Completes when no errand is under way.
    pub(crate) async fn drain(&self) {
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

/// An errand's place among those under way, given back also when its runtime drops it.
struct Place(Arc<UnderWay>);

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
