//! Renewal on a clock that tests drive: to the nanosecond, and for days in a moment.

#[path = "support/delegate.rs"]
mod delegate;
mod support;

use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use delegate::delegate;
use redsync::{
    Answer, Claim, Clock, DrivenClock, Error, ErrorKind, Extended, Guard, IfFree, Instant, MemoryNode, Node,
    NodeFault, Redsync,
};
use support::{DEADLINE, assert_contains, both_ways};
use tokio::task::{JoinHandle, yield_now};
use tokio::time::timeout;

const NANOSECOND: Duration = Duration::from_nanos(1);
const MILLIS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// What is allowed for drift of the default expiry, 8 s: a hundredth of it and 2 ms.
const DRIFT: Duration = Duration::from_millis(82);
const EXPIRY: Duration = Duration::from_secs(8);
const TRUSTED: Duration = Duration::from_millis(8_000 - 82);

/// A memory node that can be out of reach, and whose answers to extending can take their time.
#[derive(Debug)]
struct Scripted {
    node: MemoryNode,
    clock: DrivenClock,
    fails: AtomicBool,
    takes: Mutex<Duration>,
    extensions: AtomicUsize,
}

/// The same nodes as two see them who do not know each other.
struct Simulation {
    clock: DrivenClock,
    nodes: Vec<Arc<Scripted>>,
    redsync: Redsync,
    rival: Redsync,
}

fn simulated(nodes: usize) -> Simulation {
    let clock = DrivenClock::new();
    clock.advance(SECOND);
    let scripted = |_| {
        Arc::new(Scripted {
            node: MemoryNode::with_clock(clock.clone()),
            clock: clock.clone(),
            fails: AtomicBool::new(false),
            takes: Mutex::default(),
            extensions: AtomicUsize::new(0),
        })
    };
    let nodes: Vec<Arc<Scripted>> = (0..nodes).map(scripted).collect();
    let over = || {
        let builder = Redsync::builder().clock(clock.clone());
        let nodes = nodes.iter().map(|node| Arc::clone(node) as Arc<dyn Node>);
        nodes.fold(builder, redsync::Builder::node).build().unwrap()
    };
    let (redsync, rival) = (over(), over());
    Simulation { clock, nodes, redsync, rival }
}

impl Simulation {
    /// Moves time on to the next sleeper or to `end`, and says whether that was not yet the end.
    async fn step(&self, end: Instant) -> bool {
        settle().await;
        let next = self.clock.next_wake().map_or(end, |next| next.min(end));
        self.clock.advance(next.saturating_since(self.clock.now()));
        settle().await;
        next < end
    }

    /// Lets `time` pass, with all that it brings.
    async fn pass(&self, time: Duration) {
        let end = self.clock.now() + time;
        while self.step(end).await {}
    }

    /// Lets time pass until `task` has ended.
    async fn until_ended<T>(&self, task: JoinHandle<T>) -> T {
        let end = self.clock.now() + 100 * HOUR;
        while !task.is_finished() {
            assert!(self.step(end).await, "the task never ends");
        }
        task.await.unwrap()
    }

    /// When `guard` is lost.
    async fn loss_of(&self, guard: &Guard) -> Instant {
        self.until_ended(tokio::spawn(guard.lost())).await;
        self.clock.now()
    }

    async fn rival_gets_in(&self) -> bool {
        self.rival.mutex("name").try_lock().await.unwrap().is_some()
    }

    fn extensions(&self) -> usize {
        self.nodes.iter().map(|node| node.extensions.load(Ordering::SeqCst)).sum()
    }

    fn fail(&self, fails: bool) {
        self.nodes.iter().for_each(|node| node.fails.store(fails, Ordering::SeqCst));
    }
}

/// Lets all other tasks run as far as they can without time going on.
async fn settle() {
    for _ in 0..30 {
        yield_now().await;
    }
}

#[tokio::test]
async fn a_guard_is_held_for_a_day_without_a_touch() {
    let simulation = simulated(3);
    let guard = simulation.redsync.mutex("name").expiry(MINUTE).lock().await.unwrap();
    let begun = simulation.clock.now();

    while simulation.clock.now() < begun + 24 * HOUR {
        // A time that falls on no boundary, so that every phase of a lease is met.
        simulation.pass(Duration::from_millis(37_037)).await;
        assert!(!simulation.rival_gets_in().await, "at {:?}", simulation.clock.now());
    }

    assert!(guard.is_valid());
}

