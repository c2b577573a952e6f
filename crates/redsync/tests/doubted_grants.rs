//! Grants that restarted nodes tell of: they do not count before the node has been up for long enough.

#[path = "support/delegate.rs"]
mod delegate;

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use delegate::delegate;
use redsync::{Answer, Clock, DrivenClock, Guard, Instant, MemoryNode, Node, Redsync, Uptime};
use tokio::task::{JoinHandle, yield_now};

const EXPIRY: Duration = Duration::from_secs(8);
/// The expiry and the allowance for drift.
const QUARANTINE: Duration = Duration::from_millis(8_082);

/// A memory node that says since when it is up.
#[derive(Debug)]
struct Dated {
    node: MemoryNode,
    clock: DrivenClock,
    up_since: Mutex<Option<Instant>>,
}

impl Dated {
    /// From here on, the node says that it started now.
    fn restart(&self) {
        *self.up_since.lock().unwrap() = Some(self.clock.now());
    }
}

impl Node for Dated {
    delegate!(node: identity, health_warnings, acquire, extend, enter, yield_lease, release, inspect, list, listen);

    fn uptime(&self) -> Answer<'_, Uptime> {
        let up_since = *self.up_since.lock().unwrap();
        let uptime = up_since.map(|since| Uptime::AtLeast(self.clock.now().saturating_since(since)));
        Box::pin(std::future::ready(Ok(uptime.unwrap_or(Uptime::Unbroken))))
    }
}

impl fmt::Display for Dated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.node.fmt(f)
    }
}

/// Lets all other tasks run as far as they can without time going on.
async fn settle() {
    for _ in 0..50 {
        yield_now().await;
    }
}

/// What a waiter got: the token of a guard that is valid.
type Held = Option<String>;

/// A waiter of three nodes that are handed over to it, of which so many restarted so long before; when that was; and the token
/// that they were handed over to.
async fn handed_over(
    restarted: usize,
    before: Duration,
    is_fenced: bool,
) -> (DrivenClock, JoinHandle<Held>, Instant, String) {
    let clock = DrivenClock::new();
    clock.advance(Duration::from_secs(100));
    let nodes: Vec<Arc<Dated>> = (0..3)
        .map(|_| {
            let node = MemoryNode::with_clock(clock.clone());
            Arc::new(Dated { node, clock: clock.clone(), up_since: Mutex::default() })
        })
        .collect();
    let redsync = || {
        let builder = Redsync::builder().clock(clock.clone()).restart_guard(true);
        let builder =
            nodes.iter().fold(builder, |builder, node| builder.node(Arc::clone(node) as Arc<dyn Node>));
        builder.build().unwrap()
    };
    let (first, second) = (redsync(), redsync());
    let holder = first.mutex("name").expiry(EXPIRY).lock().await.unwrap();
    settle().await;
    let waiter = tokio::spawn(async move {
        let mutex = second.mutex("name").expiry(EXPIRY);
        let held = |guard: &Guard| guard.is_valid().then(|| guard.token().to_string());
        match is_fenced {
            true => held(&mutex.fenced().lock().await.unwrap()),
            false => held(&mutex.lock().await.unwrap()),
        }
    });
    settle().await;
    nodes[..restarted].iter().for_each(|node| node.restart());
    let at = clock.now();
    while clock.now() < at + before {
        let next = clock.next_wake().map_or(at + before, |next| next.min(at + before));
        clock.advance(next.saturating_since(clock.now()));
        settle().await;
    }
    let name = holder.name().clone();
    holder.unlock().await.unwrap();
    let look = nodes[0].inspect(&name).await.unwrap();
    settle().await;
    (clock, waiter, at, look.holder.expect("it was handed over").token().to_owned())
}

/// Moves time on until `task` has ended, and says when that was.
async fn drive<T>(clock: &DrivenClock, task: JoinHandle<T>) -> (T, Instant) {
    while !task.is_finished() {
        let next = clock.next_wake().expect("somebody waits for something");
        clock.advance(next.saturating_since(clock.now()));
        settle().await;
    }
    (task.await.unwrap(), clock.now())
}

#[tokio::test]
async fn a_minority_of_restarted_nodes_does_not_hold_a_hand_over_up() {
    let (_, waiter, _, token) = handed_over(1, Duration::ZERO, false).await;
    assert!(waiter.is_finished());
    assert_eq!(waiter.await.unwrap(), Some(token));
}

#[tokio::test]
async fn grants_that_a_restarted_majority_tells_of_do_not_count_before_its_quarantine_is_over() {
    let (clock, waiter, restarted, token) = handed_over(2, Duration::ZERO, false).await;
    assert!(!waiter.is_finished(), "two of three may have forgotten another");

    let (held, had) = drive(&clock, waiter).await;

    assert!(had >= restarted + QUARANTINE, "{:?} after the restart", had.saturating_since(restarted));
    assert!(had < restarted + QUARANTINE + Duration::from_millis(200), "and not long after it");
    assert_eq!(held, Some(token), "the lease has stood since then");
}

#[tokio::test]
async fn leases_of_a_restarted_majority_are_no_votes_for_a_fence_though_they_outlast_its_quarantine() {
    for before in [Duration::ZERO, QUARANTINE - Duration::from_millis(40)] {
        let (clock, waiter, restarted, token) = handed_over(2, before, true).await;
        assert!(!waiter.is_finished(), "two of three may have forgotten another");

        let (held, had) = drive(&clock, waiter).await;

        assert!(had >= restarted + QUARANTINE, "{:?} after the restart", had.saturating_since(restarted));
        // What they counted for those leases, they may have counted for another before: others are asked for.
        let held = held.expect("it is valid");
        assert_ne!(held, token, "handed over {before:?} after the restart");
    }
}
