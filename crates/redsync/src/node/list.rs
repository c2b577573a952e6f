//! Which locks are held on one node.

use super::Holder;
use crate::protocol::{Fence, InvalidOption, LockName, Pattern};

/// Which locks are to be listed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Search {
    /// What the names have to match.
    pub pattern: Pattern,
    /// Whether keys are listed, too, that need not be locks: see [`and_others`](Self::and_others).
    pub others: bool,
}

impl Search {
    /// The locks whose names match `pattern`; see [`Pattern`].
    ///
    /// # Errors
    ///
    /// [`InvalidOption`] for a pattern that is empty or too long.
    pub fn matching(pattern: impl Into<String>) -> Result<Self, InvalidOption> {
        Ok(Self { pattern: Pattern::new(pattern)?, others: false })
    }

    /// Every lock.
    pub fn everything() -> Self {
        Self { pattern: Pattern::everything(), others: false }
    }

    /// The same, and on servers every key that a lock of another library would look like: a text of up to 512 bytes that
    /// expires. Where others use the server, too, that is not only locks.
    ///
    /// Without this, those are listed whose token this library made, and those beside which there are a queue or a counter of
    /// fences.
    #[must_use]
    pub fn and_others(self) -> Self {
        Self { others: true, ..self }
    }
}

impl Default for Search {
    fn default() -> Self {
        Self::everything()
    }
}

/// The answer to [`Node::list`](super::Node::list): some of the locks, and where to go on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Page {
    /// Locks that are held, in no order.
    pub locks: Vec<Listed>,
    /// Where the next page begins, in the node's own words; `None` after the last.
    pub next: Option<String>,
}

impl Page {
    /// A page with these locks, after which the next begins at `next`.
    pub const fn new(locks: Vec<Listed>, next: Option<String>) -> Self {
        Self { locks, next }
    }
}

/// A lock that is held on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Listed {
    /// The lock.
    pub name: LockName,
    /// Who has the lease.
    pub holder: Holder,
    /// How many wait in the queue.
    pub waiting: u64,
    /// Where the lock's counter of fences stands, if it has one.
    pub fence: Option<Fence>,
}

impl Listed {
    /// The lock called `name`, which `holder` has, and `waiting` wait for.
    pub const fn new(name: LockName, holder: Holder, waiting: u64) -> Self {
        Self { name, holder, waiting, fence: None }
    }

    /// The same, of a lock whose counter stands at `fence`.
    #[must_use]
    pub fn fenced(self, fence: Option<Fence>) -> Self {
        Self { fence, ..self }
    }
}
