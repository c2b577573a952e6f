//! What can go wrong, and which node said so.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use crate::lost::Lost;
use crate::node::{Applied, Holder, InvalidUrl, NodeFault, Remedy};
use crate::protocol::{InvalidOption, LockName};

/// Why a lock could not be taken, extended, released or looked at.
///
/// Where a quorum was missed, every node's own error is kept: [`Error::nodes`], and
/// [`source`](StdError::source) leads on to the first. [`kind`](Error::kind) is for deciding,
/// [`Display`](fmt::Display) is one line for a person.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Error {
    /// Others hold the name on so many nodes that a majority cannot be had. Go's redsync: `ErrTaken`.
    Taken {
        /// The lock.
        name: LockName,
        /// What was attempted.
        operation: Operation,
        /// What each node said that did not agree.
        nodes: Vec<NodeError>,
    },
    /// So many nodes failed that a majority could not be reached. Go's redsync: `ErrFailed`, `ErrExtendFailed`.
    NoQuorum {
        /// The lock, if the attempt was about one.
        name: Option<LockName>,
        /// What was attempted.
        operation: Operation,
        /// How many nodes there are.
        total: usize,
        /// What each node said that did not agree.
        nodes: Vec<NodeError>,
    },
    /// A majority granted, but only when the leases were already (nearly) over: nothing of the validity was left.
    ValidityExhausted {
        /// The lock.
        name: LockName,
        /// How long it took until the majority had granted.
        took: Duration,
    },
    /// The lock's time was over before it was extended or released. Go's redsync: `ErrLockAlreadyExpired`.
    AlreadyExpired {
        /// The lock.
        name: LockName,
        /// What was attempted.
        operation: Operation,
        /// What each node said that did not agree. Empty when this side knew by its own clock.
        nodes: Vec<NodeError>,
    },
    /// The guard was lost before; no node was asked. Go's redsync: `ErrLockAlreadyExpired`.
    Lost(Lost),
    /// The caller's cancel signal came before the lock did.
    Cancelled {
        /// The lock.
        name: LockName,
    },
    /// An option or a name that a lock cannot be made with.
    InvalidOption(InvalidOption),
    /// A node URL that cannot be used.
    InvalidUrl(InvalidUrl),
    /// Two of the nodes are the same server, which would vote twice.
    DuplicateNode {
        /// The node's name as listed first.
        first: String,
        /// The node's name as listed again.
        second: String,
    },
    /// [`Redsync::shutdown`](crate::Redsync::shutdown) was called; no lock is taken any more.
    ShutDown,
    /// The runtime that redsync's background work needs is not there or cannot be started.
    Runtime {
        /// What is missing.
        reason: String,
    },
}

/// What was attempted when an [`Error`] came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Operation {
    /// Connecting to the nodes for the first time.
    Connect,
    /// Taking the lock.
    Lock,
    /// Extending it.
    Extend,
    /// Releasing it.
    Unlock,
}

/// An [`Error`]'s kind, for deciding what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// [`Error::Taken`]
    Taken,
    /// [`Error::NoQuorum`]
    NoQuorum,
    /// [`Error::ValidityExhausted`]
    ValidityExhausted,
    /// [`Error::AlreadyExpired`]
    AlreadyExpired,
    /// [`Error::Lost`]
    Lost,
    /// [`Error::Cancelled`]
    Cancelled,
    /// [`Error::InvalidOption`], [`Error::InvalidUrl`] or [`Error::DuplicateNode`]: the caller's own slip.
    Invalid,
    /// [`Error::ShutDown`]
    ShutDown,
    /// [`Error::Runtime`]
    Runtime,
}

/// What one node said that did not agree.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum NodeError {
    /// Another token holds the name there. Go's redsync: `ErrNodeTaken`.
    Taken {
        /// The node.
        node: String,
        /// Who holds.
        holder: Holder,
    },
    /// Nobody holds the name there any more.
    NotHeld {
        /// The node.
        node: String,
    },
    /// The node would grant the name, but may have forgotten that another has it: it restarted not long ago.
    Withheld {
        /// The node.
        node: String,
        /// For how much longer its vote is withheld. `None` where it does not say how long it has been up.
        wait: Option<Duration>,
    },
    /// The node did not answer in time, connecting included.
    Timeout {
        /// The node.
        node: String,
        /// How long it was given.
        after: Duration,
    },
    /// The node failed or refused. Go's redsync: `RedisError`.
    Failed {
        /// The node.
        node: String,
        /// Its failure, whose own source is kept.
        source: NodeFault,
    },
}

