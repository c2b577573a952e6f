//! What the clauses claim. Each claim is a function with a name of its own, listed in `clause`.

pub(crate) mod acquire;
pub(crate) mod concurrency;
pub(crate) mod counter;
pub(crate) mod extend;
pub(crate) mod fencing;
pub(crate) mod identity;
pub(crate) mod inspect;
pub(crate) mod list;
pub(crate) mod naming;
pub(crate) mod order;
pub(crate) mod queue;
pub(crate) mod release;
pub(crate) mod succession;
pub(crate) mod telling;
