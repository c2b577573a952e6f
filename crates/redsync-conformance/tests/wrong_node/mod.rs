//! A node that is right but for one defect.

mod defect;
mod fencing;
mod list;
mod queue;
mod telling;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::future::pending;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use redsync::{
    Acquired, Answer, Claim, ClientId, Entered, Expiry, Extended, Holder, IfFree, Listener, LockName, Look,
    MemoryNode, Node, NodeFault, Page, Place, Released, Search, Succession, TimeLeft, Token, Uptime,
};
use tokio::task::yield_now;
use tokio::time::sleep;

pub(crate) use self::defect::Defect;
use self::fencing::{Fences, Request};
use self::queue::Lines;
use self::telling::Tellers;

/// A [`MemoryNode`] with a defect.
#[derive(Clone)]
pub(crate) struct WrongNode {
    defect: Defect,
    inner: MemoryNode,
    notes: Arc<Notes>,
}

/// What defects remember.
#[derive(Default)]
struct Notes {
    identities: AtomicU64,
    last_holders: Mutex<HashMap<LockName, Token>>,
    broken: Mutex<HashSet<LockName>>,
    by_name_and_token: Mutex<HashMap<String, (LockName, Token)>>,
    by_token: Mutex<HashMap<Token, LockName>>,
    fences: Fences,
    queues: Lines,
    tellers: Tellers,
}

impl WrongNode {
    pub(crate) fn new(defect: Defect) -> Self {
        Self { defect, inner: MemoryNode::new(), notes: Arc::default() }
    }

    async fn acquire(&self, claim: Claim) -> Result<Acquired, NodeFault> {
        let claim = self.misread_proposal(Request::Acquire, self.misread_claim(claim).await?);
        let holder = self.inner.inspect(&claim.name).await?.holder;
        let is_own = holder.as_ref().is_some_and(|holder| holder.token() == claim.token.as_str());
        match (self.defect, holder) {
            (Defect::GrantsEveryone, _) => return self.put(&claim).await,
            (Defect::SaysGrantedToEveryone, Some(_)) if !is_own => return Ok(Acquired::Granted(None)),
            (Defect::LooksAndTakesInTwoSteps, None) => {
                sleep(Duration::from_millis(1)).await;
                return self.put(&claim).await;
            }
            (Defect::NamesAWrongHolder, Some(holder)) if !is_own => {
                return Ok(Acquired::Taken(Holder::new("somebody", holder.time_left())));
            }
            (Defect::RefusalRestartsTheHoldersExpiry, Some(holder)) if !is_own => {
                self.prolong(&claim.name, &holder, claim.expiry).await?;
                return Ok(Acquired::Taken(holder));
            }
            (Defect::ShortensOnReacquire, Some(_)) if is_own => {
                let acquired = self.inner.acquire(&claim).await?;
                self.inner.extend(&unfenced(&claim), IfFree::Leave).await?;
                return Ok(acquired);
            }
            (Defect::RefusesTheHolder, Some(holder)) if is_own => return Ok(Acquired::Taken(holder)),
            (Defect::KeepsTheOldExpiryOnReacquire, Some(_)) if is_own => return Ok(Acquired::Granted(None)),
            (Defect::RefusesTheLongestExpiryButGrantsIt, None) if claim.expiry == Expiry::MAX => {
                self.inner.acquire(&claim).await?;
                return Err(NodeFault::refused("ERR", "too long"));
            }
            _ => {}
        }
        if let Some(refused) = self.refuses_strangers(&claim).await? {
            return Ok(Acquired::Taken(refused));
        }
        let acquired = self.acquire_counting(&claim).await?;
        match acquired {
            Acquired::Granted(_) => self.note_grant(&claim).await?,
            Acquired::Taken(_) => self.note_refusal(&claim).await?,
        }
        Ok(acquired)
    }

