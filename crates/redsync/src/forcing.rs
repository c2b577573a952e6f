//! Taking a lock away from its holder: an operator's last resort.
//!
//! It is nothing that the holder could not do itself. With the holder's own token, each node's counter of fences is raised by
//! an owner-checked extension, and the lease is released, which hands it over to the first in the queue. Where the token does not
//! hold any more, neither does anything.

use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;
use crate::lease::Lease;
use crate::mutex::Mutex;
use crate::node::{Claim, Holder, IfFree, TimeLeft};
use crate::protocol::{Expiry, Fence, InvalidOption, Proposal, Token};
use crate::redsync::Redsync;

impl Mutex {
    /// Takes the lock away from `holder`, as [`Redsync::inspect`] names it, and hands it over to the first in the queue. Only from
    /// that one: where another holds by now, nothing is done.
    ///
    /// For a holder that hangs or was forgotten. **It goes on working** until it finds out: its next renewal finds the lease
    /// gone, at most a third of its expiry later, and its guard is lost then; until then two may work at once. A holder that does
    /// not renew is not told at all.
    ///
    /// Returns the fence from which on the former holder is stale, where nodes keep a counter: a resource that has seen this
    /// number or a larger one refuses what the former holder writes. Every later holder's is larger. (A holder that is granted
    /// the lock in this very moment may come to have just this number.) `None` where nobody has
    /// asked for a fence, or the counter is at its end.
    ///
    /// The holder may be a program that uses another library. Its key is released like any other, one without an expiry too.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] when the holder's token is none that can be sent: not valid UTF-8, or longer than
    /// [`Token::MAX_BYTES`]; [`Error::Taken`] or [`Error::AlreadyExpired`] when it does not hold any more; [`Error::NoQuorum`] when
    /// no majority of nodes confirmed the release.
    ///
    /// # Cancel safety
    ///
    /// Dropped midway, some nodes may have released and others not.
    pub async fn force_unlock(&self, holder: &Holder) -> Result<Option<Fence>, Error> {
        let settings = self.settings()?;
        let token = nameable(holder)?;
        let redsync = Redsync { core: Arc::clone(&self.core), process: self.process.clone() };
        let looked = redsync.inspect(&settings.name).await?;
        let nodes = looked.nodes();
        let counters = nodes.iter().filter_map(|report| report.fence);
        let stale_from = counters.max().and_then(|highest| Fence::new(highest.as_u64() + 1).ok());
        // What is extended for the sake of the counter is not to end sooner than before: the release may not get through.
        let leases = nodes.iter().filter_map(|report| report.answer.as_ref().ok()?.as_ref());
        let left =
            leases.filter(|there| there.token() == token.as_str()).map(|there| match there.time_left() {
                TimeLeft::For(left) => left,
                TimeLeft::Forever | TimeLeft::Unknown => Duration::ZERO,
            });
        let expiry = Expiry::new(left.max().unwrap_or_default().max(settings.expiry()))?;
        if let Some(fence) = stale_from {
            let retention = Proposal::DEFAULT_RETENTION.max(expiry.as_duration());
            let claim = Claim::new(settings.name.clone(), token.clone(), expiry);
            let claim = claim.fenced(Proposal::new(fence, retention));
            // A node that cannot count, or does not answer, is no reason to let the holder hold: the next grant there counts on.
            let _ = redsync
                .ask_all(move |node| {
                    let claim = claim.clone();
                    Box::pin(async move { node.extend(&claim, IfFree::Leave).await })
                })
                .await;
        }
        let lease = Lease::from_parts(&settings.name, token.as_str(), expiry.as_duration())?;
        self.release(&lease).await?;
        Ok(stale_from)
    }
}

/// The holder's token, if it is as the node has it: bytes that are no UTF-8 were replaced when it was read.
fn nameable(holder: &Holder) -> Result<Token, InvalidOption> {
    if holder.token().contains(char::REPLACEMENT_CHARACTER) {
        let reason = "the holder's is not valid UTF-8, so it cannot be sent back; delete the key by hand";
        return Err(InvalidOption::new("token", reason));
    }
    Token::from_text(holder.token())
}
