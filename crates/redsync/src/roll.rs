//! Who the nodes are: a store that is listed twice must not vote twice.
//!
//! [`Redsync::check_nodes`](crate::Redsync::check_nodes) asks each node for its identity, and does not wait for those
//! that hang. From then on a node votes once it has said who it is, and no other node is the same store.

use std::fmt;
use std::future::ready;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::events;
use crate::node::{
    Acquired, Answer, Claim, ClientId, Entered, Extended, FaultKind, IfFree, Listener, Look, Node, NodeFault,
    Page, Place, Released, Search, Succession, Uptime,
};
use crate::protocol::{LockName, Token};

/// What is known of who the nodes are.
#[derive(Debug)]
pub(crate) struct Roll {
    names: Box<[String]>,
    standings: Box<[AtomicU8]>,
    /// The identities that are known, each with the number of its node.
    known: Mutex<Vec<(String, usize)>>,
}

/// Nobody asked the node who it is; or it has said so, or refuses to.
const VOTES: u8 = 0;
/// It was asked, and has not answered.
const ASKED: u8 = 1;
/// It is the same store as another node.
const DUPLICATE: u8 = 2;

impl Roll {
    pub(crate) fn of(nodes: &[Arc<dyn Node>]) -> Self {
        Self {
            names: nodes.iter().map(ToString::to_string).collect(),
            standings: nodes.iter().map(|_| AtomicU8::new(VOTES)).collect(),
            known: Mutex::default(),
        }
    }

    /// The nodes are about to be asked who they are. Those that have not said so until now do not vote before they do.
    pub(crate) fn begin(&self) {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        for (index, standing) in self.standings.iter().enumerate() {
            if !known.iter().any(|(_, other)| *other == index) {
                standing.store(ASKED, Ordering::Relaxed);
            }
        }
    }

    /// Node `index` has said who it is. Gives the other node that is the same store, if there is one.
    pub(crate) fn said(&self, index: usize, identity: String) -> Option<usize> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let other = known.iter().find(|(present, other)| *present == identity && *other != index);
        if let Some((_, other)) = other {
            if self.standings[index].swap(DUPLICATE, Ordering::Relaxed) != DUPLICATE {
                events::duplicate(&self.names[index], &self.names[*other]);
            }
            return Some(*other);
        }
        known.retain(|(_, other)| *other != index);
        known.push((identity, index));
        self.standings[index].store(VOTES, Ordering::Relaxed);
        None
    }

    /// Whether what node `index` grants counts.
    pub(crate) fn votes(&self, index: usize) -> bool {
        self.standings[index].load(Ordering::Relaxed) == VOTES
    }

    pub(crate) fn name(&self, index: usize) -> String {
        self.names[index].clone()
    }
}

/// One of several nodes.
pub(crate) struct Voter {
    node: Arc<dyn Node>,
    index: usize,
    roll: Arc<Roll>,
}

impl Voter {
    pub(crate) const fn new(node: Arc<dyn Node>, index: usize, roll: Arc<Roll>) -> Self {
        Self { node, index, roll }
    }

    /// `answer`, if the node may vote. One that has not said who it is yet is asked at the same time. `grants` says whether
    /// an answer grants the lease.
    fn vouched<'a, T: Send + 'a>(
        &'a self,
        answer: impl FnOnce() -> Answer<'a, T>,
        grants: fn(&T) -> bool,
    ) -> Answer<'a, T> {
        match self.roll.standings[self.index].load(Ordering::Relaxed) {
            VOTES => answer(),
            DUPLICATE => Box::pin(ready(Err(self.duplicate()))),
            _ => {
                let answer = answer();
                Box::pin(async move {
                    let (who, answer) = tokio::join!(self.identify(), answer);
                    match (who, answer) {
                        // The lease stands there, and counts for nothing; its release finds it.
                        (Err(fault), Ok(answer)) if grants(&answer) => Err(fault.perhaps_applied()),
                        // What certainly was not applied, needs no release.
                        (_, answer) => answer,
                    }
                })
            }
        }
    }

    async fn identify(&self) -> Result<(), NodeFault> {
        match self.node.identity().await {
            Ok(identity) => match self.roll.said(self.index, identity) {
                None => Ok(()),
                Some(_) => Err(self.duplicate()),
            },
            // Nobody can know then. What it refuses for a moment only, it may tell later.
            Err(fault) if fault.kind() == FaultKind::Refused && !is_of_a_moment(&fault) => {
                self.roll.standings[self.index].store(VOTES, Ordering::Relaxed);
                Ok(())
            }
            Err(fault) => Err(fault),
        }
    }

    fn duplicate(&self) -> NodeFault {
        NodeFault::refused("DUPLICATE", SAME_SERVER)
    }
}

/// True of what a server says while it is busy, or not ready yet.
fn is_of_a_moment(fault: &NodeFault) -> bool {
    let codes = ["BUSY", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN"];
    fault.code().is_some_and(|code| codes.contains(&code))
}

const SAME_SERVER: &str =
    "it is the same server as another node, and must not vote twice; list each server once";

impl Node for Voter {
    fn identity(&self) -> Answer<'_, String> {
        self.node.identity()
    }

    fn uptime(&self) -> Answer<'_, Uptime> {
        self.node.uptime()
    }

    fn health_warnings(&self) -> Answer<'_, Vec<String>> {
        if self.roll.votes(self.index) {
            return self.node.health_warnings();
        }
        Box::pin(async move {
            let who = self.identify().await;
            let mut health_warnings = self.node.health_warnings().await?;
            if who.is_err_and(|fault| fault.code() == Some("DUPLICATE")) {
                health_warnings.push(SAME_SERVER.to_owned());
            }
            Ok(health_warnings)
        })
    }

    fn acquire<'a>(&'a self, claim: &'a Claim) -> Answer<'a, Acquired> {
        self.vouched(|| self.node.acquire(claim), |acquired| matches!(acquired, Acquired::Granted(_)))
    }

    fn extend<'a>(&'a self, claim: &'a Claim, if_free: IfFree) -> Answer<'a, Extended> {
        self.vouched(
            || self.node.extend(claim, if_free),
            |extended| matches!(extended, Extended::Extended(_) | Extended::Retaken),
        )
    }

    fn enter<'a>(&'a self, client: &'a ClientId, places: &'a [Place]) -> Answer<'a, Entered> {
        self.vouched(|| self.node.enter(client, places), |_| true)
    }

    fn yield_lease<'a>(&'a self, client: &'a ClientId, place: &'a Place) -> Answer<'a, Entered> {
        self.vouched(|| self.node.yield_lease(client, place), |_| true)
    }

    fn release<'a>(
        &'a self,
        name: &'a LockName,
        token: &'a Token,
        succession: Succession,
    ) -> Answer<'a, Released> {
        self.node.release(name, token, succession)
    }

    fn inspect<'a>(&'a self, name: &'a LockName) -> Answer<'a, Look> {
        self.node.inspect(name)
    }

    fn list<'a>(&'a self, search: &'a Search, from: &'a str) -> Answer<'a, Page> {
        self.node.list(search, from)
    }

    fn listen(&self, client: &ClientId, listener: Weak<dyn Listener>) {
        self.node.listen(client, listener);
    }
}

impl fmt::Display for Voter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.node.fmt(f)
    }
}

impl fmt::Debug for Voter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.node, f)
    }
}