impl Error {
    /// The error's kind.
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Taken { .. } => ErrorKind::Taken,
            Self::NoQuorum { .. } => ErrorKind::NoQuorum,
            Self::ValidityExhausted { .. } => ErrorKind::ValidityExhausted,
            Self::AlreadyExpired { .. } => ErrorKind::AlreadyExpired,
            Self::Lost(_) => ErrorKind::Lost,
            Self::Cancelled { .. } => ErrorKind::Cancelled,
            Self::ShutDown => ErrorKind::ShutDown,
            Self::InvalidOption(_) | Self::InvalidUrl(_) | Self::DuplicateNode { .. } => ErrorKind::Invalid,
            Self::Runtime { .. } => ErrorKind::Runtime,
        }
    }

    /// For how long a caller that wants the lock has to wait until restarted nodes vote again, if that, and nothing else,
    /// kept it from taking it.
    pub(crate) fn wait_for_restarted(&self) -> Option<Duration> {
        let Self::NoQuorum { operation: Operation::Lock, total, nodes, .. } = self else { return None };
        let is_silent = |node: &&NodeError| !node.is_answer() && !node.is_withheld();
        if nodes.iter().filter(is_silent).count() > total - (total / 2 + 1) {
            return None;
        }
        let waits = nodes.iter().filter_map(|node| match node {
            NodeError::Withheld { wait, .. } => *wait,
            _ => None,
        });
        waits.min()
    }

    /// What a person has to change, where so many nodes need that that no majority is left, and waiting does not help: for
    /// [`Error::NoQuorum`]. Where nodes need different things, it is what most of them need. `None` where it may pass.
    pub fn remedy(&self) -> Option<Remedy> {
        let Self::NoQuorum { total, nodes, .. } = self else { return None };
        Remedy::of_too_many(nodes.iter().filter_map(NodeError::remedy), *total)
    }

    /// What each node said that did not agree, if nodes were asked.
    pub fn nodes(&self) -> &[NodeError] {
        match self {
            Self::Taken { nodes, .. } | Self::NoQuorum { nodes, .. } | Self::AlreadyExpired { nodes, .. } => {
                nodes
            }
            _ => &[],
        }
    }
}

impl NodeError {
    /// The node's name.
    pub fn node(&self) -> &str {
        match self {
            Self::Taken { node, .. }
            | Self::NotHeld { node }
            | Self::Withheld { node, .. }
            | Self::Timeout { node, .. }
            | Self::Failed { node, .. } => node,
        }
    }

    /// What a person has to change before this node can do what it is asked, where waiting does not help.
    pub fn remedy(&self) -> Option<Remedy> {
        match self {
            Self::Failed { source, .. } => source.remedy(),
            Self::Taken { .. } | Self::NotHeld { .. } | Self::Withheld { .. } | Self::Timeout { .. } => None,
        }
    }

    /// Whether the node certainly did not do what it was asked for.
    pub(crate) fn is_certainly_unapplied(&self) -> bool {
        matches!(self, Self::Failed { source, .. } if source.applied() == Applied::No)
    }

    /// Whether the node would have agreed, but its vote does not count.
    pub(crate) const fn is_withheld(&self) -> bool {
        matches!(self, Self::Withheld { .. })
    }

