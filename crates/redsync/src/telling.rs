//! What operators are told: events by `tracing`, and numbers by `metrics` (feature `metrics`).
//!
//! Every name is here, and in `docs/operating.md`. Names and fields are stable. A lock's name is in events, never a label of
//! a number: there may be millions of them.

use std::fmt;
use std::time::Duration;

use crate::error::{Error, ErrorKind, NodeError};
use crate::lost::Lost;
#[cfg(feature = "redis")]
use crate::node::NodeFault;
use crate::protocol::{Fence, LockName};

/// The end of waiting for a lock.
///
/// The times are only looked at if somebody listens: most locks are free, and a look at the clock costs as much as a step of
/// the protocol.
pub(crate) fn acquired(
    lock: &LockName,
    tries: u32,
    waited: impl Fn() -> Duration,
    remaining: impl Fn() -> Duration,
) {
    let (waited_ms, remaining_ms) = (|| millis(waited()), || millis(remaining()));
    tracing::debug!(%lock, outcome = "acquired", tries, waited = waited_ms(), remaining = remaining_ms(), "lock acquired");
    number::acquisition("acquired", waited);
}

/// The end of waiting for a lock, without it.
pub(crate) fn not_acquired(lock: &LockName, tries: u32, waited: Duration, error: &Error) {
    let outcome = outcome(error);
    tracing::debug!(%lock, outcome, tries, waited = millis(waited), %error, "lock not acquired");
    number::acquisition(outcome, || waited);
}

/// Waiting was given up by its caller.
pub(crate) fn cancelled(lock: &LockName, tries: u32, waited: Duration) {
    tracing::debug!(%lock, outcome = "cancelled", tries, waited = millis(waited), "lock not acquired");
    number::acquisition("cancelled", || waited);
}

/// A caller waits because nodes restarted.
pub(crate) fn waits_for_restarted(lock: &LockName, wait: Duration, error: &Error) {
    tracing::info!(%lock, wait = millis(wait), %error, "waiting for restarted nodes");
}

/// A node granted, but may have forgotten that another has it.
pub(crate) fn withheld(lock: &LockName, node: &dyn fmt::Display, wait: Option<Duration>) {
    tracing::debug!(%lock, %node, wait = wait.map(millis), "vote withheld");
    number::withheld(node);
}

/// A renewal succeeded; `again` after one that failed.
pub(crate) fn renewed(lock: &LockName, remaining: Duration, again: bool) {
    let remaining = millis(remaining);
    match again {
        true => tracing::info!(%lock, outcome = "renewed", remaining, "lock renewed again"),
        false => tracing::trace!(%lock, outcome = "renewed", remaining, "lock renewed"),
    }
    number::renewal("renewed");
}

/// A renewal failed, for the first time since one succeeded or not.
pub(crate) fn not_renewed(lock: &LockName, remaining: Duration, error: &Error, is_first: bool) {
    let (outcome, remaining) = (outcome(error), millis(remaining));
    match is_first {
        true => tracing::warn!(%lock, outcome, remaining, %error, "lock not renewed"),
        false => tracing::debug!(%lock, outcome, remaining, %error, "lock not renewed"),
    }
    number::renewal(outcome);
}

/// A node that had lost a guard's lease has it again.
pub(crate) fn retaken(lock: &LockName, node: &dyn fmt::Display) {
    tracing::info!(%lock, %node, "lease taken again on a node that had lost it");
}

/// Nodes counted to different fences; a majority is raised to this one.
pub(crate) fn fences_differ(lock: &LockName, number: Fence) {
    tracing::debug!(%lock, fence = number.as_u64(), "fence counters differ");
    number::fences_differ();
}

/// A guard was lost.
pub(crate) fn lost(lost: &Lost, held: Duration) {
    let cause = lost.cause().map(tracing::field::display);
    tracing::error!(lock = %lost.name(), held = millis(held), remaining = 0, error = cause, "lock lost");
    number::loss();
    number::held(|| held);
}

/// A guard was given back or handed on, after it was held for so long.
pub(crate) fn held(held: impl FnOnce() -> Duration) {
    number::held(held);
}

/// A lock was released, or not.
pub(crate) fn released(lock: &LockName, result: Result<&(), &Error>) {
    match result {
        Ok(_) => tracing::debug!(%lock, outcome = "released", "lock released"),
        Err(error) => tracing::debug!(%lock, outcome = outcome(error), %error, "lock not released"),
    }
}

/// Nobody is left to release a lock.
pub(crate) fn unsent(lock: &LockName, expiry: &dyn fmt::Display) {
    tracing::warn!(
        %lock,
        %expiry,
        "no runtime is left to release this lock in; it stays taken until it expires",
    );
}

