//! One clause's try at a node: locks and owners of its own, and what they may expect.

mod client;
mod fence;
mod lease;
mod owner;
mod waiter;

use std::collections::BTreeMap;
use std::fmt::{self, Debug, Display};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use redsync::{Answer, Holder, Listed, LockName, Look, Node, OwnerLabel, QueueEntry, Search, Token, Uptime};
use tokio::time::timeout;

pub(crate) use self::client::{Client, Heard};
pub(crate) use self::fence::{HALF_A_SECOND, HIGHEST, RETENTION, SECOND, beyond, exactly, proposal};
pub(crate) use self::lease::{Lease, Watched};
pub(crate) use self::owner::Owner;
pub(crate) use self::waiter::Waiter;

/// Whether a clause is kept.
pub(crate) type Verdict = Result<(), Breach>;

/// An expiry that cannot end during a clause, and two that differ from it visibly.
pub(crate) const LONG: Duration = Duration::from_secs(120);
pub(crate) const LONGER: Duration = Duration::from_secs(240);
pub(crate) const LESS_LONG: Duration = Duration::from_secs(60);

/// An expiry whose end a clause waits for.
pub(crate) const SHORT: Duration = Duration::from_millis(250);

/// Expiries for a step that has to come before a lease's end: a slow machine tries again with more time.
pub(crate) const SHORT_OR_SLOWER: [Duration; 3] = [SHORT, Duration::from_secs(1), Duration::from_secs(4)];

/// What was expected of a node, and what it did instead.
#[derive(Debug)]
pub(crate) struct Breach {
    pub(crate) expected: String,
    pub(crate) came: String,
}

impl Breach {
    pub(crate) fn new(expected: impl Into<String>, came: impl Into<String>) -> Self {
        Self { expected: expected.into(), came: came.into() }
    }

    pub(crate) fn answered(expected: impl Into<String>, answer: impl Debug) -> Self {
        Self::new(expected, format!("{answer:?}"))
    }
}

/// One clause's try at a node.
#[derive(Clone)]
pub(crate) struct Trial {
    node: Arc<dyn Node>,
    /// Who may hold something when the clause is over.
    owners: Arc<Mutex<Vec<Owner>>>,
    /// Whether the node told a client that something may not have been told.
    is_interrupted: Arc<AtomicBool>,
}

impl Trial {
    pub(crate) fn new(node: Arc<dyn Node>) -> Self {
        Self { node, owners: Arc::default(), is_interrupted: Arc::default() }
    }

    /// A lock with a name that nobody has used before.
    pub(crate) fn lock(&self) -> Lock {
        self.lock_named(&self.fresh_prefix())
    }

    /// The lock of this name; begin it with a [`fresh_prefix`](Self::fresh_prefix).
    pub(crate) fn lock_named(&self, name: &str) -> Lock {
        let name = LockName::new(name).expect("a clause's names are neither empty nor too long");
        Lock { trial: self.clone(), name }
    }

    /// Somebody who can wait in the queue, and hears from the node.
    pub(crate) fn client(&self) -> Client {
        Client::new(self.clone())
    }

    /// A new lock that is held for [`LONGER`], and so many who wait for it for [`LONG`] each, with one client, at the tickets
    /// 10, 20, 30, …
    pub(crate) async fn held_with_queue<const N: usize>(&self) -> Result<(Lease, [Waiter; N]), Breach> {
        const WHO: [&str; 4] = ["first", "second", "third", "fourth"];
        let (lock, client) = (self.lock(), self.client());
        let lease = lock.owner("holder").is_granted(LONGER).await?;
        let queue = std::array::from_fn(|index| client.waiter(&lock, WHO[index], 10 * (index as u64 + 1)));
        for (waiter, position) in queue.iter().zip(1..) {
            waiter.is_queued(LONG, position, &lease).await?;
        }
        Ok((lease, queue))
    }

    /// The beginning of names that nobody has used before.
    pub(crate) fn fresh_prefix(&self) -> String {
        let token = random_token("conformance");
        let (random, _) = token.as_str().split_at(24);
        format!("redsync-conformance:{random}:")
    }

    pub(crate) async fn identity(&self) -> Result<String, Breach> {
        answered("identity", self.node.identity()).await
    }

    pub(crate) async fn uptime(&self) -> Result<Uptime, Breach> {
        answered("uptime", self.node.uptime()).await
    }

    pub(crate) async fn health_warnings(&self) -> Result<Vec<String>, Breach> {
        answered("health warnings", self.node.health_warnings()).await
    }

    /// What is held and matches the pattern, in the order of the names, each once.
    pub(crate) async fn listed(&self, pattern: &str) -> Result<Vec<Listed>, Breach> {
        let search = Search::matching(pattern).expect("a clause's patterns are neither empty nor too long");
        let (mut found, mut from) = (BTreeMap::new(), String::new());
        loop {
            let page = answered("list", self.node.list(&search, &from)).await?;
            found.extend(page.locks.into_iter().map(|lock| (lock.name.clone(), lock)));
            match page.next {
                None => return Ok(found.into_values().collect()),
                Some(next) => from = next,
            }
        }
    }

