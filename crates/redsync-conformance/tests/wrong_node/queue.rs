//! Defects in how a node keeps its lines.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use redsync::{
    Claim, ClientId, Entered, Expiry, Grant, Holder, LockName, Look, Node, NodeFault, Place, Placed,
    Proposal, QueueEntry, Released, Round, Succession, Ticket, TimeLeft, Token,
};
use tokio::time::sleep;

use super::fencing::Request;
use super::telling::silently;
use super::{Defect, WrongNode, time_left, token_of, unfenced};

/// What defects remember of those who wait.
#[derive(Default)]
pub(super) struct Lines {
    places: Mutex<HashMap<(LockName, Token), Noted>>,
    names: Mutex<HashMap<Token, LockName>>,
    /// How often somebody entered who was in the queue already.
    entered_again: Mutex<HashMap<LockName, u64>>,
    arrivals: AtomicU64,
    answers: Mutex<HashMap<LockName, u64>>,
}

/// A place, as it was asked for at first and as it was asked for last.
#[derive(Clone)]
struct Noted {
    arrival: u64,
    since: Instant,
    first: (ClientId, Place),
    last: (ClientId, Place),
}

impl WrongNode {
    pub(super) async fn enter(&self, client: ClientId, places: Vec<Place>) -> Result<Entered, NodeFault> {
        self.forget_the_gone();
        let (client, places) = self.misread_places(client, places).await?;
        let name = &places[0].claim.name;
        let look = self.inner.inspect(name).await?;
        self.miscount_before_entering(&places, &look).await?;
        let is_one_of_them = |holder: &Holder| places.iter().any(|place| is_of(holder, place));
        let enter = || self.inner.enter(&client, &places);
        let entered = match (self.defect, &look.holder) {
            (Defect::EnterNeverGrants, None) => {
                let nobody = Holder::new("nobody", TimeLeft::Unknown);
                Entered::new(vec![Placed::Queued(1); places.len()], nobody, 0)
            }
            (Defect::EnterGrantsFreeNamesToWhoAsks, None) => {
                self.inner.acquire(&unfenced(&places[0].claim)).await?;
                self.inner.release(name, &places[0].claim.token, Succession::Barging).await?;
                self.inner.acquire(&places[0].claim).await?;
                enter().await?
            }
            (Defect::EnterGrantsFreeNamesToTheQueueBefore, None) => {
                self.inner.release(name, &nobody(), Succession::HandOver).await?;
                enter().await?
            }
            (Defect::EnterRenewsNothing, Some(holder)) if is_one_of_them(holder) => {
                let entered = enter().await?;
                self.prolong(name, holder, Expiry::new(time_left(holder)).unwrap()).await?;
                Entered::new(entered.places, holder.clone(), entered.micros)
            }
            (Defect::EnterRenewsTheHolder, Some(holder)) if !is_one_of_them(holder) => {
                self.prolong(name, holder, places[0].claim.expiry).await?;
                enter().await?
            }
            (Defect::EntersByTheProposalOfWhoAsks, None) => {
                let first = look.queue.first().and_then(|first| self.noted(name, first));
                self.propose_for(first, places[0].claim.fence)?;
                enter().await?
            }
            (Defect::TellsNobodyOfFreeNames, _) => silently(enter())?,
            (Defect::RefusesTheLongestExpiryButQueuesIt, _) if places[0].claim.expiry == Expiry::MAX => {
                enter().await?;
                return Err(NodeFault::refused("ERR", "too long"));
            }
            _ => enter().await?,
        };
        Ok(self.misreport(&client, &places, entered))
    }

