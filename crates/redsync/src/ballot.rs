//! One question to every node, counted as the answers come.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

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
pub(crate) struct Ballot<F> {
    nodes: Nodes,
    asked: FuturesUnordered<F>,
    awaited: Vec<usize>,
    timeout: Duration,
    deadline: Sleep,
    is_over: bool,
}

impl<F, T> Ballot<F>
where
    F: Future<Output = (usize, Result<T, NodeFault>)> + Send,
{
    /// Puts the question to the nodes numbered `voters`; each may take `timeout` to answer. Nothing is sent until
    /// [`next`](Self::next) is polled.
    pub(crate) fn open(
        nodes: &Nodes,
        voters: impl IntoIterator<Item = usize>,
        clock: &Arc<dyn Clock>,
        timeout: Duration,
        question: impl Fn(usize, Arc<dyn Node>) -> F,
    ) -> Self {
        let awaited: Vec<usize> = voters.into_iter().collect();
        let asked = awaited
            .iter()
            .map(|&index| question(index, Arc::clone(&nodes[index])))
            .collect();
        let deadline = clock.sleep_until(clock.now() + timeout);
        Self {
            nodes: Arc::clone(nodes),
            asked,
            awaited,
            timeout,
            deadline,
            is_over: false,
        }
    }

    /// The next answer and the number of the node that gave it; at the deadline, one
    /// [`Timeout`](NodeError::Timeout) for each node that has given none. `None` when all have been heard.
    ///
    /// Cancel safe: no answer is lost.
    pub(crate) async fn next(&mut self) -> Option<(usize, Returned<T>)> {
        if !self.is_over {
            tokio::select! {
                biased;
                answer = self.asked.next() => {
                    let (index, answer) = answer?;
                    self.awaited.retain(|awaited| *awaited != index);
                    let named = |source| NodeError::Failed { node: self.nodes[index].to_string(), source };
                    return Some((index, answer.map_err(named)));
                }
                () = &mut self.deadline => {
                    self.is_over = true;
                    // Dropping the requests tells their connections that nothing came.
                    self.asked.clear();
                }
            }
        }
        let index = self.awaited.pop()?;
        Some((
            index,
            Err(NodeError::Timeout {
                node: self.nodes[index].to_string(),
                after: self.timeout,
            }),
        ))
    }

    /// How many nodes have not been heard yet.
    pub(crate) fn outstanding(&self) -> usize {
        self.awaited.len()
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
        let mut count = Self {
            tally: Tally::new(quorum),
            errors: Vec::new(),
        };
        if voters.len() < nodes.len() {
            let absent = (0..nodes.len()).filter(|index| !voters.contains(index));
            absent.for_each(|index| {
                count.add(Err(NodeError::NotHeld {
                    node: nodes[index].to_string(),
                }))
            });
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
        let is_taken = self
            .errors
            .iter()
            .any(|error| matches!(error, NodeError::Taken { .. }));
        let is_silent = self.silent() > self.tolerated();
        let (total, nodes) = (self.tally.quorum().nodes(), self.errors);
        Some(match operation {
            _ if is_silent => Error::NoQuorum {
                name: Some(name),
                operation,
                total,
                nodes,
            },
            Operation::Lock => Error::Taken {
                name,
                operation,
                nodes,
            },
            _ if is_taken => Error::Taken {
                name,
                operation,
                nodes,
            },
            _ => Error::AlreadyExpired {
                name,
                operation,
                nodes,
            },
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