/// How long each of so many renewals of one guard comes after the one before, and what was left of its time then.
async fn pauses(renewals: usize) -> Vec<Duration> {
    let simulation = simulated(3);
    let guard = simulation.redsync.mutex("name").lock().await.unwrap();
    let (mut pauses, mut renewed, mut end) = (Vec::new(), simulation.clock.now(), guard.valid_until());
    while pauses.len() < renewals {
        simulation.step(simulation.clock.now() + HOUR).await;
        if guard.valid_until() != end {
            end = guard.valid_until();
            // The nodes answer at once.
            assert_eq!(end, simulation.clock.now() + TRUSTED);
            pauses.push(simulation.clock.now().saturating_since(renewed));
            renewed = simulation.clock.now();
        }
    }
    pauses
}

#[tokio::test]
async fn a_guard_is_renewed_when_a_third_of_its_time_has_passed_or_a_little_before() {
    for pause in pauses(300).await {
        assert!(pause <= TRUSTED / 3, "{pause:?} is late");
        assert!(pause >= TRUSTED.mul_f64(0.3), "{pause:?} is early");
    }
}

#[tokio::test]
async fn a_guard_of_a_very_short_expiry_is_not_renewed_without_a_pause() {
    let simulation = simulated(1);
    let _guard = simulation.redsync.mutex("name").expiry(10 * MILLIS).lock().await.unwrap();

    // The clock stands still meanwhile.
    settle().await;

    assert_eq!(simulation.extensions(), 0, "renewed before any time has passed");
}

#[tokio::test]
async fn renewals_are_spread_at_random() {
    let mut pauses = pauses(100).await;

    pauses.sort_unstable();
    pauses.dedup();
    assert!(pauses.len() > 50, "{} different pauses", pauses.len());
    assert!(pauses[pauses.len() - 1] - pauses[0] > 100 * MILLIS);
}

#[tokio::test]
async fn a_guard_that_is_not_renewed_is_lost_exactly_at_its_end() {
    let simulation = simulated(3);
    let guard = simulation.redsync.mutex("name").renew(false).lock().await.unwrap();
    let end = guard.valid_until();

    assert_eq!(simulation.loss_of(&guard).await, end);
}

#[tokio::test]
async fn a_signal_does_not_complete_a_nanosecond_early() {
    let simulation = simulated(3);
    let guard = simulation.redsync.mutex("name").renew(false).lock().await.unwrap();
    let waiting = tokio::spawn(guard.lost());

    simulation.pass(TRUSTED - NANOSECOND).await;
    assert!(!waiting.is_finished());
    simulation.pass(NANOSECOND).await;

    assert!(waiting.is_finished());
}

#[tokio::test]
async fn a_guard_whose_end_passed_while_nothing_ran_is_lost_and_asks_no_node() {
    let simulation = simulated(3);
    let guard = simulation.redsync.mutex("name").lock().await.unwrap();
    let waiting = tokio::spawn(guard.lost());
    settle().await;

    // As after a suspend, time goes on in one step.
    simulation.clock.advance(HOUR);
    settle().await;

    assert!(waiting.is_finished());
    assert_eq!(simulation.extensions(), 0);
}

#[tokio::test]
async fn a_guard_that_is_not_renewed_asks_no_node() {
    let simulation = simulated(3);
    let _guard = simulation.redsync.mutex("name").renew(false).lock().await.unwrap();

    simulation.pass(2 * EXPIRY).await;

    assert_eq!(simulation.extensions(), 0);
}

#[tokio::test]
async fn a_capped_guard_is_lost_by_its_cap_and_little_before() {
    for tenths in 80..400 {
        let simulation = simulated(3);
        let max_hold = tenths * SECOND / 10;
        let begun = simulation.clock.now();
        let guard = simulation.redsync.mutex("name").max_hold(max_hold).lock().await.unwrap();

        let held = simulation.loss_of(&guard).await.saturating_since(begun);

        assert!(held <= max_hold, "held for {held:?} of at most {max_hold:?}");
        // What the last lease allows for drift, and twice that, below which prolonging is not worth a request.
        assert!(held >= max_hold - 3 * DRIFT, "held for {held:?} of at most {max_hold:?}");
    }
}