    /// Whether the node answered at all. One that says "taken" did; one that failed or was silent did not.
    pub(crate) const fn is_answer(&self) -> bool {
        matches!(self, Self::Taken { .. } | Self::NotHeld { .. })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Taken { name, operation: Operation::Lock, nodes } => {
                write!(f, "lock {name:?} is taken{}", Nodes(nodes))
            }
            Self::Taken { name, operation, nodes } => {
                write!(f, "cannot {operation} lock {name:?}: another has it{}", Nodes(nodes))
            }
            Self::NoQuorum { name, operation, total, nodes } => {
                write!(f, "no quorum to {operation}")?;
                if let Some(name) = name {
                    write!(f, " lock {name:?}")?;
                }
                let needed = total / 2 + 1;
                let failed = nodes.iter().filter(|node| !node.is_answer()).count();
                match (total, operation) {
                    (1, _) if nodes.iter().any(NodeError::is_withheld) => write!(f, ":{}", Nodes(nodes)),
                    (1, _) => write!(f, ": the only node failed{}", Nodes(nodes)),
                    (_, Operation::Lock)
                        if self.remedy().is_none() && nodes.iter().any(NodeError::is_withheld) =>
                    {
                        write!(
                            f,
                            ": {failed} of {total} nodes cannot vote yet, {needed} must{}",
                            Nodes(nodes)
                        )
                    }
                    (_, Operation::Lock | Operation::Connect) => {
                        write!(f, ": {failed} of {total} nodes failed, {needed} must answer{}", Nodes(nodes))
                    }
                    (_, Operation::Extend | Operation::Unlock) => {
                        write!(
                            f,
                            ": {needed} of {total} nodes must confirm, {} did not{}",
                            nodes.len(),
                            Nodes(nodes)
                        )
                    }
                }
            }
            Self::ValidityExhausted { name, took } => {
                write!(
                    f,
                    "lock {name:?} was granted too late: it took {took:.1?}, and nothing of its expiry is left"
                )
            }
            Self::AlreadyExpired { name, operation, nodes } => {
                write!(f, "cannot {operation} lock {name:?}: it had already expired{}", Nodes(nodes))
            }
            Self::Lost(lost) => lost.fmt(f),
            Self::Cancelled { name } => write!(f, "waiting for lock {name:?} was cancelled"),
            Self::ShutDown => f.write_str("redsync was shut down"),
            Self::InvalidOption(invalid) => invalid.fmt(f),
            Self::InvalidUrl(invalid) => invalid.fmt(f),
            Self::DuplicateNode { first, second } if first == second => {
                write!(f, "node {first} is listed twice; each node must be a server of its own")
            }
            Self::DuplicateNode { first, second } => {
                write!(f, "nodes {first} and {second} are the same server; each node must be one of its own")
            }
            Self::Runtime { reason } => write!(f, "no runtime: {reason}"),
        }
    }
}

/// `: node says; node says`, or nothing.
struct Nodes<'a>(&'a [NodeError]);

impl fmt::Display for Nodes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, node) in self.0.iter().enumerate() {
            write!(f, "{} {node}", if index == 0 { ":" } else { ";" })?;
        }
        Ok(())
    }
}

impl fmt::Display for NodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Taken { node, holder } => write!(f, "{node} is held by {holder}"),
            Self::NotHeld { node } => write!(f, "{node} has no such lease any more"),
            Self::Withheld { node, wait: Some(wait) } => {
                write!(f, "{node} restarted and may have forgotten who holds; its vote counts in {wait:.1?}")
            }
            Self::Withheld { node, wait: None } => write!(
                f,
                "{node} does not say since when it is up, so that its vote does not count (let INFO through, or turn the restart guard off)"
            ),
            Self::Timeout { node, after } => write!(f, "{node} did not answer within {after:.0?}"),
            Self::Failed { node, source } => write!(f, "{node}: {source}"),
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "connect",
            Self::Lock => "take",
            Self::Extend => "extend",
            Self::Unlock => "release",
        })
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::InvalidOption(_) | Self::InvalidUrl(_) => None,
            Self::Lost(lost) => lost.source(),
            // A failure explains more than a "taken" does.
            _ => {
                let nodes = self.nodes();
                let telling = nodes.iter().find(|node| node.source().is_some()).or(nodes.first());
                telling.map(|node| node as &(dyn StdError + 'static))
            }
        }
    }
}

impl StdError for NodeError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Failed { source, .. } => Some(source),
            Self::Taken { .. } | Self::NotHeld { .. } | Self::Withheld { .. } | Self::Timeout { .. } => None,
        }
    }
}

impl From<Lost> for Error {
    fn from(lost: Lost) -> Self {
        Self::Lost(lost)
    }
}

impl From<InvalidOption> for Error {
    fn from(invalid: InvalidOption) -> Self {
        Self::InvalidOption(invalid)
    }
}

impl From<InvalidUrl> for Error {
    fn from(invalid: InvalidUrl) -> Self {
        Self::InvalidUrl(invalid)
    }
}