    pub(super) async fn yield_lease(&self, client: ClientId, place: Place) -> Result<Entered, NodeFault> {
        self.forget_the_gone();
        let (client, mut places) = self.misread_places(client, vec![place]).await?;
        if self.defect == Defect::YieldGoesToTheEnd {
            places[0].ticket = Ticket::MAX;
        }
        let place = &places[0];
        let name = &place.claim.name;
        let look = self.inner.inspect(name).await?;
        let yield_lease = || self.inner.yield_lease(&client, place);
        let entered = match (self.defect, &look.holder) {
            (Defect::YieldKeepsTheLease, Some(holder)) if is_of(holder, place) => {
                self.inner.enter(&client, &places).await?
            }
            (Defect::YieldTakesAnothersLease, Some(holder)) if !is_of(holder, place) => {
                silently(self.inner.release(name, &token_of(holder), Succession::Barging))?;
                yield_lease().await?
            }
            (Defect::YieldTakesFreeNames, None) => {
                self.inner.acquire(&place.claim).await?;
                self.inner.enter(&client, &places).await?
            }
            (Defect::YieldsByTheProposalOfWhoYields, Some(holder)) if is_of(holder, place) => {
                let first = look.queue.first().and_then(|first| self.noted(name, first));
                self.propose_for(first, place.claim.fence)?;
                yield_lease().await?
            }
            (Defect::TellsNobodyOfYields, _) => silently(yield_lease())?,
            _ => yield_lease().await?,
        };
        Ok(self.misreport(&client, &places, entered))
    }

    pub(super) async fn release_in_queue(
        &self,
        name: &LockName,
        token: &Token,
        succession: Succession,
    ) -> Result<Released, NodeFault> {
        self.forget_the_gone();
        let look = self.inner.inspect(name).await?;
        let queue: Vec<Noted> = look.queue.iter().filter_map(|one| self.noted(name, one)).collect();
        let own = queue.iter().find(|noted| noted.last.1.claim.token == *token);
        let is_holder = look.holder.as_ref().is_some_and(|holder| holder.token() == token.as_str());
        let release = || self.inner.release(name, token, succession);
        let silently_freed = || silently(self.inner.release(name, token, Succession::Barging));
        if is_holder {
            let is_brief = |noted: &&Noted| noted.last.1.claim.expiry.as_duration() < Duration::from_secs(1);
            let skipped = queue.iter().filter(is_brief).filter_map(|noted| noted.last.1.claim.fence);
            self.miscount_before_release(name, &look, skipped, succession).await?;
        }
        match (self.defect, succession) {
            (Defect::HandsOverByTheLatestProposal, Succession::HandOver) if is_holder => {
                let latest = queue.last().and_then(|noted| noted.last.1.claim.fence);
                self.propose_for(queue.first().cloned(), latest)?;
                release().await
            }
            (Defect::HandsOverToTheLast, Succession::HandOver) if is_holder => {
                if let Some((client, place)) = queue.last().map(|noted| &noted.last) {
                    let mut first = place.clone();
                    first.ticket = Ticket::from_micros(0);
                    silently(self.inner.enter(client, &[first]))?;
                }
                release().await
            }
            (Defect::HandsOverForTheReleasersExpiry | Defect::HandsOverForEver, Succession::HandOver)
                if is_holder =>
            {
                let released = release().await?;
                let left = Expiry::new(look.holder.as_ref().map(time_left).unwrap_or_default());
                if let (Some(next), Ok(left)) = (self.inner.inspect(name).await?.holder, left) {
                    let expiry = if self.defect == Defect::HandsOverForEver { Expiry::MAX } else { left };
                    self.prolong(name, &next, expiry).await?;
                }
                Ok(released)
            }
            (Defect::FreesBeforeHandingOver, Succession::HandOver) if is_holder => {
                let released = silently_freed()?;
                sleep(Duration::from_millis(1)).await;
                self.inner.release(name, &nobody(), Succession::HandOver).await?;
                Ok(released)
            }
            (Defect::NeverHandsOver, Succession::HandOver) => silently_freed(),
            (Defect::HandsNoFreeNameOver, Succession::HandOver) if look.holder.is_none() => silently_freed(),
            (Defect::LeavesWithoutSayingSo, _) => match release().await? {
                Released::Left => Ok(Released::NotHeld),
                released => Ok(released),
            },
            (Defect::LeavingKeepsThePlace, _) if own.is_some() && !is_holder => Ok(Released::Left),
            (Defect::LeavingEndsTheHoldersLease, _) if own.is_some() => {
                let released = release().await?;
                if let Some(holder) = &look.holder {
                    self.inner.release(name, &token_of(holder), succession).await?;
                }
                Ok(released)
            }
            (Defect::ReleaseKeepsTheHoldersOwnPlace, _) if is_holder => {
                let released = release().await?;
                if let Some((client, place)) = own.map(|noted| &noted.last) {
                    self.inner.enter(client, std::slice::from_ref(place)).await?;
                }
                Ok(released)
            }
            (Defect::SkipsNobody, Succession::HandOver)
            | (Defect::BargingTellsTheLate, Succession::Barging)
                if is_holder =>
            {
                for (client, place) in queue.iter().map(|noted| &noted.last) {
                    silently(self.inner.enter(client, std::slice::from_ref(place)))?;
                }
                release().await
            }
            (Defect::RenewsNoPlaces, Succession::HandOver) if is_holder => {
                let is_late =
                    |noted: &&Noted| noted.since.elapsed() > noted.first.1.claim.expiry.as_duration();
                for late in queue.iter().filter(is_late) {
                    self.inner.release(name, &late.last.1.claim.token, Succession::HandOver).await?;
                }
                release().await
            }
            (Defect::BargingHandsOver, _) => self.inner.release(name, token, Succession::HandOver).await,
            (Defect::BargingTakesTheFirstOutOfQueue, Succession::Barging) => {
                let released = release().await?;
                if let Some(first) = self.inner.inspect(name).await?.queue.first() {
                    let first = Token::from_text(first.token()).unwrap();
                    silently(self.inner.release(name, &first, Succession::Barging))?;
                }
                Ok(released)
            }
            (Defect::TellsThoseWhoLeft, _) => {
                let released = release().await?;
                if let (Released::Left, Some((client, place))) = (&released, own.map(|noted| &noted.last)) {
                    let grant = Grant::new(name.clone(), token.clone(), place.round).fenced(look.fence);
                    self.notes.tellers.note_left(client.clone(), grant);
                }
                Ok(released)
            }
            _ => release().await,
        }
    }