    async fn extend(&self, claim: Claim, if_free: IfFree) -> Result<Extended, NodeFault> {
        let mut claim = self.misread_proposal(Request::Extend, self.misread_claim(claim).await?);
        let holder = self.inner.inspect(&claim.name).await?.holder;
        let is_own = holder.as_ref().is_some_and(|holder| holder.token() == claim.token.as_str());
        match (self.defect, holder, if_free) {
            (Defect::LooksAndRetakesInTwoSteps, None, IfFree::Retake) => {
                sleep(Duration::from_millis(1)).await;
                self.put(&unfenced(&claim)).await?;
                return self.inner.extend(&claim, IfFree::Leave).await.map(|_| Extended::Retaken);
            }
            (Defect::ExtendIsNotOwnerChecked, Some(holder), IfFree::Leave) => {
                claim.token = token_of(&holder);
                return self.inner.extend(&claim, IfFree::Leave).await;
            }
            (Defect::ExtendOnlyLengthens, Some(holder), _)
                if is_own && time_left(&holder) > claim.expiry.as_duration() =>
            {
                claim.expiry = Expiry::new(time_left(&holder)).unwrap();
            }
            (Defect::ExtendDoesNothing, Some(_), _) if is_own => return Ok(Extended::Extended(None)),
            (Defect::ExtendGrantsFreeNames, None, IfFree::Leave) => {
                return self.put(&claim).await.map(|_| Extended::Extended(None));
            }
            (Defect::ExtendRevivesItsLastHolder, None, IfFree::Leave)
                if self.notes.last_holders.lock().unwrap().get(&claim.name) == Some(&claim.token) =>
            {
                return self.put(&claim).await.map(|_| Extended::Extended(None));
            }
            (Defect::RetakeTakesAnothersLease, Some(_), IfFree::Retake) if !is_own => {
                return self.put(&claim).await.map(|_| Extended::Retaken);
            }
            (Defect::RetakeOnlySaysSo, None, IfFree::Retake) => return Ok(Extended::Retaken),
            (Defect::RetakenLeasesNeverEnd, None, IfFree::Retake) => {
                claim.expiry = Expiry::MAX;
                return self.inner.extend(&claim, if_free).await;
            }
            (Defect::RetakeDoesNotKnowItsOwner, Some(holder), IfFree::Retake) if is_own => {
                return Ok(Extended::HeldByAnother(holder));
            }
            _ => {}
        }
        let extended = self.extend_counting(claim.clone(), if_free).await?;
        if self.defect == Defect::ExtendClearsTheQueue {
            self.clear_queue(&claim.name).await?;
        }
        if extended == Extended::Retaken {
            self.note_grant(&claim).await?;
        }
        Ok(extended)
    }

    async fn release(
        &self,
        name: LockName,
        token: Token,
        succession: Succession,
    ) -> Result<Released, NodeFault> {
        let (name, token) = self.misread(name, token).await?;
        match (self.defect, self.inner.inspect(&name).await?.holder) {
            (Defect::ReleaseIsNotOwnerChecked, Some(holder)) => {
                return self.inner.release(&name, &token_of(&holder), succession).await;
            }
            (Defect::ReleaseOnlySaysSo, Some(holder)) if holder.token() == token.as_str() => {
                return Ok(Released::Released);
            }
            (Defect::ReleaseAlwaysSaysReleased, None) => return Ok(Released::Released),
            _ => {}
        }
        match self.release_in_queue(&name, &token, succession).await? {
            Released::HeldByAnother(_) if self.defect == Defect::ReleaseDoesNotSeeAnother => {
                Ok(Released::NotHeld)
            }
            other => Ok(other),
        }
    }

    async fn inspect(&self, name: LockName) -> Result<Look, NodeFault> {
        let (name, _) = self.misread(name, Token::from_text("nobody").unwrap()).await?;
        let mut look = self.look(&name).await?;
        look.holder = match (self.defect, look.holder) {
            (Defect::InspectProlongs, Some(holder)) => {
                let longer = time_left(&holder) + Duration::from_millis(200);
                self.prolong(&name, &holder, Expiry::new(longer).unwrap_or(Expiry::MAX)).await?;
                Some(holder)
            }
            (Defect::InspectDoesNotTellTime, Some(holder)) => {
                Some(Holder::new(holder.token(), TimeLeft::Unknown))
            }
            (Defect::InspectShowsTheLastHolder, None) => {
                let last = self.notes.last_holders.lock().unwrap().get(&name).cloned();
                last.map(|token| Holder::new(token.as_str(), TimeLeft::For(Duration::ZERO)))
            }
            (_, holder) => holder,
        };
        Ok(look)
    }

    /// Lets the lease of whoever has it last for `expiry`.
    async fn prolong(&self, name: &LockName, holder: &Holder, expiry: Expiry) -> Result<(), NodeFault> {
        let prolonged = Claim::new(name.clone(), token_of(holder), expiry);
        self.inner.extend(&prolonged, IfFree::Leave).await.map(drop)
    }

    /// Grants, whoever has it.
    async fn put(&self, claim: &Claim) -> Result<Acquired, NodeFault> {
        if let Some(holder) = self.inner.inspect(&claim.name).await?.holder {
            self.inner.release(&claim.name, &token_of(&holder), Succession::Barging).await?;
        }
        self.inner.acquire(claim).await
    }

