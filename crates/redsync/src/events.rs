//! What operators are told: events by `tracing`, and numbers by `metrics` (feature `metrics`).
//!
//! Every name is here, and in `docs/operating.md`. Names and fields are stable. A lock's name is in events, never a label of
//! a number: there may be millions of them.
//!
//! Units: a time in an event is a whole number of milliseconds, and its field's name ends in `_ms`. A time among the numbers
//! is in seconds, and its name ends in `_seconds`.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, ErrorKind, NodeError};
use crate::lost::Lost;
use crate::node::Node;
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
    tracing::debug!(%lock, outcome = "acquired", tries, waited_ms = waited_ms(), remaining_ms = remaining_ms(), "lock acquired");
    number::acquisition("acquired", waited);
}

/// The end of waiting for a lock, without it.
pub(crate) fn not_acquired(lock: &LockName, tries: u32, waited: Duration, error: &Error) {
    let outcome = outcome(error);
    tracing::debug!(%lock, outcome, tries, waited_ms = millis(waited), %error, "lock not acquired");
    number::acquisition(outcome, || waited);
}

/// Waiting was given up by its caller.
pub(crate) fn cancelled(lock: &LockName, tries: u32, waited: Duration) {
    tracing::debug!(%lock, outcome = "cancelled", tries, waited_ms = millis(waited), "lock not acquired");
    number::acquisition("cancelled", || waited);
}

/// A caller waits because nodes restarted.
pub(crate) fn waits_for_restarted(lock: &LockName, wait: Duration, error: &Error) {
    tracing::info!(%lock, wait_ms = millis(wait), %error, "waiting for restarted nodes");
}

/// A node granted, but may have forgotten that another has it.
pub(crate) fn withheld(lock: &LockName, node: &dyn fmt::Display, wait: Option<Duration>) {
    tracing::debug!(%lock, %node, wait_ms = wait.map(millis), "vote withheld");
    number::withheld(node);
}

/// A renewal succeeded; `again` after one that failed.
pub(crate) fn renewed(lock: &LockName, remaining: Duration, again: bool) {
    let remaining_ms = millis(remaining);
    match again {
        true => tracing::info!(%lock, outcome = "renewed", remaining_ms, "lock renewed again"),
        false => tracing::trace!(%lock, outcome = "renewed", remaining_ms, "lock renewed"),
    }
    number::renewal("renewed");
}