#[tokio::test]
async fn after_its_cap_a_guard_keeps_nobody_out() {
    let simulation = simulated(3);
    let _guard = simulation.redsync.mutex("name").max_hold(20 * SECOND).lock().await.unwrap();

    simulation.pass(20 * SECOND - 4 * DRIFT).await;
    assert!(!simulation.rival_gets_in().await);
    simulation.pass(4 * DRIFT).await;

    assert!(simulation.rival_gets_in().await);
}

#[tokio::test]
async fn a_cap_shorter_than_the_expiry_is_refused_with_the_reason() {
    let simulation = simulated(3);
    let mutex = simulation.redsync.mutex("name").max_hold(EXPIRY - NANOSECOND);

    let error = mutex.lock().await.unwrap_err();

    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_contains(
        &error.to_string(),
        &["invalid max_hold", "7.999999999s is shorter than the expiry", "8s"],
    );
}

#[tokio::test]
async fn extending_by_hand_is_not_capped() {
    let simulation = simulated(3);
    let guard = simulation.redsync.mutex("name").max_hold(10 * SECOND).lock().await.unwrap();
    simulation.pass(9 * SECOND).await;

    guard.extend().await.unwrap();

    assert_eq!(guard.remaining(), TRUSTED);
}

#[tokio::test]
async fn after_a_shorter_extension_renewals_ask_for_the_shorter_time() {
    let simulation = simulated(3);
    let guard = simulation.redsync.mutex("name").expiry(HOUR).lock().await.unwrap();
    guard.extend_by(EXPIRY).await.unwrap();

    for _ in 0..100 {
        simulation.pass(SECOND).await;
        assert!(guard.is_valid() && guard.remaining() <= TRUSTED, "{:?}", guard.remaining());
    }

    assert!(simulation.extensions() > 60, "{}", simulation.extensions());
}

#[tokio::test]
async fn after_a_longer_extension_renewals_ask_for_the_longer_time() {
    let simulation = simulated(3);
    let guard = simulation.redsync.mutex("name").lock().await.unwrap();
    guard.extend_by(HOUR).await.unwrap();

    simulation.pass(24 * HOUR).await;

    assert!(guard.remaining() > HOUR / 2, "{:?}", guard.remaining());
}

#[tokio::test]
async fn a_shorter_extension_dropped_midway_loses_nothing_while_renewal_works() {
    let simulation = simulated(3);
    let guard = simulation.redsync.mutex("name").expiry(HOUR).lock().await.unwrap();
    simulation.nodes.iter().for_each(|node| *node.takes.lock().unwrap() = 10 * MILLIS);
    {
        let mut extending = pin!(guard.extend_by(EXPIRY));
        let polled = poll_fn(|context| Poll::Ready(extending.as_mut().poll(context))).await;
        assert!(polled.is_pending());
    }
    assert!(guard.remaining() <= TRUSTED);

    simulation.pass(10 * MINUTE).await;

    assert!(guard.is_valid());
    assert!(!simulation.rival_gets_in().await);
}

#[tokio::test]
async fn failed_renewals_are_tried_again_until_the_very_end() {
    let simulation = simulated(3);
    let guard = simulation.redsync.mutex("name").lock().await.unwrap();
    let first_end = guard.valid_until();
    simulation.fail(true);
    simulation.pass(TRUSTED - 50 * MILLIS).await;
    assert_eq!(guard.valid_until(), first_end);

    simulation.fail(false);
    simulation.pass(50 * MILLIS).await;

    assert!(guard.valid_until() > first_end + TRUSTED / 2, "it is renewed");
    assert!(guard.is_valid());
}

#[tokio::test]
async fn a_guard_whose_renewals_all_fail_is_lost_exactly_at_its_end() {
    let simulation = simulated(3);
    let guard = simulation.redsync.mutex("name").lock().await.unwrap();
    let end = guard.valid_until();
    simulation.fail(true);

    assert_eq!(simulation.loss_of(&guard).await, end);
}

