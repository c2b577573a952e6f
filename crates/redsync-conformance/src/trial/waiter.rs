//! Somebody in the queue, and what they may expect of the node.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use redsync::{
    Answer, Applied, Entered, Fence, Grant, NodeFault, Place, Placed, Proposal, QueueEntry, Round, Ticket,
};
use tokio::time::sleep;

use super::owner::abandon;
use super::{Breach, Client, Heard, Lease, Lock, Owner, Verdict, answered};

/// Somebody who may wait in the queue. Each of its requests has a round of its own.
#[derive(Clone)]
pub(crate) struct Waiter {
    owner: Owner,
    client: Client,
    ticket: Ticket,
    round: Arc<AtomicU32>,
}

impl Waiter {
    pub(super) fn new(owner: Owner, client: Client, ticket: Ticket) -> Self {
        Self { owner, client, ticket, round: Arc::default() }
    }

    /// The same, at another ticket from the next request on.
    pub(crate) fn at(&self, ticket: u64) -> Self {
        Self { ticket: Ticket::from_micros(ticket), ..self.clone() }
    }

    /// The same, who asks for a fence from the next request on.
    pub(crate) fn asking_for(&self, proposal: Proposal) -> Self {
        Self { owner: self.owner.asking_for(proposal), ..self.clone() }
    }

    /// The same, who asks for none.
    pub(crate) fn asking_for_none(&self) -> Self {
        Self { owner: self.owner.asking_for_none(), ..self.clone() }
    }

    /// The next request has this round.
    pub(crate) fn goes_on_at_round(&self, round: u32) {
        self.round.store(round.wrapping_sub(1), Ordering::Relaxed);
    }

    pub(crate) fn owner(&self) -> &Owner {
        &self.owner
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) fn lock(&self) -> &Lock {
        self.owner.lock()
    }

    /// What inspect says of it.
    pub(crate) fn in_queue(&self) -> QueueEntry {
        QueueEntry::new(self.owner.token().as_str(), self.ticket)
    }

    /// What it is told when the lease is handed over to it.
    pub(crate) fn grant(&self) -> Heard {
        Heard::Granted(Grant::new(self.lock().name().clone(), self.owner.token().clone(), self.round()))
    }

    /// Of its last request.
    fn round(&self) -> Round {
        Round::new(self.round.load(Ordering::Relaxed))
    }

    /// The place that the next request asks for.
    pub(super) fn place(&self, lasting: Duration) -> Place {
        let round = self.round.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        Place::new(self.owner.claim(lasting), self.ticket, Round::new(round))
    }
}

/// What the node answers. A fault, or no answer in time, is a breach.
impl Waiter {
    pub(crate) async fn enter(&self, lasting: Duration) -> Result<Entered, Breach> {
        self.client.enter(&[(self, lasting)]).await
    }

    /// Whether the node takes it into queue; a fault that says so is no breach.
    pub(crate) async fn may_be_queued(&self, lasting: Duration) -> Result<bool, Breach> {
        let places = [self.place(lasting)];
        let enter = self.owner.node().enter(self.client.id(), &places);
        let outcome: Answer<'_, Result<Entered, NodeFault>> = Box::pin(enter.map(Ok));
        match answered(format!("enter by {}", self.owner.who()), outcome).await? {
            Ok(_) => Ok(true),
            Err(fault) if fault.applied() == Applied::No => Ok(false),
            Err(fault) => {
                let expected = format!("enter for {lasting:?} is Queued, or a fault that says Applied::No");
                Err(Breach::answered(expected, fault))
            }
        }
    }

    pub(crate) async fn abandons_enter(&self, lasting: Duration, patience: Duration) {
        let places = [self.place(lasting)];
        abandon(self.owner.node().enter(self.client.id(), &places), patience).await;
    }

    pub(crate) async fn abandons_yield(&self, lasting: Duration, patience: Duration) {
        let place = self.place(lasting);
        abandon(self.owner.node().yield_lease(self.client.id(), &place), patience).await;
    }
}

/// What the contract promises.
impl Waiter {
    /// Expects that it is in the queue, in this position, behind `lease`.
    pub(crate) async fn is_queued(&self, lasting: Duration, position: u64, lease: &Lease) -> Verdict {
        let asked = Instant::now();
        let entered = self.enter(lasting).await?;
        self.is_behind("enter", &entered, position, lease, asked)
    }

    /// Expects that it has the lease as soon as it enters.
    pub(crate) async fn is_admitted(&self, lasting: Duration) -> Result<Lease, Breach> {
        let asked = Instant::now();
        let entered = self.enter(lasting).await?;
        self.has("enter", &entered, lasting, asked)
    }

