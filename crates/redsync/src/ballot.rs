//! One question to every node, counted as the answers come.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::clock::{Clock, Sleep};
use crate::error::{Error, NodeError, Operation};
use crate::node::{Node, NodeFault};
use crate::protocol::{LockName, Quorum, Tally, Verdict};

/// The nodes, in the order they were listed.
pub(crate) type Nodes = Arc<[Arc<dyn Node>]>;

/// What came back from one node.
pub(crate) type Returned<T> = Result<T, NodeError>;

/// One question to several nodes at once, under one deadline. It borrows nothing, so that the stragglers of a decided
/// ballot can be counted in the background.
pub(crate) struct Ballot<T, F> {
    nodes: Nodes,
    asked: Vec<(usize, Pin<Box<F>>)>,
    returned: VecDeque<(usize, Returned<T>)>,
    timeout: Duration,
    deadline: Sleep,
}

impl<T, F> Ballot<T, F>
where
    F: Future<Output = Result<T, NodeFault>> + Send,
{
    /// Puts the question to the nodes numbered `voters`; each may take `timeout` to answer. Nothing is sent until
    /// [`next`](Self::next) is polled.
    pub(crate) fn open(
        nodes: &Nodes,
        voters: impl IntoIterator<Item = usize>,
        clock: &Arc<dyn Clock>,
        timeout: Duration,
        question: impl Fn(Arc<dyn Node>) -> F,
    ) -> Self {
        let ask = |index: usize| (index, Box::pin(question(Arc::clone(&nodes[index]))));
        Self {
            nodes: Arc::clone(nodes),
            asked: voters.into_iter().map(ask).collect(),
            returned: VecDeque::new(),
            timeout,
            deadline: clock.sleep_until(clock.now() + timeout),
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
        let (nodes, returned) = (&self.nodes, &mut self.returned);
        self.asked.retain_mut(|(index, asked)| match asked.as_mut().poll(context) {
            Poll::Pending => true,
            Poll::Ready(answer) => {
                let named = |source| NodeError::Failed { node: nodes[*index].to_string(), source };
                returned.push_back((*index, answer.map_err(named)));
                false
            }
        });
        if self.returned.is_empty() && !self.asked.is_empty() {
            if self.deadline.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            // Dropping the requests tells their connections that nothing came.
            let silent = self.asked.drain(..).map(|(index, _)| index);
            let timeout =
                |index: usize| NodeError::Timeout { node: nodes[index].to_string(), after: self.timeout };
            self.returned.extend(silent.map(|index| (index, Err(timeout(index)))));
        }
        Poll::Ready(self.returned.pop_front())
    }

    /// How many nodes have not been heard yet.
    pub(crate) fn outstanding(&self) -> usize {
        self.asked.len() + self.returned.len()
    }
}

/// Counts the answers to one question, and keeps what was said by those who did not agree.
pub(crate) struct Count {
    tally: Tally,
    errors: Vec<NodeError>,
}

impl Count {
    /// A count in which those who are not asked have declined.
    pub(crate) fn new(nodes: &Nodes, quorum: Quorum, voters: &[usize]) -> Self {
        let mut count = Self { tally: Tally::new(quorum), errors: Vec::new() };
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
                self.silent() > self.tolerated() || self.silent() + outstanding <= self.tolerated()
            }
        }
    }

    /// The error of a missed quorum, if it was missed: unreachable when so many nodes failed that no majority could
    /// answer; else taken, if anybody has it; else expired.
    pub(crate) fn into_error(self, name: LockName, operation: Operation) -> Option<Error> {
        if self.verdict() == Verdict::Reached {
            return None;
        }
        let is_taken = self.errors.iter().any(|error| matches!(error, NodeError::Taken { .. }));
        let is_silent = self.silent() > self.tolerated();
        let (total, nodes) = (self.tally.quorum().nodes(), self.errors);
        Some(match operation {
            _ if is_silent => Error::NoQuorum { name: Some(name), operation, total, nodes },
            Operation::Lock => Error::Taken { name, operation, nodes },
            _ if is_taken => Error::Taken { name, operation, nodes },
            _ => Error::AlreadyExpired { name, operation, nodes },
        })
    }

    /// How many nodes failed or did not answer in time.
    fn silent(&self) -> usize {
        self.errors.iter().filter(|error| !error.is_answer()).count()
    }

    /// How many may, with a majority still left to answer.
    const fn tolerated(&self) -> usize {
        let quorum = self.tally.quorum();
        quorum.nodes() - quorum.majority()
    }
}