    async fn note_grant(&self, claim: &Claim) -> Result<(), NodeFault> {
        let Claim { name, token, .. } = claim.clone();
        self.notes.last_holders.lock().unwrap().insert(name.clone(), token.clone());
        let joined = format!("{name}{token}");
        self.notes.by_name_and_token.lock().unwrap().insert(joined, (name.clone(), token.clone()));
        let former = self.notes.by_token.lock().unwrap().insert(token.clone(), name.clone());
        if let Some(former) =
            former.filter(|former| self.defect == Defect::KnowsOneNamePerToken && *former != name)
        {
            self.inner.release(&former, &token, Succession::HandOver).await?;
        }
        Ok(())
    }

    /// The claim as the node understands it.
    async fn misread_claim(&self, claim: Claim) -> Result<Claim, NodeFault> {
        let millis = claim.expiry.as_millis();
        let millis = match self.defect {
            Defect::NeverEndsALease => Expiry::MAX.as_millis(),
            Defect::EndsLeasesEarly if millis < 10_000 => millis.div_ceil(10),
            Defect::RoundsExpiriesUpToSeconds => millis.next_multiple_of(1_000).min(Expiry::MAX.as_millis()),
            Defect::KeepsExpiriesIn32Bits => (millis & u64::from(u32::MAX)).max(1),
            Defect::TakesTheShortestExpiryForNone if millis == 1 => Expiry::MAX.as_millis(),
            _ => millis,
        };
        let (name, token) = self.misread(claim.name, claim.token).await?;
        let mut misread = Claim::new(name, token, Expiry::new(Duration::from_millis(millis)).unwrap());
        misread.fence = claim.fence;
        Ok(misread)
    }

    /// The name and the token as the node understands them.
    async fn misread(&self, name: LockName, token: Token) -> Result<(LockName, Token), NodeFault> {
        let named = |text: &str| LockName::new(text).unwrap();
        match self.defect {
            Defect::TrimsNames => Ok((named(name.as_str().trim_end()), token)),
            Defect::IgnoresBraces => Ok((named(&name.as_str().replace(['{', '}'], "")), token)),
            Defect::RefusesOddNames if !name.as_str().is_ascii() => {
                Err(NodeFault::refused("ERR", "odd name"))
            }
            Defect::CutsNames if name.as_str().len() > 1_000 => {
                let end = name.as_str().floor_char_boundary(1_000);
                Ok((named(&name.as_str()[..end]), token))
            }
            Defect::RefusesLongTokens if token.as_str().len() > 255 => {
                Err(NodeFault::refused("ERR", "long token"))
            }
            Defect::ReadsTokensToTheFirstNul => {
                let text = token.as_str().split('\0').next().unwrap_or_default();
                Ok((name, Token::from_text(text).unwrap()))
            }
            Defect::TakesAPrefixForTheToken => match self.inner.inspect(&name).await?.holder {
                Some(holder) if holder.token().starts_with(token.as_str()) => Ok((name, token_of(&holder))),
                _ => Ok((name, token)),
            },
            Defect::FindsLeasesByNameAndTokenInOne => {
                let found =
                    self.notes.by_name_and_token.lock().unwrap().get(&format!("{name}{token}")).cloned();
                Ok(found.unwrap_or((name, token)))
            }
            Defect::BreaksWhenAnAnswerIsDropped if self.notes.broken.lock().unwrap().contains(&name) => {
                Err(NodeFault::nonsense("an answer was dropped"))
            }
            Defect::Faults => Err(NodeFault::unreachable("nobody listens")),
            Defect::Hangs => pending().await,
            Defect::Panics => panic!("this node cannot stand it"),
            _ => Ok((name, token)),
        }
    }

    /// The answer of a node with, perhaps, a defect in how it deals with answers that are dropped.
    fn answer<'a, T: Send + 'static>(
        &self,
        applied_late: Defect,
        name: &LockName,
        step: impl Future<Output = Result<T, NodeFault>> + Send + 'static,
    ) -> Answer<'a, T> {
        if self.defect == applied_late {
            return Box::pin(async move {
                let goes_on = tokio::spawn(async move {
                    sleep(Duration::from_millis(5)).await;
                    step.await
                });
                goes_on.await.expect("no step panics")
            });
        }
        if self.defect == Defect::BreaksWhenAnAnswerIsDropped {
            let mut unanswered = Unanswered { notes: Arc::clone(&self.notes), name: Some(name.clone()) };
            return Box::pin(async move {
                yield_now().await;
                let answer = step.await;
                unanswered.is_answered();
                answer
            });
        }
        Box::pin(step)
    }
}

