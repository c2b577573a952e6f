//! The [`Node`] contract of redsync, as a suite that any node can be held against.
//!
//! The nodes that redsync brings are held against it, and so can be one of your own: a node that keeps every clause
//! can be trusted with votes.
//!
//! ```
//! use std::sync::Arc;
//!
//! use redsync::MemoryNode;
//!
//! # #[tokio::main]
//! # async fn main() {
//! redsync_conformance::check(Arc::new(MemoryNode::new())).await.assert_ok();
//! # }
//! ```
//!
//! Each [`Clause`] is one claim, such as `release_by_another_leaves_the_lease_and_says_who_holds`. All are tried, at
//! the same time and on locks of their own with names that nobody else uses, so that a store with other users will
//! do. What a clause leaves behind is released; the counters of fences are left to their retention, a minute.
//!
//! What one node cannot show is not among the clauses: that two nodes on one store have the same
//! [`identity`](Node::identity), and two on different stores have not.
//!
//! # Time
//!
//! Some clauses wait for leases to end, on the node's own clock: it has to be a real one, at the pace of this
//! machine's, and the runtime's clock must not be paused. No clause depends on exact times. A lease must not end
//! before its expiry, counted from before it was asked for, less an allowance for clocks at different speeds (one in
//! a hundred, and 2 ms); it has to be over some seconds after it; and only what is certain counts as a breach, so that
//! a slow machine breaks nothing. A place in the queue is skipped, too, when its time is over, by a count of whole seconds at the
//! latest. A fence may be two seconds off the node's clock where the contract allows one: clocks are set. The whole suite
//! takes some seconds, and some more where leases never end.
//!
//! # Telling
//!
//! The suite listens with many clients on the one node. A node that says how soon to ask again, in answer to those who
//! enter, cannot tell, and is asked. A clause is tried again where the node says meanwhile that something may not have been
//! told: those in the queue may have lost their places with the connection.
//!
//! | file | idea |
//! |---|---|
//! | `clause` | a clause, and the list of all |
//! | `claims` | what the clauses claim, a file for each part of the contract |
//! | `trial` | one clause's try at a node: locks and owners of its own, and what they may expect |
//! | `report` | what came of it |

mod claims;
mod clause;
mod report;
mod trial;

use std::sync::Arc;

use futures_util::future::join_all;
use redsync::Node;

pub use self::clause::{Clause, clauses};
pub use self::report::{Failure, Report};

/// Holds `node` against every clause, and collects all that it breaks.
///
/// # Panics
///
/// Outside of a tokio runtime with its time enabled. A panic of the node is a failure in the report.
///
/// # Cancel safety
///
/// Dropping the future ends the suite. Leases may stay behind then, under random names that begin with
/// `redsync-conformance:`: most for minutes, one for as long as the node grants at most.
pub async fn check(node: Arc<dyn Node>) -> Report {
    let clauses = clauses();
    let verdicts = join_all(clauses.iter().map(|clause| clause.check(Arc::clone(&node)))).await;
    Report::new(node.to_string(), clauses.iter().map(|clause| clause.name).zip(verdicts))
}
