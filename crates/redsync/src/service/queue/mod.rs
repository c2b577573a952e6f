//! One lock's queue, as this process sees it: who of its callers waits, and what each node said of them.
//!
//! One task, the [`driver`], renews the places of all in one request for each node, gives back leases that are too few,
//! and asks anew when a holder's time runs out. Grants do not pass through it: whoever hears one wakes the caller.
//!
//! | file | idea |
//! |---|---|
//! | `mod` | what is heard of a node, and what follows from it |
//! | `state` | who waits, and what is due when |
//! | `request` | places that are asked for, on their way to one node |
//! | `driver` | the task |
//! | `waiter` | one caller's part in it |

mod driver;
mod request;
mod state;
mod waiter;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::Notify;

use self::request::{Question, Returned};
use self::state::{LINGER, State, Waiting};
pub(crate) use self::waiter::{WaitStatus, Waiter};
use crate::error::NodeError;
use crate::events;
use crate::leases::{Core, Standing, Told};
use crate::node::{Entered, Grant, Placed, TimeLeft, Uptime};
use crate::protocol::{Instant, LockName, Ticket, Token};

/// All of this process who wait for one lock.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) name: LockName,
    state: Mutex<State>,
}

impl Queue {
    pub(super) fn new(name: LockName, nodes: usize) -> Self {
        Self { name, state: Mutex::new(State::new(nodes)) }
    }

    /// Nobody waits or listens.
    pub(super) fn is_deserted(&self) -> bool {
        self.lock().waiters.is_empty()
    }

    /// Somebody waits, or had to a moment ago. One that has the lock to itself again asks for a lease, not for a place.
    pub(super) fn is_contended(&self, now: Instant) -> bool {
        let state = self.lock();
        !state.order.is_empty() || now < state.queued_at + LINGER
    }

    pub(super) fn is_attended(&self) -> bool {
        self.lock().driver.is_some()
    }

    pub(super) fn forget(&self, token: &Token) {
        let gone = self.lock().waiters.remove(token);
        // With no lock held: it may be the last that knows of it.
        drop(gone);
    }

    pub(super) fn wake_all(&self) {
        let waiting: Vec<Arc<Waiting>> =
            self.lock().waiters.values().map(|entry| Arc::clone(&entry.waiting)).collect();
        waiting.iter().for_each(|waiting| waiting.changed.notify_one());
    }