#[tokio::test]
async fn renewals_that_fail_are_not_tried_without_a_pause() {
    let simulation = simulated(1);
    let guard = simulation.redsync.mutex("name").lock().await.unwrap();
    simulation.fail(true);

    simulation.loss_of(&guard).await;

    let tries = simulation.extensions();
    assert!((5..100).contains(&tries), "{tries}");
}

#[tokio::test]
async fn a_failing_minority_does_not_keep_a_guard_from_being_renewed() {
    let simulation = simulated(3);
    let guard = simulation.redsync.mutex("name").lock().await.unwrap();
    simulation.nodes[1].fails.store(true, Ordering::SeqCst);

    simulation.pass(HOUR).await;

    assert!(guard.is_valid());
}

#[tokio::test]
async fn what_is_handed_on_is_renewed_no_more_and_expires() {
    let simulation = simulated(3);
    let _lease = simulation.redsync.mutex("name").lock().await.unwrap().into_lease();

    simulation.pass(EXPIRY - NANOSECOND).await;
    assert!(!simulation.rival_gets_in().await);
    simulation.pass(NANOSECOND).await;

    assert!(simulation.rival_gets_in().await);
    assert_eq!(simulation.extensions(), 0);
}

#[tokio::test]
async fn an_adopted_guard_is_renewed() {
    let simulation = simulated(3);
    let lease = simulation.redsync.mutex("name").lock().await.unwrap().into_lease();
    let guard = simulation.rival.adopt(&lease).await.unwrap();

    simulation.pass(HOUR).await;

    assert!(guard.is_valid());
}

#[tokio::test]
async fn ten_thousand_guards_of_one_expiry_are_all_renewed() {
    let simulation = simulated(1);
    let mut guards = Vec::new();
    for number in 0..10_000 {
        guards.push(simulation.redsync.mutex(number.to_string()).lock().await.unwrap());
    }

    simulation.pass(2 * EXPIRY).await;

    assert_eq!(guards.iter().filter(|guard| guard.is_valid()).count(), 10_000);
}

#[tokio::test]
async fn a_dropped_guard_is_renewed_no_more() {
    let simulation = simulated(3);
    let guard = simulation.redsync.mutex("name").lock().await.unwrap();
    simulation.pass(EXPIRY).await;
    drop(guard);
    settle().await;
    let extensions = simulation.extensions();
    assert!(extensions > 0, "it was renewed until then");

    simulation.pass(HOUR).await;

    assert_eq!(simulation.extensions(), extensions);
    assert_eq!(simulation.clock.next_wake(), None, "nobody waits for anything");
}

#[tokio::test]
async fn a_guard_dropped_while_it_is_renewed_is_released() {
    let simulation = simulated(3);
    let guard = simulation.redsync.mutex("name").lock().await.unwrap();
    simulation.nodes.iter().for_each(|node| *node.takes.lock().unwrap() = 10 * MILLIS);
    while simulation.extensions() == 0 {
        simulation.step(simulation.clock.now() + HOUR).await;
    }

    drop(guard);
    simulation.pass(SECOND).await;

    assert!(simulation.rival_gets_in().await);
}

#[tokio::test]
async fn a_renewal_that_is_answered_after_the_end_brings_nothing_back() {
    let simulation = simulated(3);
    let guard = simulation.redsync.mutex("name").timeout_factor(0.9).lock().await.unwrap();
    let end = guard.valid_until();
    simulation.fail(true);
    simulation.pass(TRUSTED - 100 * MILLIS).await;
    // From here on the nodes extend at once and say so after the end.
    simulation.fail(false);
    simulation.nodes.iter().for_each(|node| *node.takes.lock().unwrap() = 200 * MILLIS);

    assert_eq!(simulation.loss_of(&guard).await, end);
    simulation.pass(SECOND).await;

    assert!(!guard.is_valid());
    assert!(simulation.extensions() > 0);
}

#[tokio::test]
async fn after_a_shutdown_no_lock_is_taken() {
    let simulation = simulated(3);
    let lease = simulation.redsync.mutex("handed on").lock().await.unwrap().into_lease();
    simulation.redsync.shutdown().await;

    assert!(matches!(simulation.redsync.mutex("name").lock().await, Err(Error::ShutDown)));
    assert!(matches!(simulation.redsync.mutex("name").try_lock().await, Err(Error::ShutDown)));
    assert!(matches!(simulation.redsync.adopt(&lease).await, Err(Error::ShutDown)));
}

