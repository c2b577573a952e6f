//! What comes of a claim, and what all claims share.

use std::error::Error;
use std::time::Duration;

use crate::agent::Told;

/// A claim that held, or what was seen instead.
pub(crate) type Claim = Result<(), Failure>;

/// What was seen instead, or went wrong on the way.
pub(crate) type Failure = Box<dyn Error>;

pub(crate) fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Claim {
    match holds {
        true => Ok(()),
        false => Err(otherwise().into()),
    }
}

pub(crate) fn done(told: Told) -> Claim {
    match told {
        Told::Done => Ok(()),
        Told::Failed(why) => Err(format!("the peer failed: {why}").into()),
    }
}

/// What leases last for where nobody waits for their end: longer than anything here takes.
pub(crate) const EXPIRY: Duration = Duration::from_secs(30);