    /// Expects that just these are listed, whose names are in order, with their holders and times.
    pub(crate) async fn lists(&self, pattern: &str, leases: &[&Lease]) -> Verdict {
        let asked = Instant::now();
        let listed = self.listed(pattern).await?;
        let is_told = |(found, lease): (&Listed, &&Lease)| {
            found.name == *lease.owner().lock().name() && lease.is_told_in_full_by(&found.holder, asked)
        };
        if listed.len() == leases.len() && listed.iter().zip(leases).all(is_told) {
            return Ok(());
        }
        let told: Vec<String> =
            leases.iter().map(|lease| format!("{}: {lease}", lease.owner().lock())).collect();
        Err(Breach::answered(format!("list of {pattern:?} says [{}]", told.join(", ")), listed))
    }

    pub(crate) fn display(&self) -> String {
        self.node.to_string()
    }

    pub(crate) fn was_interrupted(&self) -> bool {
        self.is_interrupted.load(Ordering::SeqCst)
    }

    /// Releases whatever the clause took. Does not care whether that works: the verdict is given.
    pub(crate) async fn clean_up(&self) {
        let owners = std::mem::take(&mut *self.owners.lock().unwrap_or_else(PoisonError::into_inner));
        let mut task = tokio::task::JoinSet::new();
        task.spawn(async move { join_all(owners.iter().map(Owner::release)).await });
        let _ = timeout(CLEAN_UP_DEADLINE, task.join_next()).await;
    }

    fn remember(&self, owner: Owner) {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner).push(owner);
    }
}

/// One name on the node.
#[derive(Clone)]
pub(crate) struct Lock {
    trial: Trial,
    name: LockName,
}

impl Lock {
    /// Somebody with a new token; `who` is what reports call them, and must be a word.
    pub(crate) fn owner(&self, who: &'static str) -> Owner {
        self.owner_with(random_token(who))
    }

    /// Somebody with this token.
    pub(crate) fn owner_with(&self, token: Token) -> Owner {
        let owner = Owner::new(self.clone(), token);
        self.trial.remember(owner.clone());
        owner
    }

    /// Expects that nobody holds.
    pub(crate) async fn is_free(&self) -> Verdict {
        match self.inspect().await? {
            None => Ok(()),
            held => Err(Breach::answered(format!("inspect of {self} says None"), held)),
        }
    }

    /// Expects that these wait, the next first, and nobody else.
    pub(crate) async fn is_waited_for_by(&self, waiters: &[&Waiter]) -> Verdict {
        let look = self.look().await?;
        let queue: Vec<QueueEntry> = waiters.iter().map(|waiter| waiter.in_queue()).collect();
        if look.queue == queue && look.waiting == queue.len() as u64 {
            return Ok(());
        }
        let expected = format!("inspect of {self} says that {} wait: {queue:?}", queue.len());
        Err(Breach::answered(expected, look))
    }

    /// Expects that nobody holds and nobody waits.
    pub(crate) async fn is_deserted(&self) -> Verdict {
        self.is_free().await?;
        self.is_waited_for_by(&[]).await
    }

    /// Who holds.
    pub(crate) async fn inspect(&self) -> Result<Option<Holder>, Breach> {
        Ok(self.look().await?.holder)
    }

    /// Who holds, and who waits.
    pub(crate) async fn look(&self) -> Result<Look, Breach> {
        answered("inspect", self.trial.node.inspect(&self.name)).await
    }

    pub(crate) fn name(&self) -> &LockName {
        &self.name
    }
}

impl Display for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 80;
        let text = self.name.as_str();
        let shown: String = text.chars().take(SHOWN).collect();
        write!(f, "{shown:?}{}", if shown.len() < text.len() { "…" } else { "" })
    }
}

/// The node's answer; a fault, or none in time, is a breach.
async fn answered<T>(request: impl Display, answer: Answer<'_, T>) -> Result<T, Breach> {
    match timeout(ANSWER_DEADLINE, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(fault)) => {
            let came = format!("the fault {:?}, applied: {:?}: {fault}", fault.kind(), fault.applied());
            Err(Breach::new(format!("an answer to {request}"), came))
        }
        Err(_) => {
            Err(Breach::new(format!("an answer to {request}"), format!("none within {ANSWER_DEADLINE:?}")))
        }
    }
}

fn random_token(who: &str) -> Token {
    redsync::random_token(&OwnerLabel::new(who).expect("a clause's owners are called by one word"))
}

/// The contract knows no deadlines; a node that takes longer than this is taken to hang.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);

const CLEAN_UP_DEADLINE: Duration = Duration::from_secs(2);
