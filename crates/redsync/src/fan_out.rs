//! One question to every node, counted as the answers come.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::clock::{Clock, Sleep};
use crate::error::{Error, NodeError, Operation};
use crate::events::{self, RequestKind};
use crate::leases::Core;
use crate::node::{Node, NodeFault};
use crate::protocol::{Instant, LockName, Quorum, Tally, Verdict};

/// The nodes, in the order they were listed.
pub(crate) type Nodes = Arc<[Arc<dyn Node>]>;

/// What came back from one node.
pub(crate) type Returned<T> = Result<T, NodeError>;

/// A question to one node, on its way.
pub(crate) type NodeRequest<T> = Pin<Box<dyn Future<Output = Result<T, NodeFault>> + Send>>;

/// One question to several nodes at once, under one deadline. It borrows nothing, so that the stragglers of a decided
/// fan-out can be counted in the background.
pub(crate) struct FanOut<T> {
    nodes: Nodes,
    asked: Vec<(usize, NodeRequest<T>)>,
    what: RequestKind,
    clock: Arc<dyn Clock>,
    opened: Instant,
    returned: VecDeque<(usize, Returned<T>)>,
    timeout: Duration,
    deadline: Sleep,
}

impl<T> FanOut<T> {
    /// Puts the question to the nodes numbered `voters`; each may take `timeout` from `opened` on, which is now, to answer.
    /// Nothing is sent until [`next`](Self::next) is polled.
    pub(crate) fn open(
        core: &Core,
        what: RequestKind,
        opened: Instant,
        voters: impl IntoIterator<Item = usize>,
        timeout: Duration,
        question: impl Fn(Arc<dyn Node>) -> NodeRequest<T>,
    ) -> Self {
        let ask = |index: usize| (index, question(Arc::clone(&core.nodes[index])));
        Self {
            nodes: Arc::clone(&core.nodes),
            asked: voters.into_iter().map(ask).collect(),
            returned: VecDeque::new(),
            timeout,
            deadline: core.clock.sleep_until(opened + timeout),
            what,
            clock: Arc::clone(&core.clock),
            opened,
        }
    }

    /// The next answer and the number of the node that gave it; at the deadline, one
    /// [`Timeout`](NodeError::Timeout) for each node that has given none. `None` when all have been heard.
    ///
    /// Cancel safe: no answer is lost.
    pub(crate) async fn next(&mut self) -> Option<(usize, Returned<T>)> {
        poll_fn(|context| self.poll_next(context)).await
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<(usize, Returned<T>)>> {
        // Every node is looked at each time, the first time before any answer counts: all are asked at once. There are
        // few of them, and looking at one that has not answered costs next to nothing.
        let (nodes, clock, opened, what) = (&self.nodes, &self.clock, self.opened, self.what);
        let returned = &mut self.returned;
        let note = |index: usize, error: Option<&NodeError>| {
            if cfg!(feature = "metrics") {
                events::answered(&*nodes[index], what, clock.now().saturating_since(opened), error);
            }
        };
        self.asked.retain_mut(|(index, asked)| match asked.as_mut().poll(context) {
            Poll::Pending => true,
            Poll::Ready(answer) => {
                let named = |source| NodeError::Failed { node: nodes[*index].to_string(), source };
                let answer = answer.map_err(named);
                note(*index, answer.as_ref().err());
                returned.push_back((*index, answer));
                false
            }
        });
        if self.returned.is_empty() && !self.asked.is_empty() {
            if self.deadline.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            // Dropping the requests tells their connections that nothing came.
            let silent = self.asked.drain(..).map(|(index, _)| index);
            let timeout = |index: usize| {
                let error = NodeError::Timeout { node: nodes[index].to_string(), after: self.timeout };
                note(index, Some(&error));
                (index, Err(error))
            };
            self.returned.extend(silent.map(timeout));
        }
        Poll::Ready(self.returned.pop_front())
    }

    /// The next answer that is there already.
    pub(crate) fn next_returned(&mut self) -> Option<(usize, Returned<T>)> {
        self.returned.pop_front()
    }

    /// How many nodes have not been heard yet.
    pub(crate) fn outstanding(&self) -> usize {
        self.asked.len() + self.returned.len()
    }
}

/// Counts the answers to one question, and keeps what was said by those who did not agree.
pub(crate) struct Count {
    operation: Operation,
    tally: Tally,
    errors: Vec<NodeError>,
}

impl Count {
    /// A count in which those who are not asked have declined.
    pub(crate) fn new(operation: Operation, nodes: &Nodes, quorum: Quorum, voters: &[usize]) -> Self {
        let mut count = Self { operation, tally: Tally::new(quorum), errors: Vec::new() };
        if voters.len() < nodes.len() {
            let absent = (0..nodes.len()).filter(|index| !voters.contains(index));
            absent.for_each(|index| count.add(Err(NodeError::NotHeld { node: nodes[index].to_string() })));
        }
        count
    }

    /// Counts one node's answer.
    pub(crate) fn add(&mut self, returned: Result<(), NodeError>) {
        match returned {
            Ok(()) => self.tally.agree(),
            Err(error) => {
                self.tally.decline();
                self.errors.push(error);
            }
        }
    }

    /// What the answers so far decide.
    pub(crate) const fn verdict(&self) -> Verdict {
        self.tally.verdict()
    }

