//! Which locks are held, by name and by majority.
//!
//! Each node is asked for its pages, one after the other, all nodes at once. A pass over many keys takes a while, in which
//! locks change hands: where the passes do not agree on a holder, the lock is looked at again by its name.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use tokio::task::JoinSet;

use crate::clock::Clock;
use crate::error::{Error, NodeError};
use crate::events::RequestKind;
use crate::fan_out::{FanOut, NodeRequest};
use crate::inspection::LockState;
use crate::node::{Holder, Listed, Look, Node, NodeFault, Search};
use crate::protocol::{Fence, LockName, Quorum};
use crate::redsync::Redsync;

/// The locks that are held, as the nodes say that answered.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Listing {
    /// The locks on which at least one node has a lease, in the order of their names.
    pub locks: Vec<ListedLock>,
    /// Why nodes gave no list. Where no majority gave one, no lock is known to be held.
    pub failures: Vec<NodeError>,
    /// Whether there are more than [`Listing::MOST`], of which these are some.
    pub is_cut: bool,
}

/// One of the locks that [`Redsync::list`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListedLock {
    /// The lock.
    pub name: LockName,
    /// What the nodes' answers come to. [`Free`](LockState::Free) where only a minority has a lease: an attempt is under way, or
    /// did not finish.
    pub state: LockState,
    /// Who has leases: the one holder, or all who have some.
    pub holders: Vec<Holder>,
    /// The holder's fence, if it asked for one; where nobody holds by majority, none. The last that was given out, if it asked
    /// for none.
    pub fence: Option<Fence>,
    /// How many wait in the queue.
    pub waiting: u64,
}

impl Listing {
    /// So many locks are listed at most, so that the list fits into the memory.
    pub const MOST: usize = 100_000;

    /// Those that one token holds by majority.
    pub fn held(&self) -> impl Iterator<Item = (&ListedLock, &Holder)> {
        self.locks.iter().filter_map(|lock| match &lock.state {
            LockState::Held(holder) => Some((lock, holder)),
            _ => None,
        })
    }
}

impl Redsync {
    /// Says which locks are held whose names match `search`, without taking any. On Redis by `SCAN`, in small steps that block
    /// nobody.
    ///
    /// Waits for every node, up to a second for each page of about a thousand names. A lock that is held all the while is
    /// listed; one that is taken or released meanwhile may be. A server's keys that are no locks are left out: see
    /// [`Search::and_others`].
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
    /// use redsync::{Redsync, Search};
    ///
    /// let redsync = Redsync::connect(["memory:"]).await?;
    /// let guard = redsync.mutex("orders:42").lock().await?;
    /// let listing = redsync.list(&Search::matching("orders:*")?).await?;
    /// for (lock, holder) in listing.held() {
    ///     println!("{} is held by {holder}", lock.name);
    /// }
    /// # assert_eq!(listing.held().count(), 1);
    /// # guard.unlock().await?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Runtime`] outside of a runtime. Nodes that fail are part of the answer.
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any point; nothing is changed.
    pub async fn list(&self, search: &Search) -> Result<Listing, Error> {
        self.core.enter()?;
        // Dropped, it ends the passes.
        let mut passes = JoinSet::new();
        for (index, node) in self.core.nodes.iter().enumerate() {
            let (node, clock, search) = (node.clone(), self.core.clock.clone(), search.clone());
            passes.spawn(async move { (index, pass(&*node, &*clock, &search).await) });
        }
        let mut votes = Votes { quorum: self.core.quorum, answered: Vec::new(), by_name: BTreeMap::new() };
        let (mut failures, mut is_cut, mut heard) = (Vec::new(), false, HashSet::new());
        while let Some(done) = passes.join_next().await {
            // A pass that panicked has no number: it is one of those that were not heard.
            let Ok((index, found)) = done else { continue };
            heard.insert(index);
            match found {
                Ok((locks, is_whole)) => {
                    is_cut |= !is_whole;
                    votes.answered.push(index);
                    for lock in locks {
                        votes.add(index, lock);
                    }
                }
                Err(error) => failures.push((index, error)),
            }
        }
        for (index, node) in self.core.nodes.iter().enumerate().filter(|(index, _)| !heard.contains(index)) {
            let source = NodeFault::nonsense("it gave no list, but panicked");
            failures.push((index, NodeError::Failed { node: node.to_string(), source }));
        }
        failures.sort_by_key(|(index, _)| *index);
        self.look_again(&mut votes).await;
        let mut locks: Vec<ListedLock> = votes.counted().collect();
        is_cut |= locks.len() > Listing::MOST;
        locks.truncate(Listing::MOST);
        Ok(Listing { locks, failures: failures.into_iter().map(|(_, error)| error).collect(), is_cut })
    }

