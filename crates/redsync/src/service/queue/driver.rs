//! The task that renews the places of all who wait for one lock.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::Notify;

use super::Queue;
use super::request::{Request, Returned};
use super::state::{Driver, IDLE, LINGER};
use crate::events::RequestKind;
use crate::leases::Core;

/// The requests that are under way. Those that are not answered when this is dropped are heard in the background.
struct Requests {
    queue: Arc<Queue>,
    core: Arc<Core>,
    sent: Vec<Request>,
}

impl Requests {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<(Request, Returned)> {
        for at in 0..self.sent.len() {
            if let Poll::Ready(returned) = self.sent[at].poll(context) {
                return Poll::Ready((self.sent.swap_remove(at), returned));
            }
        }
        Poll::Pending
    }
}

impl Drop for Requests {
    fn drop(&mut self) {
        for mut request in std::mem::take(&mut self.sent) {
            let (queue, core) = (Arc::clone(&self.queue), Arc::clone(&self.core));
            self.core.tasks.run(async move {
                let returned = poll_fn(|context| request.poll(context)).await;
                queue.answered(&core, request.question(), returned);
            });
        }
    }
}

impl Queue {
    /// Makes sure that somebody renews the places. False where there is no runtime to do it in: none, or one that has ended.
    pub(super) fn attend(self: &Arc<Self>, core: &Arc<Core>) -> bool {
        let mut state = self.lock();
        let now = core.clock.now();
        if state.driver.as_ref().is_some_and(|present| now <= present.looks_at + OVERDUE) {
            return true;
        }
        let Some(runtime) = core.tasks.runtime() else { return false };
        let mut spoilt = Vec::new();
        if state.driver.is_some() || std::mem::take(&mut state.is_abandoned) {
            // The one before it stands still with its runtime, or has ended with it, and with what it was asking for.
            for index in 0..state.views.len() {
                state.views[index].is_asking = false;
                state.schedule_all(index, now);
            }
            // Nor is it known what becomes of the leases that it was giving back.
            let waiting = state.waiters.values().map(|entry| &entry.waiting);
            spoilt.extend(waiting.filter(|waiting| waiting.leases.yields_lost()).cloned());
        }
        state.attendants += 1;
        let number = state.attendants;
        let is_earlier = Arc::<Notify>::default();
        state.driver = Some(Driver { number, looks_at: now, is_earlier: Arc::clone(&is_earlier) });
        drop(state);
        spoilt.iter().for_each(|waiting| waiting.changed.notify_one());
        let (queue, core) = (Arc::clone(self), Arc::clone(core));
        let attending = Driving { queue, core, number, is_earlier, has_begun: false, is_over: false };
        // A runtime that has ended drops the task at once, and with it the mark that there is one.
        runtime.spawn(attending.attend());
        self.is_attended()
    }
}

/// The task that renews places. Its end, for whatever reason, is seen.
struct Driving {
    queue: Arc<Queue>,
    core: Arc<Core>,
    number: u64,
    is_earlier: Arc<Notify>,
    has_begun: bool,
    is_over: bool,
}

impl Driving {
    async fn attend(mut self) {
        self.has_begun = true;
        let (queue, core) = (Arc::clone(&self.queue), Arc::clone(&self.core));
        let mut requests = Requests { queue: Arc::clone(&queue), core: Arc::clone(&core), sent: Vec::new() };
        loop {
            let now = core.clock.now();
            let next = {
                let mut state = queue.lock();
                if state.driver.as_ref().is_none_or(|present| present.number != self.number) {
                    self.is_over = true;
                    return;
                }
                if state.order.is_empty() && state.empty_since + LINGER <= now && requests.sent.is_empty() {
                    state.driver = None;
                    self.is_over = true;
                    drop(state);
                    core.waiters.close(&queue);
                    return;
                }
                for index in 0..core.nodes.len() {
                    let asked = state.take_due(index, now);
                    if !asked.is_empty() {
                        requests.sent.push(Request::new(&core, index, RequestKind::Enter, asked));
                    }
                }
                for (index, asked) in state.take_claims(now) {
                    requests.sent.push(Request::new(&core, index, RequestKind::Yield, vec![asked]));
                }
                let next = match state.order.is_empty() && !requests.sent.is_empty() {
                    // Nobody waits any more; what is under way is waited for.
                    true => now + IDLE,
                    false => state.next_look(now),
                };
                if let Some(present) = &mut state.driver {
                    present.looks_at = next;
                }
                next
            };
            tokio::select! {
                biased;
                (request, returned) = poll_fn(|context| requests.poll_next(context)) => {
                    let mut state = queue.lock();
                    let is_present =
                        state.driver.as_ref().is_some_and(|present| present.number == self.number);
                    if is_present && matches!(request.what, RequestKind::Enter) {
                        state.views[request.index].is_asking = false;
                    }
                    drop(state);
                    queue.answered(&core, request.question(), returned);
                }
                () = self.is_earlier.notified() => {}
                () = core.clock.sleep_until(next) => {}
            }
        }
    }
}

impl Drop for Driving {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        // Its runtime has ended. Whoever waits in another has it attended there.
        {
            let mut state = self.queue.lock();
            if state.driver.as_ref().is_some_and(|present| present.number == self.number) {
                state.driver = None;
                state.is_abandoned = true;
            }
        }
        // One that was never begun changes nothing, and must not be sent for again for ever.
        if self.has_begun {
            self.queue.wake_all();
        }
        self.core.waiters.close(&self.queue);
    }
}

/// So long after it should have looked, the driver is taken to stand still with its runtime.
const OVERDUE: Duration = Duration::from_millis(250);