    /// What the node shows of a lock.
    pub(super) async fn look(&self, name: &LockName) -> Result<Look, NodeFault> {
        let look = self.inner.inspect(name).await?;
        let at = |one: &QueueEntry, ticket: u64| QueueEntry::new(one.token(), Ticket::from_micros(ticket));
        let (queue, waiting) = match self.defect {
            Defect::InspectHandsFreeNamesOver if look.holder.is_none() && look.waiting > 0 => {
                self.inner.release(name, &nobody(), Succession::HandOver).await?;
                return self.inner.inspect(name).await;
            }
            Defect::EqualTicketsGoByArrival => {
                let asked_for = |one: &QueueEntry| at(one, without_arrival(one.ticket()));
                (look.queue.iter().map(asked_for).collect(), look.waiting)
            }
            Defect::ShowsNoOwnersInQueue => {
                let unowned = |one: &QueueEntry| QueueEntry::new(one.token().replace('@', " "), one.ticket());
                (look.queue.iter().map(unowned).collect(), look.waiting)
            }
            Defect::CountsOnlyThoseShown => {
                let shown = look.queue.len() as u64;
                (look.queue, shown)
            }
            Defect::CountsEachEnter => {
                let again = self.notes.queues.entered_again.lock().unwrap().get(name).copied();
                (look.queue, look.waiting + again.unwrap_or_default())
            }
            _ => (look.queue, look.waiting),
        };
        let fence = look.fence.map(|fence| self.misreport_fence(name, fence));
        Ok(Look::new(look.holder, queue, waiting).fenced(fence))
    }