    /// Whether nothing more needs to be heard: the verdict is certain, and where it is a failure, which one.
    pub(crate) fn is_decided(&self, outstanding: usize, wait_for_all: bool) -> bool {
        match self.tally.verdict() {
            _ if outstanding == 0 => true,
            _ if wait_for_all => false,
            Verdict::Reached => true,
            Verdict::Open => false,
            Verdict::OutOfReach => {
                self.telling() > self.tolerated() || self.telling() + outstanding <= self.tolerated()
            }
        }
    }

    /// The error of a missed quorum, if it was missed.
    ///
    /// Taking a lock ends in "no quorum" when so many nodes failed that no majority could answer, and else in "taken":
    /// somebody will let go of it. Extending and releasing end in "taken" or "expired" when so many nodes deny the lease
    /// that it has no majority whatever the silent ones would say, and else in "no quorum": it is not known.
    pub(crate) fn into_error(self, name: LockName) -> Option<Error> {
        if self.verdict() == Verdict::Reached {
            return None;
        }
        let is_taken = self.errors.iter().any(|error| matches!(error, NodeError::Taken { .. }));
        let is_told = self.telling() > self.tolerated();
        let (operation, total, nodes) = (self.operation, self.tally.quorum().nodes(), self.errors);
        Some(match (operation, is_told) {
            (Operation::Lock, false) => Error::Taken { name, operation, nodes },
            (Operation::Lock, true) | (_, false) => {
                Error::NoQuorum { name: Some(name), operation, total, nodes }
            }
            (_, true) if is_taken => Error::Taken { name, operation, nodes },
            (_, true) => Error::AlreadyExpired { name, operation, nodes },
        })
    }

    /// How many said what decides which failure it is: failures, for taking a lock; denials, for one that is held.
    fn telling(&self) -> usize {
        let is_lock = self.operation == Operation::Lock;
        self.errors.iter().filter(|error| error.is_answer() != is_lock).count()
    }

    /// How many may, with a majority still left.
    const fn tolerated(&self) -> usize {
        let quorum = self.tally.quorum();
        quorum.nodes() - quorum.majority()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::{Holder, MemoryNode, TimeLeft};

    enum Said {
        Yes,
        Taken,
        Gone,
        Nothing,
    }

    fn failure(operation: Operation, said: &[Said]) -> Option<crate::error::ErrorKind> {
        let nodes: Nodes = said.iter().map(|_| Arc::new(MemoryNode::new()) as Arc<dyn Node>).collect();
        let everyone: Vec<usize> = (0..said.len()).collect();
        let mut count = Count::new(operation, &nodes, Quorum::of(said.len()).unwrap(), &everyone);
        for said in said {
            let node = String::from("node");
            count.add(match said {
                Said::Yes => Ok(()),
                Said::Taken => {
                    Err(NodeError::Taken { node, holder: Holder::new("other", TimeLeft::Unknown) })
                }
                Said::Gone => Err(NodeError::NotHeld { node }),
                Said::Nothing => Err(NodeError::Timeout { node, after: Duration::from_secs(1) }),
            });
        }
        count.into_error(LockName::new("name").unwrap()).map(|error| error.kind())
    }

    #[test]
    fn a_lock_that_a_majority_could_answer_for_is_taken_not_unreachable() {
        use crate::error::ErrorKind::{NoQuorum, Taken};
        assert_eq!(failure(Operation::Lock, &[Said::Yes, Said::Taken, Said::Nothing]), Some(Taken));
        assert_eq!(failure(Operation::Lock, &[Said::Taken, Said::Nothing, Said::Nothing]), Some(NoQuorum));
        assert_eq!(failure(Operation::Lock, &[Said::Yes, Said::Taken]), Some(Taken));
        assert_eq!(failure(Operation::Lock, &[Said::Yes, Said::Nothing]), Some(NoQuorum));
        assert_eq!(failure(Operation::Lock, &[Said::Yes, Said::Yes, Said::Taken]), None);
    }

    #[test]
    fn a_held_lock_is_called_expired_only_when_that_is_certain() {
        use crate::error::ErrorKind::{AlreadyExpired, NoQuorum, Taken};
        assert_eq!(failure(Operation::Unlock, &[Said::Yes, Said::Gone, Said::Nothing]), Some(NoQuorum));
        assert_eq!(
            failure(Operation::Unlock, &[Said::Nothing, Said::Gone, Said::Gone]),
            Some(AlreadyExpired)
        );
        assert_eq!(failure(Operation::Extend, &[Said::Yes, Said::Gone, Said::Gone]), Some(AlreadyExpired));
        assert_eq!(failure(Operation::Extend, &[Said::Taken, Said::Gone, Said::Yes]), Some(Taken));
        assert_eq!(failure(Operation::Extend, &[Said::Nothing, Said::Nothing, Said::Yes]), Some(NoQuorum));
    }

    #[test]
    fn listening_goes_on_until_it_is_certain_which_failure_it_is() {
        let nodes: Nodes = (0..5).map(|_| Arc::new(MemoryNode::new()) as Arc<dyn Node>).collect();
        let mut count = Count::new(Operation::Lock, &nodes, Quorum::of(5).unwrap(), &[0, 1, 2, 3, 4]);
        let silent = || NodeError::Timeout { node: "node".into(), after: Duration::ZERO };
        count.add(Err(silent()));
        count.add(Err(silent()));
        count.add(Err(NodeError::Taken {
            node: "node".into(),
            holder: Holder::new("other", TimeLeft::Unknown),
        }));
        // No majority can grant any more; but if one more fails, none could even answer.
        assert_eq!(count.verdict(), Verdict::OutOfReach);
        assert!(!count.is_decided(2, false));
        count.add(Err(silent()));
        assert!(count.is_decided(1, false));
    }
}