/// A node was connected to, after so many failures.
#[cfg(feature = "redis")]
pub(crate) fn connected(node: &str, failures: u32, concerns: &[String]) {
    match failures {
        0 => tracing::debug!(node, "node connected"),
        _ => tracing::info!(node, failures, "node is back"),
    }
    for concern in concerns {
        tracing::warn!(node, concern, "node is unfit to hold locks");
    }
}

/// A node cannot be connected to any more.
#[cfg(feature = "redis")]
pub(crate) fn unreachable(node: &str, fault: &NodeFault) {
    tracing::warn!(node, error = %fault, "node is unreachable");
}

/// A node answered a request, or did not, after so long.
pub(crate) fn answered(node: &dyn fmt::Display, operation: Asked, took: Duration, error: Option<&NodeError>) {
    number::answered(node, operation.name(), took, error.and_then(failure));
}

/// What a node is asked.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Asked {
    Acquire,
    Enter,
    Yield,
    Extend,
    Release,
    Look,
}

impl Asked {
    const fn name(self) -> &'static str {
        match self {
            Self::Acquire => "acquire",
            Self::Enter => "enter",
            Self::Yield => "yield",
            Self::Extend => "extend",
            Self::Release => "release",
            Self::Look => "look",
        }
    }
}

/// An error's kind as a label.
const fn outcome(error: &Error) -> &'static str {
    match error.kind() {
        ErrorKind::Taken => "taken",
        ErrorKind::NoQuorum => "no_quorum",
        ErrorKind::ValidityExhausted => "validity_exhausted",
        ErrorKind::AlreadyExpired => "already_expired",
        ErrorKind::Lost => "lost",
        ErrorKind::Cancelled => "cancelled",
        ErrorKind::Invalid => "invalid",
        ErrorKind::ShutDown => "shut_down",
        ErrorKind::Runtime => "no_runtime",
    }
}

/// A failure's kind as a label; nothing for an answer.
fn failure(error: &NodeError) -> Option<&'static str> {
    use crate::node::FaultKind;
    match error {
        NodeError::Taken { .. } | NodeError::NotHeld { .. } | NodeError::Withheld { .. } => None,
        NodeError::Timeout { .. } => Some("timeout"),
        NodeError::Failed { source, .. } => Some(match source.kind() {
            FaultKind::Unreachable => "unreachable",
            FaultKind::Disconnected => "disconnected",
            FaultKind::Refused => "refused",
            FaultKind::Nonsense => "nonsense",
        }),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(feature = "metrics")]
mod number {
    use std::fmt;
    use std::time::Duration;

    pub(super) fn acquisition(outcome: &'static str, waited: impl FnOnce() -> Duration) {
        metrics::counter!("redsync_acquisitions_total", "outcome" => outcome).increment(1);
        metrics::histogram!("redsync_wait_seconds", "outcome" => outcome).record(waited());
    }

    pub(super) fn renewal(outcome: &'static str) {
        metrics::counter!("redsync_renewals_total", "outcome" => outcome).increment(1);
    }

    pub(super) fn fences_differ() {
        metrics::counter!("redsync_fence_confirmations_total").increment(1);
    }

    pub(super) fn loss() {
        metrics::counter!("redsync_losses_total").increment(1);
    }

    pub(super) fn held(held: impl FnOnce() -> Duration) {
        metrics::histogram!("redsync_hold_seconds").record(held());
    }

    pub(super) fn withheld(node: &dyn fmt::Display) {
        metrics::counter!("redsync_withheld_votes_total", "node" => node.to_string()).increment(1);
    }

    pub(super) fn answered(
        node: &dyn fmt::Display,
        operation: &'static str,
        took: Duration,
        failure: Option<&'static str>,
    ) {
        let node = node.to_string();
        if let Some(failure) = failure {
            let labels = [("node", node.clone()), ("operation", operation.into()), ("error", failure.into())];
            metrics::counter!("redsync_node_errors_total", &labels).increment(1);
        }
        metrics::histogram!("redsync_node_seconds", "node" => node, "operation" => operation).record(took);
    }
}

/// Without the feature, numbers go nowhere.
#[cfg(not(feature = "metrics"))]
mod number {
    use std::fmt;
    use std::time::Duration;

    pub(super) fn acquisition(_: &'static str, _: impl FnOnce() -> Duration) {}
    pub(super) const fn renewal(_: &'static str) {}
    pub(super) const fn fences_differ() {}
    pub(super) const fn loss() {}
    pub(super) fn held(_: impl FnOnce() -> Duration) {}
    pub(super) fn withheld(_: &dyn fmt::Display) {}
    pub(super) fn answered(_: &dyn fmt::Display, _: &'static str, _: Duration, _: Option<&'static str>) {}
}
