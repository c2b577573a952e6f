//! Finishes what callers left: releases of dropped guards, undo of abandoned attempts, answers of slow nodes.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

/// Work that goes on without a caller.
pub(crate) type Errand = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Owns the background work of one [`Redsync`](crate::Redsync): a single task, which ends when its errands are done
/// and nobody can give it more.
///
/// Giving it an errand never blocks and works outside a runtime too, as long as the runtime that its task lives in
/// is there. If that runtime ended, the task is started anew in the caller's; where there is none, the errand cannot
/// be done, and is told so by being dropped.
pub(crate) struct Reaper {
    /// Where errands go; replaced when the task is gone.
    desk: Mutex<Option<mpsc::UnboundedSender<Order>>>,
}

enum Order {
    Run(Errand),
    /// Says when all errands given before have been done.
    Drain(oneshot::Sender<()>),
}

impl Reaper {
    pub(crate) const fn new() -> Self {
        Self {
            desk: Mutex::new(None),
        }
    }

    /// Does `errand` in the background. False if there is no runtime left to do it in; it is dropped then.
    pub(crate) fn run(&self, errand: Errand) -> bool {
        self.send(Order::Run(errand))
    }

    /// Completes when all errands given before have been done, or can no longer be done.
    pub(crate) async fn drain(&self) {
        let idle = self.desk.lock().unwrap_or_else(PoisonError::into_inner).is_none();
        let (done, drained) = oneshot::channel();
        if !idle && self.send(Order::Drain(done)) {
            let _ = drained.await;
        }
    }

    fn send(&self, order: Order) -> bool {
        let mut desk = self.desk.lock().unwrap_or_else(PoisonError::into_inner);
        let order = match &*desk {
            None => order,
            Some(sender) => match sender.send(order) {
                Ok(()) => return true,
                Err(mpsc::error::SendError(order)) => order,
            },
        };
        let Ok(runtime) = Handle::try_current() else {
            return false;
        };
        let (sender, orders) = mpsc::unbounded_channel();
        runtime.spawn(work(orders));
        let sent = sender.send(order).is_ok();
        *desk = Some(sender);
        sent
    }
}

async fn work(mut orders: mpsc::UnboundedReceiver<Order>) {
    let mut errands: FuturesUnordered<Errand> = FuturesUnordered::new();
    let mut draining: Vec<oneshot::Sender<()>> = Vec::new();
    let mut open = true;
    while open || !errands.is_empty() {
        tokio::select! {
            order = orders.recv(), if open => match order {
                Some(Order::Run(errand)) => errands.push(errand),
                Some(Order::Drain(done)) => draining.push(done),
                None => open = false,
            },
            Some(()) = errands.next() => {}
        }
        if errands.is_empty() {
            for done in draining.drain(..) {
                let _ = done.send(());
            }
        }
    }
}

impl fmt::Debug for Reaper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reaper")
    }
}