#[tokio::test]
async fn a_shutdown_ends_the_wait_for_a_lock() {
    let simulation = simulated(3);
    let _held = simulation.rival.mutex("name").lock().await.unwrap();
    let mutex = simulation.redsync.mutex("name").wait_without_limit();
    let waiting =
        both_ways(&mutex, 100 * MILLIS).map(|mutex| tokio::spawn(async move { mutex.lock().await }));
    settle().await;

    simulation.redsync.shutdown().await;

    for waiting in waiting {
        let waited = simulation.until_ended(waiting).await;
        assert!(matches!(waited, Err(Error::ShutDown)), "{waited:?}");
    }
}

#[tokio::test]
async fn after_a_shutdown_a_guard_is_renewed_no_more_and_lost_at_its_end() {
    let simulation = simulated(3);
    let guard = simulation.redsync.mutex("name").lock().await.unwrap();
    let end = guard.valid_until();
    simulation.redsync.shutdown().await;

    let lost = simulation.loss_of(&guard).await;

    assert_eq!(lost, end);
    assert_eq!(simulation.extensions(), 0);
}

#[tokio::test]
async fn after_a_shutdown_a_guard_is_valid_to_its_end() {
    let simulation = simulated(3);
    let guard = simulation.redsync.mutex("name").lock().await.unwrap();
    simulation.redsync.shutdown().await;

    simulation.pass(TRUSTED - NANOSECOND).await;

    assert!(guard.is_valid());
    assert!(!simulation.rival_gets_in().await);
}

#[tokio::test]
async fn after_a_shutdown_a_guard_can_be_extended_by_hand() {
    let simulation = simulated(3);
    let guard = simulation.redsync.mutex("name").lock().await.unwrap();
    simulation.redsync.shutdown().await;
    simulation.pass(SECOND).await;

    guard.extend().await.unwrap();

    assert_eq!(guard.remaining(), TRUSTED);
}

#[tokio::test]
async fn an_idle_redsync_is_shut_down_at_once() {
    let simulation = simulated(3);
    simulation.redsync.mutex("name").lock().await.unwrap().unlock().await.unwrap();

    let done = timeout(DEADLINE, simulation.redsync.shutdown()).await;

    assert!(done.expect("it does not wait for a clock that stands still"));
}

#[tokio::test]
async fn a_shutdown_waits_for_the_releases_of_dropped_guards() {
    let simulation = simulated(3);
    drop(simulation.redsync.mutex("name").lock().await.unwrap());

    assert!(simulation.redsync.shutdown().await);

    assert!(simulation.rival_gets_in().await);
}

#[tokio::test]
async fn a_shutdown_waits_for_renewals_under_way() {
    let simulation = simulated(3);
    let guard = simulation.redsync.mutex("name").lock().await.unwrap();
    simulation.nodes.iter().for_each(|node| *node.takes.lock().unwrap() = 10 * MILLIS);
    while simulation.extensions() == 0 {
        simulation.step(simulation.clock.now() + HOUR).await;
    }
    let (redsync, before) = (simulation.redsync.clone(), guard.valid_until());

    let shutdown = tokio::spawn(async move { redsync.shutdown().await });
    settle().await;
    assert!(!shutdown.is_finished());

    assert!(simulation.until_ended(shutdown).await);
    assert!(guard.valid_until() > before);
}

impl fmt::Display for Scripted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.node.fmt(f)
    }
}

impl Node for Scripted {
    delegate!(node: identity, uptime, health_warnings, acquire, enter, yield_lease, release, inspect, list, listen);

    fn extend<'a>(&'a self, claim: &'a Claim, if_free: IfFree) -> Answer<'a, Extended> {
        Box::pin(async move {
            self.extensions.fetch_add(1, Ordering::SeqCst);
            if self.fails.load(Ordering::SeqCst) {
                return Err(NodeFault::unreachable("the script says so"));
            }
            let extended = self.node.extend(claim, if_free).await;
            let takes = *self.takes.lock().unwrap();
            self.clock.sleep_until(self.clock.now() + takes).await;
            extended
        })
    }
}