impl Node for WrongNode {
    fn identity(&self) -> Answer<'_, String> {
        let count = self.notes.identities.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            match self.defect {
                Defect::IdentityIsNewEachTime => Ok(format!("wrong {count}")),
                Defect::IdentityIsEmpty => Ok(String::new()),
                _ => {
                    self.misread(LockName::new("any").unwrap(), Token::from_text("any").unwrap()).await?;
                    self.inner.identity().await
                }
            }
        })
    }

    fn uptime(&self) -> Answer<'_, Uptime> {
        let count = self.notes.identities.fetch_add(1, Ordering::Relaxed);
        let uptime = match self.defect {
            Defect::UptimeShrinks => Uptime::AtLeast(Duration::from_secs(1_000_u64.saturating_sub(count))),
            Defect::DoesNotSayItsUptime => Uptime::Unknown,
            _ => return self.inner.uptime(),
        };
        Box::pin(async move { Ok(uptime) })
    }

    fn health_warnings(&self) -> Answer<'_, Vec<String>> {
        match self.defect {
            Defect::HealthWarningsOfManyLines => Box::pin(async { Ok(vec!["first\nsecond".into()]) }),
            _ => self.inner.health_warnings(),
        }
    }

    fn acquire<'a>(&'a self, claim: &'a Claim) -> Answer<'a, Acquired> {
        let (node, claim) = (self.clone(), claim.clone());
        self.answer(Defect::AppliesDroppedAcquiresLate, &claim.name.clone(), async move {
            node.acquire(claim).await
        })
    }

    fn extend<'a>(&'a self, claim: &'a Claim, if_free: IfFree) -> Answer<'a, Extended> {
        let (node, claim) = (self.clone(), claim.clone());
        self.answer(Defect::AppliesDroppedExtendsLate, &claim.name.clone(), async move {
            node.extend(claim, if_free).await
        })
    }

    fn enter<'a>(&'a self, client: &'a ClientId, places: &'a [Place]) -> Answer<'a, Entered> {
        let (node, client, places) = (self.clone(), client.clone(), places.to_vec());
        self.answer(Defect::AppliesDroppedEntersLate, &places[0].claim.name.clone(), async move {
            node.enter(client, places).await
        })
    }

    fn yield_lease<'a>(&'a self, client: &'a ClientId, place: &'a Place) -> Answer<'a, Entered> {
        let (node, client, place) = (self.clone(), client.clone(), place.clone());
        self.answer(Defect::AppliesDroppedEntersLate, &place.claim.name.clone(), async move {
            node.yield_lease(client, place).await
        })
    }

    fn release<'a>(
        &'a self,
        name: &'a LockName,
        token: &'a Token,
        succession: Succession,
    ) -> Answer<'a, Released> {
        let (node, owned, token) = (self.clone(), name.clone(), token.clone());
        self.answer(Defect::AppliesDroppedReleasesLate, name, async move {
            node.release(owned, token, succession).await
        })
    }

    fn inspect<'a>(&'a self, name: &'a LockName) -> Answer<'a, Look> {
        Box::pin(self.inspect(name.clone()))
    }

    fn list<'a>(&'a self, search: &'a Search, from: &'a str) -> Answer<'a, Page> {
        Box::pin(self.list(search, from))
    }

    fn listen(&self, client: &ClientId, listener: Weak<dyn Listener>) {
        self.listen_to_inner(client, listener);
    }
}

impl fmt::Display for WrongNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.defect {
            Defect::HasNoLabel => Ok(()),
            defect => write!(f, "wrong:{defect:?}"),
        }
    }
}

impl fmt::Debug for WrongNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WrongNode({:?})", self.defect)
    }
}

/// Breaks the node for a name whose answer was dropped before it was there.
struct Unanswered {
    notes: Arc<Notes>,
    name: Option<LockName>,
}

impl Unanswered {
    fn is_answered(&mut self) {
        self.name = None;
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        self.notes.broken.lock().unwrap().extend(self.name.take());
    }
}

/// The same claim without its fence.
fn unfenced(claim: &Claim) -> Claim {
    Claim::new(claim.name.clone(), claim.token.clone(), claim.expiry)
}

fn token_of(holder: &Holder) -> Token {
    Token::from_text(holder.token()).unwrap()
}

fn time_left(holder: &Holder) -> Duration {
    match holder.time_left() {
        TimeLeft::For(left) => left,
        TimeLeft::Forever | TimeLeft::Unknown => unreachable!("a memory node knows"),
    }
}
