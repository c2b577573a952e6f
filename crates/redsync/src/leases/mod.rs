//! One token's leases on all nodes, from the first request to the last release.
//!
//! An attempt, the guard it becomes, and the undo of either work on the same [`LeaseSet`]. What is known of each node is
//! kept in its [`Leases`]; [`extend`], [`fencing`] and [`release`] ask the nodes; [`keep`] is what the keeper does for a guard.

mod extend;
mod fencing;
mod keep;
mod release;
mod waiting;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use self::keep::Keep;
pub(crate) use self::keep::{Due, Renewal, Untold};
pub(crate) use self::waiting::Told;
use crate::clock::Clock;
use crate::error::Error;
use crate::events;
use crate::fan_out::Nodes;
use crate::lost::Signals;
use crate::options::AttemptConfig;
use crate::protocol::leases::Leases;
pub(crate) use crate::protocol::leases::RequestNumber;
use crate::protocol::{Expiry, Fence, Instant, LockName, Quorum};
use crate::roll::Roll;
use crate::service::{Keeper, TaskTracker, Waiters};

/// What all locks of one [`Redsync`](crate::Redsync) share.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) nodes: Nodes,
    /// Who the nodes are, where there are several.
    pub(crate) roll: Option<Arc<Roll>>,
    pub(crate) quorum: Quorum,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) tasks: TaskTracker,
    pub(crate) keeper: Keeper,
    pub(crate) waiters: Waiters,
    /// Whether votes of restarted nodes are withheld, unless a lock says otherwise.
    pub(crate) restart_guard: bool,
    /// Whether the numbers were described again when it was first used: a recorder may have been installed since it was made.
    pub(crate) is_described: AtomicBool,
    /// Whether grants that nodes tell of are confirmed, unless a lock says otherwise.
    pub(crate) confirm_grants: bool,
}

impl Core {
    /// Makes sure that there is a runtime to work in, and gives the time.
    pub(crate) fn enter(&self) -> Result<Instant, Error> {
        match self.tasks.settle() {
            true => {
                if !self.is_described.load(Ordering::Relaxed)
                    && !self.is_described.swap(true, Ordering::Relaxed)
                {
                    events::describe(&self.nodes);
                }
                let now = self.clock.now();
                self.attend(now);
                Ok(now)
            }
            false => Err(Error::Runtime {
                reason: "redsync works inside a tokio runtime; without one, use redsync::blocking".into(),
            }),
        }
    }

    /// Makes sure that somebody sees to the guards' deadlines, as long as there is a runtime.
    pub(crate) fn attend(&self, now: Instant) {
        self.keeper.attend(|| self.tasks.runtime(), now, &self.clock);
    }
}

/// One token's leases on all nodes.
pub(crate) struct LeaseSet {
    pub(crate) core: Arc<Core>,
    pub(crate) config: AttemptConfig,
    /// Who waits for the end of it.
    pub(crate) signals: Signals,
    /// Grants that nodes tell of may still be for this token.
    pub(crate) is_told: AtomicBool,
    /// The fence that was agreed on, where one was asked for.
    fence: OnceLock<Fence>,
    /// What is proposed for one in place of an earlier ticket.
    proposed: AtomicU64,
    keep: Mutex<Keep>,
    ledger: Mutex<Leases>,
}

/// How a guard stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Exclusive.
    Held,
    /// No longer, and never again.
    Lost,
    /// Given back or handed on, or not acquired yet.
    Released,
}

impl LeaseSet {
    /// A token on no node yet.
    pub(crate) fn new(core: Arc<Core>, config: AttemptConfig) -> Arc<Self> {
        let ledger = Mutex::new(Leases::new(core.quorum));
        let keep = Mutex::new(Keep::new(config.claim.expiry));
        let is_told = AtomicBool::new(false);
        Arc::new(Self {
            core,
            config,
            signals: Signals::default(),
            is_told,
            fence: OnceLock::new(),
            proposed: AtomicU64::new(0),
            keep,
            ledger,
        })
    }

    /// Records that the lease is about to be asked for on all nodes: what may come of it must be undone from here on.
    pub(crate) fn ask_to_acquire(&self) -> (RequestNumber, Instant) {
        let trusted = self.config.trusted();
        let (number, sent, ()) = self.ask(&self.config, |ledger| ledger.ask_to_acquire(trusted));
        (number, sent)
    }

