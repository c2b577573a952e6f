//! What runs in the background of each [`Redsync`](crate::Redsync).

mod keeper;
mod outside;
mod queue;
mod task_tracker;
mod tickets;
mod waiters;

pub(crate) use self::keeper::{Deadline, Keeper};
pub(crate) use self::queue::{WaitStatus, Waiter};
pub(crate) use self::task_tracker::TaskTracker;
pub(crate) use self::waiters::Waiters;
