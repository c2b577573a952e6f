//! Waiting in the queue for one lock, from taking a place to holding.

use std::future::{Future, pending, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use crate::attempt::{Unfinished, acquired, ask};
use crate::error::{Error, ErrorKind};
use crate::events;
use crate::guard::Guard;
use crate::leases::{Core, LeaseSet};
use crate::options::Settings;
use crate::protocol::{Instant, Ticket};
use crate::service::{WaitStatus, Waiter};

/// Takes the lock in its turn, for one who came at `began`, which is now; until `end`, if there is one.
///
/// Cancel safe: dropped at any point, the place in the queue is left, and what may have been granted is passed on.
pub(crate) async fn wait_in_queue(
    core: &Arc<Core>,
    settings: &Settings,
    began: Instant,
    end: Option<Instant>,
    tries: &mut u32,
) -> Result<Guard, Error> {
    let ticket = core.waiters.tickets.draw(&core.clock, began);
    let (exhausted, fresh_starts, pause, has_told) = (None, 0, Duration::ZERO, false);
    let mut wait =
        Wait { core, settings, ticket, began, end, tries, exhausted, fresh_starts, pause, has_told };
    loop {
        *wait.tries = wait.tries.saturating_add(1);
        if let Some(guard) = wait.with_a_token().await? {
            return Ok(guard);
        }
        // Whatever the nodes say, they are not asked with one token after the other without a pause.
        if let Some(many) = wait.tries.checked_sub(QUICK_TRIES) {
            let until = core.clock.now() + PAUSE_LEAST.saturating_mul(1 << many.min(10)).min(PAUSE_MOST);
            core.clock.sleep_until(end.map_or(until, |end| end.min(until))).await;
        }
    }
}

/// One caller's wait.
struct Wait<'a> {
    core: &'a Arc<Core>,
    settings: &'a Settings,
    /// Kept from one token to the next: it is the caller's place.
    ticket: Ticket,
    began: Instant,
    end: Option<Instant>,
    /// How many tokens it has had.
    tries: &'a mut u32,
    /// Before the next, after one for which no fence could be agreed on.
    pause: Duration,
    /// Since when leases are granted only when their time is all but over.
    exhausted: Option<Instant>,
    /// How many times that was forgotten, since it had waited for its turn meanwhile.
    fresh_starts: u32,
    has_told: bool,
}