    /// Records that the token, made elsewhere, may stand on any node; and what its side's
    /// [last word](Self::pending_expiry) may be.
    pub(crate) fn presume(&self, pending_expiry: Option<Expiry>) {
        self.ask(&self.config, |ledger| ledger.presume(pending_expiry.map(Expiry::as_duration)));
    }

    /// Records that node `index` granted what request `number` asked for, though it may have forgotten another's lease.
    pub(crate) fn granted_unconfirmed(&self, index: usize, number: RequestNumber) {
        self.ledger().granted_unconfirmed(index, number);
    }

    /// Records that node `index` refused what request `number` asked for.
    pub(crate) fn refused(&self, index: usize, number: RequestNumber) {
        self.ledger().refused(index, number, self.core.clock.now());
    }

    /// Whether node `index` is known to have the token.
    pub(crate) fn is_granted_on(&self, index: usize) -> bool {
        self.ledger().is_granted_on(index)
    }

    /// Whether the token is exclusive now, and was without a break since it was granted.
    pub(crate) fn is_valid(&self) -> bool {
        !self.remaining().is_zero()
    }

    /// How long it will stay exclusive, if nothing is done; zero if it is not.
    pub(crate) fn remaining(&self) -> Duration {
        let now = self.core.clock.now();
        let mut ledger = self.ledger();
        match ledger.valid_until() {
            Some(end) if ledger.is_kept() && !ledger.is_past(now) => end.saturating_since(now),
            _ => Duration::ZERO,
        }
    }

    /// How it stands now, by this side's clock alone.
    pub(crate) fn standing(&self) -> Standing {
        let mut ledger = self.ledger();
        if let Some(was_lost) = ledger.was_lost() {
            return if was_lost { Standing::Lost } else { Standing::Released };
        }
        let now = self.core.clock.now();
        match ledger.valid_until() {
            _ if ledger.is_past(now) => Standing::Lost,
            Some(end) if now < end => Standing::Held,
            _ => Standing::Released,
        }
    }

    /// Lets go of the token without giving it back: somebody else goes on with it.
    pub(crate) fn hand_on(self: &Arc<Self>) {
        self.ledger().hand_on(self.core.clock.now());
        self.expect_no_grants();
        self.end_keeping();
    }

    /// What whoever goes on with the token has to reckon with: a request of this side's that a node may apply later, and that
    /// lets the lease last for no longer than this.
    pub(crate) fn pending_expiry(&self) -> Option<Expiry> {
        let shortest = self.ledger().shortest_under_way()?;
        Expiry::new(shortest.max(Duration::from_millis(1))).ok()
    }

    /// The instant up to which a majority of leases stands.
    pub(crate) fn valid_until(&self) -> Option<Instant> {
        self.ledger().valid_until()
    }

    /// Whether the token has been given back, so that it must not be anywhere.
    pub(crate) fn is_released(&self) -> bool {
        self.ledger().is_released()
    }

    /// Records that leases on `config` are about to be asked for, and `of_whom`, in one step: between the two, another
    /// request could be asked, sent and answered without knowing of this one. Gives the instant that validity is counted
    /// from.
    fn ask<T>(
        &self,
        config: &AttemptConfig,
        of_whom: impl FnOnce(&mut Leases) -> T,
    ) -> (RequestNumber, Instant, T) {
        // SAFETY RULE (protocol §2): every bound starts before the first byte is sent.
        let sent = self.core.clock.now();
        let horizon = sent + config.claim.expiry.as_duration();
        let mut ledger = self.ledger();
        let number = ledger.ask(sent, config.trusted(), horizon);
        (number, sent, of_whom(&mut ledger))
    }

    fn name(&self) -> LockName {
        self.config.claim.name.clone()
    }

    fn node_name(&self, index: usize) -> String {
        self.core.nodes[index].to_string()
    }

    fn ledger(&self) -> MutexGuard<'_, Leases> {
        // Nothing panics while it holds this lock; and if it did, each step is complete in itself.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for LeaseSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeaseSet").field("claim", &self.config.claim).finish_non_exhaustive()
    }
}
