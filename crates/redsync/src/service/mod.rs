//! What runs in the background: one task each per [`Redsync`](crate::Redsync).

mod reaper;

pub(crate) use self::reaper::Reaper;