impl Wait<'_> {
    /// Waits with a token of its own. Nothing if that can bring nothing any more, and another has to be drawn.
    async fn with_a_token(&mut self) -> Result<Option<Guard>, Error> {
        let core = self.core;
        if core.keeper.is_shut() {
            return Err(Error::ShutDown);
        }
        // The first time, it is its place in the queue. Later on, nodes may have forgotten what they had counted.
        let (ticket, is_first) = (self.ticket, *self.tries == 1);
        if !is_first {
            core.enter()?;
        }
        let proposed = || {
            if is_first {
                ticket
            } else {
                core.waiters.tickets.draw(&core.clock, core.clock.now()).max(ticket)
            }
        };
        let config = self.settings.config(core.clock.wall_micros(), proposed)?;
        // The undo is armed before the first byte is sent: from here on, dropping this future releases.
        let proposal = config.claim.fence;
        let leases = LeaseSet::new(Arc::clone(core), config);
        if let Some(proposal) = proposal.filter(|_| !is_first) {
            leases.propose(Ticket::from_micros(proposal.fence.as_u64()));
        }
        let guard = Guard::new(Arc::clone(&leases));
        let mut refusal = None;
        if !core.waiters.is_contended(&self.settings.name, || core.clock.now()) {
            match ask(&leases, self.time_left(), self.settings.shuffle_nodes).await {
                Ok(()) => {
                    return match acquired(guard, &leases, self.time_left()).await {
                        Ok(guard) => Ok(Some(guard)),
                        Err(unfinished) => self.unfinished(unfinished).await,
                    };
                }
                Err(error) if error.kind() == ErrorKind::ValidityExhausted => {
                    guard.give_back(self.time_left()).await;
                    return self.once_more(error);
                }
                // Waiting does not help. What a minority granted is given back first.
                Err(error) if error.remedy().is_some() => {
                    guard.give_back(self.time_left()).await;
                    return Err(error);
                }
                Err(error) => {
                    self.tell_withheld(&error);
                    refusal = Some(error);
                }
            }
        }
        // Boxed, since a lock that is free is taken without it.
        Box::pin(self.in_queue(guard, &leases, refusal)).await
    }

    async fn in_queue(
        &mut self,
        guard: Guard,
        leases: &Arc<LeaseSet>,
        refusal: Option<Error>,
    ) -> Result<Option<Guard>, Error> {
        let core = self.core;
        let joined = core.clock.now();
        let waiter = core.waiters.join(leases, self.ticket, self.began);
        if let Some(refusal) = refusal {
            waiter.heard(&refusal, self.began);
        }
        let mut first = FirstRequests::of(leases, &waiter);
        loop {
            if !waiter.attend() {
                // What may have been granted cannot be given back any more, and expires.
                return Err(Error::Runtime { reason: "the tokio runtime that it waits in has ended".into() });
            }
            let now = core.clock.now();
            let look_at = match waiter.status(self.began, now) {
                WaitStatus::Held => {
                    self.ticket = waiter.ticket().unwrap_or(self.ticket);
                    waiter.acquired();
                    // Heard in the background from here on, while nodes are to agree.
                    drop(first);
                    self.has_waited_since(joined, now);
                    let guard = match acquired(guard, leases, self.time_left()).await {
                        Ok(guard) => guard,
                        Err(unfinished) => return self.unfinished(unfinished).await,
                    };
                    let time_is_up = async {
                        match self.end {
                            Some(end) => core.clock.sleep_until(end).await,
                            None => pending().await,
                        }
                    };
                    tokio::select! {
                        biased;
                        () = leases.top_up() => {}
                        () = time_is_up => {}
                    }
                    return Ok(Some(guard));
                }
                WaitStatus::Over => {
                    self.ticket = waiter.ticket().unwrap_or(self.ticket);
                    drop(waiter);
                    guard.give_back(self.time_left()).await;
                    self.has_waited_since(joined, now);
                    let name = self.settings.name.clone();
                    let took = core.clock.now().saturating_since(self.began);
                    return self.once_more(Error::ValidityExhausted { name, took });
                }
                WaitStatus::NeedsNewToken => {
                    self.ticket = waiter.ticket().unwrap_or(self.ticket);
                    drop(waiter);
                    guard.give_back(self.time_left()).await;
                    self.has_waited_since(joined, now);
                    return Ok(None);
                }
                WaitStatus::Unreachable(error) => {
                    drop(waiter);
                    guard.give_back(self.time_left()).await;
                    return Err(error);
                }
                WaitStatus::Waiting(look_at) => look_at,
            };
            if core.keeper.is_shut() {
                return Err(Error::ShutDown);
            }
            if self.end.is_some_and(|end| end <= now) {
                let error = waiter.error(self.began, now);
                drop(waiter);
                guard.give_back(self.time_left()).await;
                return Err(error);
            }
            let look_at = self.end.map_or(look_at, |end| end.min(look_at));
            tokio::select! {
                biased;
                () = waiter.changed() => {}
                () = first.next() => {}
                () = core.clock.sleep_until(look_at) => {}
            }
        }
    }

    /// It was held, and no fence could be agreed on in time; or nobody can have it any more.
    async fn unfinished(&mut self, unfinished: Unfinished) -> Result<Option<Guard>, Error> {
        match unfinished.is_final {
            true => Err(unfinished.error),
            false => {
                let again = self.once_more(unfinished.error)?;
                // Whatever keeps nodes from agreeing may go on for a while.
                self.pause = (self.pause * 2).clamp(PAUSE_LEAST, PAUSE_MOST);
                let until = self.core.clock.now() + self.pause;
                self.core.clock.sleep_until(self.end.map_or(until, |end| end.min(until))).await;
                Ok(again)
            }
        }
    }

    /// Another token is to be drawn; unless it has been like that for longer than the expiry.
    fn once_more(&mut self, error: Error) -> Result<Option<Guard>, Error> {
        let now = self.core.clock.now();
        let since = *self.exhausted.get_or_insert(now);
        let is_over = self.end.is_some_and(|end| end <= now);
        match is_over || now.saturating_since(since) > self.settings.expiry() {
            true => Err(error),
            false => Ok(None),
        }
    }

    /// Where it waited for its turn as it should, what failed before that is over; unless that has been so again and again.
    fn has_waited_since(&mut self, joined: Instant, now: Instant) {
        let is_long = now.saturating_since(joined) > Duration::from_secs(1).max(self.settings.expiry());
        if is_long && self.exhausted.is_some() && self.fresh_starts < FRESH_STARTS {
            (self.exhausted, self.pause) = (None, Duration::ZERO);
            self.fresh_starts += 1;
        }
    }

    fn tell_withheld(&mut self, error: &Error) {
        if let Some(wait) = error.wait_for_restarted()
            && !self.has_told
        {
            events::waits_for_restarted(&self.settings.name, wait, error);
            self.has_told = true;
        }
    }

    fn time_left(&self) -> Duration {
        self.end.map_or(Duration::MAX, |end| end.saturating_since(self.core.clock.now()))
    }
}