    /// What a refused acquire does besides.
    pub(super) async fn note_refusal(&self, claim: &Claim) -> Result<(), NodeFault> {
        match self.defect {
            Defect::RefusalsTakeAPlace => {
                let place = Place::new(claim.clone(), Ticket::from_micros(50), Round::default());
                self.inner.enter(&ClientId::random(), &[place]).await?;
            }
            Defect::RefusalsTakeThePlaceAway => {
                self.inner.release(&claim.name, &claim.token, Succession::HandOver).await?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Whom a stranger is told to hold a name that was left to its queue.
    pub(super) async fn refuses_strangers(&self, claim: &Claim) -> Result<Option<Holder>, NodeFault> {
        let look = self.inner.inspect(&claim.name).await?;
        let first = look.queue.first().filter(|first| first.token() != claim.token.as_str());
        let is_kept = self.defect == Defect::BargingKeepsStrangersOut && look.holder.is_none();
        Ok(first.filter(|_| is_kept).map(|first| Holder::new(first.token(), TimeLeft::For(Duration::ZERO))))
    }

    pub(super) async fn clear_queue(&self, name: &LockName) -> Result<(), NodeFault> {
        for one in self.inner.inspect(name).await?.queue {
            let token = Token::from_text(one.token()).unwrap();
            self.inner.release(name, &token, Succession::Barging).await?;
        }
        Ok(())
    }

    /// Client and places as the node understands them.
    async fn misread_places(
        &self,
        client: ClientId,
        places: Vec<Place>,
    ) -> Result<(ClientId, Vec<Place>), NodeFault> {
        let (mut client, mut misread) = (client, Vec::with_capacity(places.len()));
        for place in places {
            let claim = self.misread_proposal(Request::Enter, self.misread_claim(place.claim).await?);
            let mut place = Place::new(claim, place.ticket, place.round);
            let noted = self.note(&client, &place).await?;
            match self.defect {
                Defect::GoesByArrival => place.ticket = Ticket::from_micros(noted.arrival),
                Defect::EqualTicketsGoByArrival => place.ticket = with_arrival(place.ticket, noted.arrival),
                Defect::KeepsTheFirstTicket => place.ticket = noted.first.1.ticket,
                Defect::KeepsTicketsIn32Bits => {
                    place.ticket = place.ticket.min(Ticket::from_micros(u32::MAX.into()));
                }
                Defect::KeepsTheFirstProposal => place.claim.fence = noted.first.1.claim.fence,
                Defect::TellsTheFirstRound => place.round = noted.first.1.round,
                Defect::KeepsRoundsIn16Bits => place.round = Round::new(place.round.as_u32() & 0xffff),
                Defect::TellsTheFirstClient => client = noted.first.0,
                _ => {}
            }
            misread.push(place);
        }
        Ok((client, misread))
    }

    async fn note(&self, client: &ClientId, place: &Place) -> Result<Noted, NodeFault> {
        let Claim { name, token, .. } = &place.claim;
        let queues = &self.notes.queues;
        let former = queues.names.lock().unwrap().insert(token.clone(), name.clone());
        if let Some(former) =
            former.filter(|former| self.defect == Defect::OneQueuePerToken && former != name)
        {
            self.inner.release(&former, token, Succession::HandOver).await?;
        }
        let look = self.inner.inspect(name).await?;
        let is_in_queue = look.queue.iter().any(|one| one.token() == token.as_str());
        if is_in_queue {
            *queues.entered_again.lock().unwrap().entry(name.clone()).or_default() += 1;
        }
        let asked = (client.clone(), place.clone());
        let key = (name.clone(), token.clone());
        let mut places = queues.places.lock().unwrap();
        let noted = match places.remove(&key).filter(|_| is_in_queue) {
            Some(noted) => Noted { last: asked, ..noted },
            None => {
                let arrival = queues.arrivals.fetch_add(1, Ordering::Relaxed) + 1;
                Noted { arrival, since: Instant::now(), first: asked.clone(), last: asked }
            }
        };
        places.insert(key, noted.clone());
        Ok(noted)
    }

    /// Has one who waits propose another fence than its own.
    fn propose_for(&self, noted: Option<Noted>, proposal: Option<Proposal>) -> Result<(), NodeFault> {
        let Some((client, mut place)) = noted.map(|noted| noted.last) else { return Ok(()) };
        place.claim.fence = proposal;
        let before = self.inner.inspect(&place.claim.name);
        let is_free = silently(before)?.holder.is_none();
        if is_free {
            let held = Claim::new(place.claim.name.clone(), nobody(), place.claim.expiry);
            silently(self.inner.acquire(&held))?;
        }
        silently(self.inner.enter(&client, &[place.clone()]))?;
        if is_free {
            silently(self.inner.release(&place.claim.name, &nobody(), Succession::Barging))?;
        }
        Ok(())
    }

    fn noted(&self, name: &LockName, one: &QueueEntry) -> Option<Noted> {
        let key = (name.clone(), Token::from_text(one.token()).ok()?);
        self.notes.queues.places.lock().unwrap().get(&key).cloned()
    }

    /// The answer as the node gives it.
    fn misreport(&self, client: &ClientId, places: &[Place], mut entered: Entered) -> Entered {
        self.misreport_fences(places, &mut entered);
        match self.defect {
            Defect::CountsPositionsFromZero => {
                for placed in &mut entered.places {
                    if let Placed::Queued(position) = placed {
                        *position -= 1;
                    }
                }
            }
            Defect::AnswersInTheOrderOfTheQueue => entered.places.sort_by_key(|placed| match placed {
                Placed::Granted(_) => 0,
                Placed::Queued(position) => *position,
            }),
            Defect::SaysGrantedToAllWhoEnterTogether => {
                let is_granted = |placed: &&Placed| matches!(placed, Placed::Granted(_));
                if let Some(granted) = entered.places.iter().find(is_granted).copied() {
                    entered.places.fill(granted);
                }
            }
            Defect::EnterDoesNotTellTime => {
                entered.holder = Holder::new(entered.holder.token(), TimeLeft::Unknown);
            }
            Defect::CountsMillisForMicros => entered.micros /= 1_000,
            Defect::TellsWhoAsks => {
                for (place, placed) in places.iter().zip(&entered.places) {
                    if let Placed::Granted(fence) = placed {
                        let Claim { name, token, .. } = place.claim.clone();
                        let grant = Grant::new(name, token, place.round).fenced(*fence);
                        self.notes.tellers.tell(client, grant);
                    }
                }
            }
            Defect::SaysNowAndThenThatItCannotTell => {
                let mut answers = self.notes.queues.answers.lock().unwrap();
                let answer = answers.entry(places[0].claim.name.clone()).or_default();
                *answer += 1;
                if *answer % 2 == 1 {
                    return entered.unless_asked_within(Duration::from_millis(50));
                }
            }
            _ => {}
        }
        entered
    }
}

fn is_of(holder: &Holder, place: &Place) -> bool {
    holder.token() == place.claim.token.as_str()
}

fn nobody() -> Token {
    Token::from_text("nobody").unwrap()
}

/// Tickets that leave room for the arrival are ordered by it where they are the same.
fn with_arrival(ticket: Ticket, arrival: u64) -> Ticket {
    match ticket.as_micros() {
        micros if micros < 1 << 20 => {
            Ticket::from_micros((micros << ARRIVAL_BITS) + (arrival & ((1 << ARRIVAL_BITS) - 1)))
        }
        _ => ticket,
    }
}

fn without_arrival(ticket: Ticket) -> u64 {
    match ticket.as_micros() {
        micros if micros < 1 << (20 + ARRIVAL_BITS) => micros >> ARRIVAL_BITS,
        micros => micros,
    }
}

const ARRIVAL_BITS: u32 = 20;