/// A renewal failed, for the first time since one succeeded or not.
pub(crate) fn not_renewed(lock: &LockName, remaining: Duration, error: &Error, is_first: bool) {
    let (outcome, remaining_ms) = (outcome(error), millis(remaining));
    match is_first {
        true => tracing::warn!(%lock, outcome, remaining_ms, %error, "lock not renewed"),
        false => tracing::debug!(%lock, outcome, remaining_ms, %error, "lock not renewed"),
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
    tracing::error!(lock = %lost.name(), held_ms = millis(held), remaining_ms = 0, error = cause, "lock lost");
    number::loss();
    number::held(|| held);
}

/// A guard was given back or handed on, after it was held for so long.
pub(crate) fn held(held: impl FnOnce() -> Duration) {
    number::held(held);
}

/// A lock was handed on without being released.
pub(crate) fn handed_on(lock: &LockName) {
    tracing::debug!(%lock, outcome = "handed_on", "lock handed on");
}

/// A held lock was taken over by its lease, or not.
pub(crate) fn adopted(lock: &LockName, remaining: impl Fn() -> Duration, result: Result<&(), &Error>) {
    match result {
        Ok(()) => {
            let remaining_ms = || millis(remaining());
            tracing::debug!(%lock, outcome = "adopted", remaining_ms = remaining_ms(), "lock adopted");
        }
        Err(error) => tracing::debug!(%lock, outcome = outcome(error), %error, "lock not adopted"),
    }
}

/// A lock was released, or not.
pub(crate) fn released(lock: &LockName, result: Result<&(), &Error>) {
    match result {
        Ok(_) => tracing::debug!(%lock, outcome = "released", "lock released"),
        Err(error) => tracing::debug!(%lock, outcome = outcome(error), %error, "lock not released"),
    }
}

/// Nobody is left to release a lock.
pub(crate) fn unsent(lock: &LockName, expiry: Duration) {
    tracing::warn!(
        %lock,
        expiry_ms = millis(expiry),
        "no runtime is left to release this lock in; it stays taken until it expires",
    );
}

/// A node was connected to, after so many failures.
#[cfg(feature = "redis")]
pub(crate) fn connected(node: &str, failures: u32, health_warnings: &[String]) {
    match failures {
        0 => tracing::debug!(node, "node connected"),
        _ => tracing::info!(node, failures, "node is back"),
    }
    for warning in health_warnings {
        tracing::warn!(node, warning, "node is unfit to hold locks");
    }
}

/// A node cannot be connected to any more.
#[cfg(feature = "redis")]
pub(crate) fn unreachable(node: &str, fault: &NodeFault) {
    tracing::warn!(node, error = %fault, "node is unreachable");
}

/// A node turned out to be the same server as another, after it was not waited for.
pub(crate) fn duplicate(node: &str, other: &str) {
    tracing::error!(node, other, "node is listed twice");
}

/// A node answered a request, or did not, after so long.
pub(crate) fn answered(
    node: &dyn fmt::Display,
    operation: RequestKind,
    took: Duration,
    error: Option<&NodeError>,
) {
    number::answered(node, operation.name(), took, error.and_then(failure));
}

/// Describes all numbers to the recorder, and has those counters be there with 0 whose labels are known beforehand, so that an
/// alert on their growth sees the first one.
pub(crate) fn describe(nodes: &[Arc<dyn Node>]) {
    number::describe(nodes);
}

/// What a node is asked.
#[derive(Clone, Copy, Debug)]
pub(crate) enum RequestKind {
    Acquire,
    Enter,
    Yield,
    Extend,
    Release,
    Look,
}

impl RequestKind {
    /// All of them.
    #[cfg(feature = "metrics")]
    const ALL: [Self; 6] = [Self::Acquire, Self::Enter, Self::Yield, Self::Extend, Self::Release, Self::Look];

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

/// How asking for a lock may end.
#[cfg(feature = "metrics")]
const ACQUISITIONS: [&str; 8] = [
    "acquired",
    "taken",
    "no_quorum",
    "validity_exhausted",
    "cancelled",
    "invalid",
    "shut_down",
    "no_runtime",
];

/// How a renewal may end.
#[cfg(feature = "metrics")]
const RENEWALS: [&str; 5] = ["renewed", "taken", "no_quorum", "already_expired", "lost"];

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

/// How a node may fail.
#[cfg(feature = "metrics")]
const FAILURES: [&str; 5] = ["timeout", "unreachable", "disconnected", "refused", "nonsense"];

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
    use std::sync::Arc;
    use std::time::Duration;

    use metrics::Unit;

    use super::{ACQUISITIONS, FAILURES, RENEWALS, RequestKind};
    use crate::node::Node;

    const ACQUISITIONS_TOTAL: &str = "redsync_acquisitions_total";
    const WAIT_SECONDS: &str = "redsync_wait_seconds";
    const HOLD_SECONDS: &str = "redsync_hold_seconds";
    const RENEWALS_TOTAL: &str = "redsync_renewals_total";
    const LOSSES_TOTAL: &str = "redsync_losses_total";
    const NODE_SECONDS: &str = "redsync_node_seconds";
    const NODE_ERRORS_TOTAL: &str = "redsync_node_errors_total";
    const FENCE_CONFIRMATIONS_TOTAL: &str = "redsync_fence_confirmations_total";
    const WITHHELD_VOTES_TOTAL: &str = "redsync_withheld_votes_total";

    pub(super) fn describe(nodes: &[Arc<dyn Node>]) {
        let counts = [
            (ACQUISITIONS_TOTAL, "Calls that asked for a lock, by how they ended."),
            (RENEWALS_TOTAL, "Renewals of held locks, by how they ended."),
            (
                LOSSES_TOTAL,
                "Guards that were lost: work went on, or was stopped, without its lock. Alert on any.",
            ),
            (FENCE_CONFIRMATIONS_TOTAL, "Further round trips because the nodes' fence counters differed."),
            (
                WITHHELD_VOTES_TOTAL,
                "Votes that did not count because the node had restarted and may have forgotten a lease.",
            ),
            (NODE_ERRORS_TOTAL, "Requests that a node did not answer, or refused."),
        ];
        for (name, description) in counts {
            metrics::describe_counter!(name, Unit::Count, description);
        }
        let times = [
            (WAIT_SECONDS, "How long calls that asked for a lock took, by how they ended."),
            (HOLD_SECONDS, "How long guards were held, until they were released, handed on or lost."),
            (NODE_SECONDS, "How long a node took to answer a request, or until its time was up."),
        ];
        for (name, description) in times {
            metrics::describe_histogram!(name, Unit::Seconds, description);
        }
        for outcome in ACQUISITIONS {
            metrics::counter!(ACQUISITIONS_TOTAL, "outcome" => outcome).increment(0);
        }
        for outcome in RENEWALS {
            metrics::counter!(RENEWALS_TOTAL, "outcome" => outcome).increment(0);
        }
        metrics::counter!(LOSSES_TOTAL).increment(0);
        metrics::counter!(FENCE_CONFIRMATIONS_TOTAL).increment(0);
        for node in nodes {
            let node = node.to_string();
            metrics::counter!(WITHHELD_VOTES_TOTAL, "node" => node.clone()).increment(0);
            for operation in RequestKind::ALL.map(RequestKind::name) {
                for error in FAILURES {
                    let labels =
                        [("node", node.clone()), ("operation", operation.into()), ("error", error.into())];
                    metrics::counter!(NODE_ERRORS_TOTAL, &labels).increment(0);
                }
            }
        }
    }

    pub(super) fn acquisition(outcome: &'static str, waited: impl FnOnce() -> Duration) {
        metrics::counter!(ACQUISITIONS_TOTAL, "outcome" => outcome).increment(1);
        metrics::histogram!(WAIT_SECONDS, "outcome" => outcome).record(waited());
    }

    pub(super) fn renewal(outcome: &'static str) {
        metrics::counter!(RENEWALS_TOTAL, "outcome" => outcome).increment(1);
    }

    pub(super) fn fences_differ() {
        metrics::counter!(FENCE_CONFIRMATIONS_TOTAL).increment(1);
    }

    pub(super) fn loss() {
        metrics::counter!(LOSSES_TOTAL).increment(1);
    }

    pub(super) fn held(held: impl FnOnce() -> Duration) {
        metrics::histogram!(HOLD_SECONDS).record(held());
    }

    pub(super) fn withheld(node: &dyn fmt::Display) {
        metrics::counter!(WITHHELD_VOTES_TOTAL, "node" => node.to_string()).increment(1);
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
            metrics::counter!(NODE_ERRORS_TOTAL, &labels).increment(1);
        }
        metrics::histogram!(NODE_SECONDS, "node" => node, "operation" => operation).record(took);
    }
}

/// Without the feature, numbers go nowhere.
#[cfg(not(feature = "metrics"))]
mod number {
    use std::fmt;
    use std::sync::Arc;
    use std::time::Duration;

    use crate::node::Node;

    pub(super) const fn describe(_: &[Arc<dyn Node>]) {}
    pub(super) fn acquisition(_: &'static str, _: impl FnOnce() -> Duration) {}
    pub(super) const fn renewal(_: &'static str) {}
    pub(super) const fn fences_differ() {}
    pub(super) const fn loss() {}
    pub(super) fn held(_: impl FnOnce() -> Duration) {}
    pub(super) fn withheld(_: &dyn fmt::Display) {}
    pub(super) fn answered(_: &dyn fmt::Display, _: &'static str, _: Duration, _: Option<&'static str>) {}
}