const FRESH_STARTS: u32 = 3;

/// So many tokens are drawn as soon as another is needed.
const QUICK_TRIES: u32 = 16;
const PAUSE_LEAST: Duration = Duration::from_millis(2);
const PAUSE_MOST: Duration = Duration::from_millis(250);

/// The caller's own requests for a place, one to each node that has not granted the lease already. Those that were sent and
/// are not answered when this is dropped are heard in the background.
struct FirstRequests {
    leases: Arc<LeaseSet>,
    asked: Vec<(usize, Asked)>,
    were_sent: bool,
}

type Asked = Pin<Box<dyn Future<Output = ()> + Send>>;

impl FirstRequests {
    fn of(leases: &Arc<LeaseSet>, waiter: &Waiter) -> Self {
        let core = &leases.core;
        let nodes: Vec<usize> = (0..core.nodes.len()).filter(|&index| !leases.is_granted_on(index)).collect();
        let asked = leases.ask_to_enter(&nodes);
        let request =
            |index: usize| -> (usize, Asked) { (index, Box::pin(waiter.first_request(index, asked).run())) };
        let asked = nodes.into_iter().map(request).collect();
        Self { leases: Arc::clone(leases), asked, were_sent: false }
    }

    /// Completes when one was answered; never when all have been.
    async fn next(&mut self) {
        self.were_sent = true;
        one_answered(&mut self.asked).await;
    }
}

impl Drop for FirstRequests {
    fn drop(&mut self) {
        let mut asked = std::mem::take(&mut self.asked);
        if !self.were_sent {
            asked.iter().for_each(|(index, _)| self.leases.unapplied(*index));
            return;
        }
        if !asked.is_empty() {
            let core = &self.leases.core;
            let rest = async move {
                while !asked.is_empty() {
                    one_answered(&mut asked).await;
                }
            };
            // Those that may be needed to agree on a fence cannot wait.
            match self.leases.is_to_be_fenced() {
                true => core.tasks.run(rest),
                false => core.tasks.run_soon(&core.clock, rest),
            }
        }
    }
}

/// Takes those off that were answered, once one was; never completes when all have been. One that is slow keeps nobody from
/// being heard.
async fn one_answered(asked: &mut Vec<(usize, Asked)>) {
    poll_fn(|context| {
        let before = asked.len();
        asked.retain_mut(|(_, asked)| asked.as_mut().poll(context).is_pending());
        if asked.len() < before { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}