    /// Looks by name at those locks on which the passes did not agree.
    async fn look_again(&self, votes: &mut Votes) {
        if votes.answered.len() < votes.quorum.majority() || votes.quorum.nodes() == 1 {
            return;
        }
        for name in votes.unclear(SECOND_LOOKS) {
            let asked = name.clone();
            let question = move |node: Arc<dyn Node>| -> NodeRequest<Look> {
                let name = asked.clone();
                Box::pin(async move { node.inspect(&name).await })
            };
            let (core, voters) = (&self.core, votes.answered.iter().copied());
            let mut fan_out =
                FanOut::open(core, RequestKind::Look, core.clock.now(), voters, Self::LOOK, question);
            while let Some((index, answer)) = fan_out.next().await {
                // A node that has nothing to say now is believed what it said before.
                let Ok(look) = answer else { continue };
                if let Some(on_nodes) = votes.by_name.get_mut(&name) {
                    on_nodes.retain(|(other, _)| *other != index);
                }
                if let Some(holder) = look.holder {
                    votes.add(index, Listed::new(name.clone(), holder, look.waiting).fenced(look.fence));
                }
            }
        }
    }
}

/// All that one node has, and whether that is all.
async fn pass(node: &dyn Node, clock: &dyn Clock, search: &Search) -> Result<(Vec<Listed>, bool), NodeError> {
    let mut locks = Vec::new();
    let mut from = String::new();
    for _ in 0..MOST_PAGES {
        let end = clock.sleep_until(clock.now() + Redsync::LOOK);
        let page = tokio::select! {
            biased;
            page = node.list(search, &from) => {
                page.map_err(|source| NodeError::Failed { node: node.to_string(), source })?
            }
            () = end => return Err(NodeError::Timeout { node: node.to_string(), after: Redsync::LOOK }),
        };
        locks.extend(page.locks);
        match page.next {
            None => return Ok((locks, true)),
            Some(_) if locks.len() > Listing::MOST => break,
            // A node that leads in a circle has no end.
            Some(next) if next == from => break,
            Some(next) => from = next,
        }
    }
    Ok((locks, false))
}

/// How many pages of one node are looked at: those of some fifty million keys.
const MOST_PAGES: u32 = 100_000;

/// What the nodes said.
struct Votes {
    quorum: Quorum,
    answered: Vec<usize>,
    /// Of each name, what the nodes have that have it.
    by_name: BTreeMap<LockName, Vec<(usize, Listed)>>,
}

impl Votes {
    /// Of a lock that is told of twice by a node, what is told last counts.
    fn add(&mut self, index: usize, lock: Listed) {
        // There may be many names, and most have a vote of each node.
        let nodes = self.quorum.nodes();
        let on_nodes = self.by_name.entry(lock.name.clone()).or_insert_with(|| Vec::with_capacity(nodes));
        on_nodes.retain(|(other, _)| *other != index);
        on_nodes.push((index, lock));
    }

    fn state(&self, on_nodes: &[(usize, Listed)]) -> LockState {
        let on =
            |index: &usize| on_nodes.iter().find(|(other, _)| other == index).map(|(_, lock)| &lock.holder);
        let answers = self.answered.iter().map(on);
        LockState::of(self.quorum, &answers.collect::<Vec<_>>())
    }

    /// The first `most` names of which it is not clear who holds.
    fn unclear(&self, most: usize) -> Vec<LockName> {
        let is_unclear = |(_, on_nodes): &(&LockName, &Vec<(usize, Listed)>)| {
            !matches!(self.state(on_nodes), LockState::Held(_))
        };
        self.by_name.iter().filter(is_unclear).take(most).map(|(name, _)| name.clone()).collect()
    }

    fn counted(&self) -> impl Iterator<Item = ListedLock> {
        let held = self.by_name.iter().filter(|(_, on_nodes)| !on_nodes.is_empty());
        held.map(|(name, on_nodes)| {
            let state = self.state(on_nodes);
            // Where the holder has the lease, it has no place in the queue any more.
            let of_holder: Vec<&Listed> = match &state {
                LockState::Held(holder) => on_nodes
                    .iter()
                    .map(|(_, lock)| lock)
                    .filter(|lock| lock.holder.token() == holder.token())
                    .collect(),
                _ => on_nodes.iter().map(|(_, lock)| lock).collect(),
            };
            let holders = match &state {
                LockState::Held(holder) => vec![holder.clone()],
                _ => distinct(&of_holder),
            };
            let waiting = of_holder.iter().map(|lock| lock.waiting).max().unwrap_or_default();
            let agree = |fence: &Fence| {
                let count = of_holder.iter().filter(|lock| lock.fence == Some(*fence)).count();
                count >= self.quorum.majority()
            };
            let fence = match &state {
                LockState::Held(_) => of_holder.iter().filter_map(|lock| lock.fence).find(agree),
                _ => None,
            };
            ListedLock { name: name.clone(), state, holders, fence, waiting }
        })
    }
}

/// Those holders whose tokens differ.
fn distinct(locks: &[&Listed]) -> Vec<Holder> {
    let mut seen = HashSet::new();
    let holders = locks.iter().map(|lock| &lock.holder);
    holders.filter(|holder| seen.insert(holder.token())).cloned().collect()
}

/// How many locks are looked at again, so that a server on which much is unclear does not hold up the list.
const SECOND_LOOKS: usize = 200;