    /// Expects that the first in the queue has the lease when this one yields: `next`, who asked for it for `lasting_next`.
    pub(crate) async fn yields_to(
        &self,
        next: &Self,
        lasting_next: Duration,
        lasting: Duration,
        position: u64,
    ) -> Result<Lease, Breach> {
        let asked = Instant::now();
        let entered = self.client.yield_lease(self, lasting).await?;
        let lease = next.owner.lease(lasting_next, asked);
        self.is_behind("yield", &entered, position, &lease, asked)?;
        Ok(lease)
    }

    /// Expects that it is in the queue, in this position, behind `lease`, though it would have yielded.
    pub(crate) async fn has_nothing_to_yield(
        &self,
        lasting: Duration,
        position: u64,
        lease: &Lease,
    ) -> Verdict {
        let asked = Instant::now();
        let entered = self.client.yield_lease(self, lasting).await?;
        self.is_behind("yield", &entered, position, lease, asked)
    }

    /// Expects that it has the lease, though it yields.
    pub(crate) async fn yields_in_vain(&self, lasting: Duration) -> Result<Lease, Breach> {
        let asked = Instant::now();
        let entered = self.client.yield_lease(self, lasting).await?;
        self.has("yield", &entered, lasting, asked)
    }

    /// Expects that it has the lease by now, handed over by a request that was made at `asked`.
    pub(crate) async fn was_handed_it(&self, lasting: Duration, asked: Instant) -> Result<Lease, Breach> {
        let lease = self.owner.lease(lasting, asked);
        lease.is_running().await?;
        Ok(lease)
    }

    /// Expects that it comes to know that it has the lease: by being told, or by asking where the node cannot tell.
    pub(crate) async fn comes_to_know(&self, lasting: Duration) -> Verdict {
        let fence = self.comes_to_know_its_fence(lasting).await?;
        if self.owner.is_answer(fence) {
            return Ok(());
        }
        let expected = format!("{} is {}", self.owner.who(), self.owner.with_fence("granted"));
        Err(Breach::answered(expected, fence))
    }

    /// The same, and gives the fence that it is told, if it is told one.
    pub(crate) async fn comes_to_know_its_fence(&self, lasting: Duration) -> Result<Option<Fence>, Breach> {
        let (grant, round) = (self.grant(), self.round());
        let own = |heard: &Heard| match heard {
            Heard::Granted(grant) if grant.name == *self.lock().name() => {
                Some(grant.clone()).filter(|grant| grant.token == *self.owner.token())
            }
            _ => None,
        };
        if self.client.has_to_ask_within().is_none() {
            let is_told = self.client.hears(|heard| own(heard).is_some()).await;
            let heard = self.client.heard();
            let latest = heard.iter().filter_map(own).find(|grant| grant.round == round);
            if let Some(grant) = latest.filter(|_| is_told) {
                return Ok(grant.fence);
            }
            if !heard.contains(&Heard::Interrupted) {
                let expected = format!("{} is told: {grant:?}", self.owner.who());
                return Err(Breach::answered(expected, heard));
            }
        }
        let gives_up = Client::gives_up_at();
        loop {
            let entered = self.enter(lasting).await?;
            if let [Placed::Granted(fence)] = entered.places[..] {
                return Ok(fence);
            }
            if Instant::now() > gives_up {
                let expected = format!("{} is granted {} when it asks again", self.owner.who(), self.lock());
                return Err(Breach::answered(expected, entered));
            }
            sleep(self.client.has_to_ask_within().unwrap_or_default()).await;
        }
    }

    fn is_behind(
        &self,
        request: &str,
        entered: &Entered,
        position: u64,
        lease: &Lease,
        asked: Instant,
    ) -> Verdict {
        if entered.places == [Placed::Queued(position)] && lease.is_told_in_full_by(&entered.holder, asked) {
            return Ok(());
        }
        let expected = format!(
            "{request} for {} by {} is Queued({position}), and {lease} holds",
            self.lock(),
            self.owner.who()
        );
        Err(Breach::answered(expected, entered))
    }

    fn has(
        &self,
        request: &str,
        entered: &Entered,
        lasting: Duration,
        asked: Instant,
    ) -> Result<Lease, Breach> {
        let lease = self.owner.lease(lasting, asked);
        if let [Placed::Granted(fence)] = entered.places[..]
            && self.owner.is_answer(fence)
            && lease.is_told_in_full_by(&entered.holder, asked)
        {
            return Ok(lease);
        }
        let (granted, who) = (self.owner.with_fence("Granted"), self.owner.who());
        let expected = format!("{request} for {} by {who} is {granted}, and {lease} holds", self.lock());
        Err(Breach::answered(expected, entered))
    }
}
