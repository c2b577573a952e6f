//! Looking at a lock without taking it.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use crate::error::NodeError;
use crate::node::{Holder, QueueEntry, TimeLeft, Uptime};
use crate::protocol::{Drift, DriftFactor, Expiry, Fence, Quarantine, Quorum};

/// What the nodes say of a lock, at the moment each of them was asked.
#[derive(Clone, Debug)]
pub struct Inspection {
    quorum: Quorum,
    nodes: Vec<NodeReport>,
}

/// What one node says of a lock.
#[derive(Clone, Debug)]
pub struct NodeReport {
    /// The node.
    pub node: String,
    /// Who has the lease there, if anybody; or why the node did not say.
    pub answer: Result<Option<Holder>, NodeError>,
    /// Who waits in the queue there, the next first; the first hundred of them.
    pub queue: Vec<QueueEntry>,
    /// How many wait there in all.
    pub waiting: u64,
    /// Where the counter of the lock's [fences](crate::Fence) stands there, if it has one: no less than the fence of its
    /// holder, if that asked for one.
    pub fence: Option<Fence>,
    /// For how long the node has certainly remembered every lease it granted.
    pub uptime: Uptime,
}

impl NodeReport {
    /// For how much longer the node's vote is withheld from locks of `expiry`, if it is: it restarted not long ago.
    ///
    /// With the default allowance for drift, and where the [restart guard](crate::Mutex::restart_guard) is on.
    pub fn withheld_for(&self, expiry: Duration) -> Option<Duration> {
        let Uptime::AtLeast(uptime) = self.uptime else { return None };
        let expiry = Expiry::new(expiry).ok()?;
        Quarantine::of(expiry, Drift::of(expiry, DriftFactor::default()).ok()?).wait(uptime, Duration::ZERO)
    }
}

/// What makes a node unfit to hold locks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthWarning {
    /// The node.
    pub node: String,
    /// What is wrong, and what to do about it.
    pub warning: String,
}

impl fmt::Display for HealthWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is unfit to hold locks: {}", self.node, self.warning)
    }
}

/// What the nodes' answers come to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LockState {
    /// A majority of nodes is free.
    Free,
    /// One token has a majority.
    Held(Holder),
    /// Nobody has a majority, and none is free: attempts are under way, or leases have run out on some nodes only.
    Contended,
    /// Too few nodes answered to tell.
    Unknown,
}

impl LockState {
    /// What the answers come to of those nodes that gave one: who has the lease there, if anybody.
    pub(crate) fn of(quorum: Quorum, answers: &[Option<&Holder>]) -> Self {
        let mut leases: HashMap<&str, Vec<&Holder>> = HashMap::new();
        let mut free = 0;
        for answer in answers {
            match answer {
                None => free += 1,
                Some(holder) => leases.entry(holder.token()).or_default().push(holder),
            }
        }
        let majority = quorum.majority();
        if let Some(leases) = leases.into_values().find(|leases| leases.len() >= majority) {
            let mut left: Vec<TimeLeft> = leases.iter().map(|holder| holder.time_left()).collect();
            left.sort_by_key(|left| std::cmp::Reverse(standing(*left)));
            // Held for as long as a majority of leases stands: the M-th longest.
            return Self::Held(Holder::new(leases[0].token(), left[majority - 1]));
        }
        match () {
            () if free >= majority => Self::Free,
            () if answers.len() >= majority => Self::Contended,
            () => Self::Unknown,
        }
    }
}

impl Inspection {
    pub(crate) fn new(quorum: Quorum, nodes: Vec<NodeReport>) -> Self {
        Self { quorum, nodes }
    }

    /// What each node said, in the order the nodes were listed.
    pub fn nodes(&self) -> &[NodeReport] {
        &self.nodes
    }

    /// What the answers come to.
    pub fn state(&self) -> LockState {
        let answers = self.nodes.iter().filter_map(|node| node.answer.as_ref().ok());
        LockState::of(self.quorum, &answers.map(Option::as_ref).collect::<Vec<_>>())
    }

    /// Who waits in the queue, the next first; the first hundred of them. As the node tells that has the longest queue: a place is
    /// asked for on all of them.
    pub fn queue(&self) -> &[QueueEntry] {
        self.longest().map_or(&[], |node| &node.queue)
    }

    /// How many wait in the queue.
    pub fn waiting(&self) -> u64 {
        self.longest().map_or(0, |node| node.waiting)
    }

    fn longest(&self) -> Option<&NodeReport> {
        self.nodes.iter().max_by_key(|node| node.waiting)
    }

    /// Who has a majority, if anybody.
    pub fn holder(&self) -> Option<Holder> {
        match self.state() {
            LockState::Held(holder) => Some(holder),
            LockState::Free | LockState::Contended | LockState::Unknown => None,
        }
    }
}

/// Orders times left; one that is not known may be over at any moment.
fn standing(left: TimeLeft) -> u128 {
    match left {
        TimeLeft::Forever => u128::MAX,
        TimeLeft::For(duration) => duration.as_nanos(),
        TimeLeft::Unknown => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(answers: &[Option<(&str, u64)>]) -> LockState {
        let nodes = answers.iter().map(|answer| {
            let holder =
                answer.map(|(token, secs)| Holder::new(token, TimeLeft::For(Duration::from_secs(secs))));
            NodeReport {
                node: "node".into(),
                answer: Ok(holder),
                queue: Vec::new(),
                waiting: 0,
                fence: None,
                uptime: Uptime::Unbroken,
            }
        });
        Inspection::new(Quorum::of(answers.len()).unwrap(), nodes.collect()).state()
    }

    #[test]
    fn held_means_that_one_token_has_a_majority_for_as_long_as_the_mth_longest_lease() {
        let held = state(&[Some(("a", 9)), Some(("a", 5)), Some(("a", 7))]);
        assert_eq!(held, LockState::Held(Holder::new("a", TimeLeft::For(Duration::from_secs(7)))));
    }

    #[test]
    fn a_minority_of_leases_is_not_held() {
        assert_eq!(state(&[Some(("a", 9)), None, None]), LockState::Free);
        assert_eq!(state(&[Some(("a", 9)), Some(("b", 9)), None]), LockState::Contended);
        assert_eq!(state(&[Some(("a", 9)), None]), LockState::Contended);
    }
}