    /// Node `index` tells of a grant. False if nobody here wants it.
    pub(super) fn granted(&self, core: &Core, index: usize, grant: &Grant) -> bool {
        let waiting = self.lock().waiters.get(&grant.token).map(|entry| Arc::clone(&entry.waiting));
        let Some(waiting) = waiting else { return false };
        // What is not known at once counts when the node is asked.
        let uptime = match waiting.leases.config.restart_guard {
            true => match core.nodes[index].uptime().as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(Ok(uptime)) => uptime,
                Poll::Ready(Err(_)) | Poll::Pending => Uptime::Unknown,
            },
            false => Uptime::Unbroken,
        };
        match waiting.leases.told(index, grant, uptime) {
            Told::Counts => self.settle(core, &grant.token, &waiting),
            Told::TakenAlong => {}
            Told::Unwanted => return false,
            // One that is stale may be so because requests overtook each other on their way: how things stand, the node knows.
            Told::Stale | Told::InDoubt => {
                self.plan(core.clock.now(), |state, now| state.schedule(&grant.token, index, now));
                self.settle(core, &grant.token, &waiting);
            }
        }
        true
    }

    /// Node `index` tells that the lock was let go of.
    pub(super) fn freed(&self, index: usize, now: Instant) {
        self.plan(now, |state, now| state.schedule_first(index, now));
    }

    /// Node `index` may have told what was not heard; or forgotten what it had counted, so that fences are to be later ones.
    pub(super) fn interrupted(&self, index: usize, now: Instant, later: Ticket) {
        self.plan(now, |state, now| {
            state.waiters.values().for_each(|entry| entry.waiting.leases.propose(later));
            state.schedule_all(index, now);
            state.views[index].retry_at = now;
        });
    }

    /// Has something done at `at`, and the driver told if that is earlier than it knows.
    fn plan(&self, at: Instant, plan: impl FnOnce(&mut State, Instant)) {
        let mut state = self.lock();
        plan(&mut state, at);
        let is_earlier = state.is_earlier(at);
        drop(state);
        tell(is_earlier);
    }

    /// Looks at how the leases of one who waits stand, after a node said something of them.
    fn settle(&self, core: &Core, token: &Token, waiting: &Waiting) {
        let leases = &waiting.leases;
        let is_held = leases.is_valid();
        if is_held || leases.standing() == Standing::Lost || leases.needs_new_token() {
            if is_held {
                // From here on it is its holder's to keep: nothing is renewed for one who does not come for it.
                self.lock().unline(token, core.clock.now());
            }
            waiting.changed.notify_one();
            return;
        }
        if core.nodes.len() == 1 {
            return;
        }
        let has_some = leases.has_some();
        let (now, window) = (core.clock.now(), core.waiters.tickets.claim_window());
        let mut state = self.lock();
        let key = state.key(now);
        let Some(entry) = state.waiters.get_mut(token).filter(|entry| entry.is_in_queue) else { return };
        match (has_some, entry.claim) {
            (true, None) => {
                let pause = (window * (1 << entry.yields.min(8))).min(leases.refresh());
                let at = now + pause.mul_f64(1.0 + jitter(token, key.1));
                let key = (at, key.1);
                entry.claim = Some(key);
                state.claims.insert(key, token.clone());
                let is_earlier = state.is_earlier(at);
                drop(state);
                tell(is_earlier);
            }
            (false, Some(key)) => {
                entry.claim = None;
                state.claims.remove(&key);
            }
            (true, Some(_)) | (false, None) => {}
        }
    }

    /// What came of asking node `index` for `places`.
    fn answered(&self, core: &Core, question: Question<'_>, returned: Returned) {
        let now = core.clock.now();
        let Question { index, what, asked } = question;
        let is_yielding = question.is_yielding();
        if cfg!(feature = "metrics")
            && let Some(first) = asked.first()
        {
            let took = now.saturating_since(first.sent);
            events::answered(&*core.nodes[index], what, took, returned.as_ref().err());
        }
        match returned {
            Ok((entered, uptime)) => {
                let mut doubts = vec![None; asked.len()];
                for ((asked, placed), doubt) in asked.iter().zip(&entered.places).zip(&mut doubts) {
                    let leases = &asked.waiting.leases;
                    if is_yielding {
                        leases.yielded(index, asked.number);
                    }
                    match placed {
                        Placed::Granted(fence) => {
                            *doubt = leases.vote(index, (asked.number, asked.sent), *fence, uptime).err();
                        }
                        Placed::Queued(_) => leases.queued(index, asked.number),
                    }
                }
                if let Some(first) = asked.first() {
                    core.waiters.tickets.answered(index, first.sent, now, entered.micros);
                }
                self.note(core, question, &entered, doubts);
            }
            Err(error) => {
                for asked in asked {
                    match (is_yielding, error.is_certainly_unapplied()) {
                        (true, true) => asked.waiting.leases.not_yielded(index, asked.number),
                        (true, false) => asked.waiting.leases.yield_lost(index),
                        (false, true) => asked.waiting.leases.unapplied(index),
                        (false, false) => {}
                    }
                }
                let mut state = self.lock();
                if is_yielding {
                    for asked in asked {
                        // Not again and again while the node is away.
                        if let Some(entry) = state.waiters.get_mut(asked.token()) {
                            entry.yields = entry.yields.saturating_add(1);
                        }
                    }
                }
                let view = &mut state.views[index];
                let since = asked.first().map_or(now, |asked| asked.sent);
                let needs_remedy = error.remedy().is_some();
                view.failed(error, since);
                let pause = RETRY_LEAST.saturating_mul(1 << view.failures.min(12));
                let most =
                    asked.iter().map(|asked| asked.waiting.leases.refresh()).min().unwrap_or(RETRY_MOST);
                view.retry_at = now + pause.min(most.min(RETRY_MOST));
                let retry_at = view.retry_at;
                asked.iter().for_each(|asked| state.schedule(asked.token(), index, retry_at));
                let is_earlier = state.is_earlier(retry_at);
                drop(state);
                tell(is_earlier);
                if needs_remedy {
                    // It may be one node too many.
                    asked.iter().for_each(|asked| asked.waiting.changed.notify_one());
                }
            }
        }
        for asked in asked {
            self.settle(core, asked.token(), &asked.waiting);
            let leases = &asked.waiting.leases;
            if leases.is_released() && leases.is_granted_on(index) {
                // It came after the release.
                let leases = Arc::clone(leases);
                core.tasks.run(async move { leases.retry_release().await });
            }
        }
    }

    /// Takes down what node `index` said, and plans when it is asked again.
    fn note(&self, core: &Core, question: Question<'_>, entered: &Entered, doubts: Vec<Option<NodeError>>) {
        let Question { index, asked, .. } = question;
        let now = core.clock.now();
        let mut state = self.lock();
        // A node whose grants never count is as good as one that does not answer.
        if !doubts.iter().flatten().any(|doubt| matches!(doubt, NodeError::Withheld { wait: None, .. })) {
            state.views[index].recovered();
        }
        let mut first_of_us: Option<u64> = None;
        for ((asked, placed), doubt) in asked.iter().zip(&entered.places).zip(doubts) {
            let (token, refresh) = (asked.token(), asked.waiting.leases.refresh());
            let mut at = asked.sent + refresh.mul_f64(1.0 - jitter(token, state.keys) / 10.0);
            if let Placed::Queued(position) = *placed {
                state.queued_at = now;
                first_of_us = Some(first_of_us.map_or(position, |first| first.min(position)));
                if let Some(within) = entered.ask_within {
                    at = at.min(now + within * u32::try_from(position.clamp(1, 20)).unwrap_or(1));
                }
            }
            if let Some(doubt) = doubt {
                if let NodeError::Withheld { wait: Some(wait), .. } = doubt {
                    at = at.min(now + wait + CLOCK_MARGIN);
                }
                state.views[index].unconfirmed(doubt, asked.sent);
            }
            if question.is_yielding()
                && let Some(entry) = state.waiters.get_mut(token)
            {
                entry.yields = if matches!(placed, Placed::Granted(_)) { entry.yields + 1 } else { 0 };
            }
            // What was planned while the question was under way is not put off by its answer.
            let planned = state.waiters.get(token).and_then(|entry| entry.due[index]).map(|(at, _)| at);
            state.schedule(token, index, planned.map_or(at, |planned| planned.min(at)));
            let entry = state.waiters.get(token).filter(|entry| entry.is_in_queue);
            let correction =
                entry.and_then(|entry| core.waiters.tickets.correction(entry.ticket, entry.drawn));
            if let Some(corrected) = correction {
                state.exchange(token, corrected);
                (0..state.views.len()).for_each(|index| state.schedule(token, index, now));
            }
        }
        let has_first =
            state.order.first().is_some_and(|(_, first)| asked.iter().any(|asked| asked.token() == first));
        let is_ours =
            |state: &State| state.waiters.keys().any(|token| token.as_str() == entered.holder.token());
        let is_foreign = entered.holder.owner().is_none() && !is_ours(&state);
        let view = &mut state.views[index];
        view.retry_at = now;
        if let Some(position) = first_of_us {
            let is_closer = view.position == 0 || position < view.position;
            if has_first || is_closer {
                view.position = position;
            }
        }
        if let TimeLeft::For(left) = entered.holder.time_left() {
            // Whoever comes first hands the lease to the first in the queue, whoever that is: the others need not hurry. Except the
            // second, which may be the first by now: one that left the queue tells nobody.
            let behind = u32::try_from(view.position.saturating_sub(2).min(100)).unwrap_or(100);
            view.look_at = Some(now + left + CLOCK_MARGIN + STAGGER * behind);
        } else {
            view.look_at = None;
        }
        if is_foreign {
            // Somebody's who does not hand over, and tells nobody: the first of us looks whether it is gone.
            let behind = u32::try_from(view.position.saturating_sub(1).min(50)).unwrap_or(50);
            let soon = now + FOREIGN + STAGGER * behind;
            view.look_at = Some(view.look_at.map_or(soon, |at| at.min(soon)));
        }
        view.holder = Some(entered.holder.clone());
        let next = state.next_look(now);
        let is_earlier = state.is_earlier(next);
        drop(state);
        tell(is_earlier);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic cannot leave it half-changed in a way that matters: each change below stands for itself.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells a driver, if it has to know.
fn tell(driver: Option<Arc<Notify>>) {
    if let Some(driver) = driver {
        driver.notify_one();
    }
}

/// A share between 0 and 1 that is as good as random and the same each time: schedules can be run again.
fn jitter(token: &Token, salt: u64) -> f64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64 ^ salt.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for byte in token.as_str().bytes().take(16) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    (hash >> 11) as f64 / (1_u64 << 53) as f64
}

/// After a holder's time is over, for the first of us: clocks are not exact to the millisecond.
const CLOCK_MARGIN: Duration = Duration::from_millis(3);

/// How much later each further one in the queue asks, from the third on.
const STAGGER: Duration = Duration::from_millis(20);

/// How often the first in the queue looks whether the lease of another library's is gone: that is how those wait, too.
const FOREIGN: Duration = Duration::from_millis(80);

/// After a node failed, until it is asked again: doubled for each further failure.
const RETRY_LEAST: Duration = Duration::from_millis(10);
const RETRY_MOST: Duration = Duration::from_secs(1);
