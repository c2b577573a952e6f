//! What runs in the background of each [`Redsync`](crate::Redsync).

mod keeper;
mod outside;
mod reaper;

pub(crate) use self::keeper::{Deadline, Keeper};
pub(crate) use self::reaper::Reaper;
