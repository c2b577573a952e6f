//! On a clock that tests drive, every bound is exact, and hours take microseconds.

mod support;

use std::sync::Arc;
use std::time::Duration;

use redsync::{Clock, DrivenClock, ErrorKind, Guard, Instant, LockState, MemoryNode, Redsync, TimeLeft};
use support::{DEADLINE, both_ways};
use tokio::task::{JoinHandle, yield_now};

const NANOSECOND: Duration = Duration::from_nanos(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// An expiry of 8 s, less a hundredth of it and 2 ms.
const TRUSTED: Duration = Duration::from_millis(8_000 - 80 - 2);

fn simulated(nodes: usize) -> (DrivenClock, Redsync) {
    let clock = DrivenClock::new();
    let builder = Redsync::builder().clock(clock.clone());
    let builder =
        (0..nodes).fold(builder, |builder, _| builder.node(Arc::new(MemoryNode::with_clock(clock.clone()))));
    (clock, builder.build().unwrap())
}

/// Lets all other tasks run as far as they can without time going on.
async fn settle() {
    for _ in 0..50 {
        yield_now().await;
    }
}

/// Moves time on from one sleeper to the next until `task` has ended.
async fn drive<T>(clock: &DrivenClock, task: JoinHandle<T>) -> T {
    let began = std::time::Instant::now();
    settle().await;
    while !task.is_finished() {
        assert!(began.elapsed() < DEADLINE, "the task never ends, at {:?}", clock.now());
        if let Some(next) = clock.next_wake() {
            clock.advance(next.saturating_since(clock.now()));
        }
        settle().await;
    }
    task.await.unwrap()
}

async fn held(redsync: &Redsync, expiry: Duration) -> Guard {
    redsync.mutex("name").expiry(expiry).lock().await.unwrap()
}

#[tokio::test]
async fn valid_until_is_the_instant_of_asking_and_the_expiry_less_drift() {
    for nodes in [1, 3, 5] {
        let (clock, redsync) = simulated(nodes);
        clock.advance(Duration::from_nanos(123_456_789));
        let sent = clock.now();

        let guard = redsync.mutex("name").lock().await.unwrap();

        assert_eq!(guard.valid_until(), sent + TRUSTED);
        assert_eq!(guard.remaining(), TRUSTED);
    }
}

#[tokio::test]
async fn the_drift_factor_is_a_share_of_the_expiry() {
    let (clock, redsync) = simulated(3);
    let mutex = redsync.mutex("name").expiry(10 * SECOND).drift_factor(0.25);

    let guard = mutex.lock().await.unwrap();

    let trusted = 10 * SECOND - Duration::from_millis(2_500 + 2);
    assert_eq!(guard.valid_until(), clock.now() + trusted);
}

#[tokio::test]
async fn a_guard_is_valid_to_the_nanosecond_and_not_after() {
    let (clock, redsync) = simulated(3);
    let guard = redsync.mutex("name").lock().await.unwrap();

    clock.advance(TRUSTED - NANOSECOND);
    assert!(guard.is_valid());
    assert_eq!(guard.remaining(), NANOSECOND);

    clock.advance(NANOSECOND);
    assert!(!guard.is_valid());
    assert_eq!(guard.remaining(), Duration::ZERO);
}

#[tokio::test]
async fn extending_at_the_last_nanosecond_succeeds_and_one_later_fails() {
    let (clock, redsync) = simulated(3);
    let guard = redsync.mutex("name").lock().await.unwrap();

    clock.advance(TRUSTED - NANOSECOND);
    guard.extend().await.unwrap();
    assert_eq!(guard.valid_until(), clock.now() + TRUSTED);

    clock.advance(TRUSTED);
    assert_eq!(guard.extend().await.unwrap_err().kind(), ErrorKind::Lost);
    assert!(!guard.is_valid());
}

#[tokio::test]
async fn a_guard_ends_before_its_leases_do() {
    let (clock, redsync) = simulated(3);
    let guard = redsync.mutex("name").lock().await.unwrap();

    clock.advance(TRUSTED);

    assert!(!guard.is_valid());
    assert!(redsync.mutex("name").try_lock().await.unwrap().is_none());
    clock.advance(8 * SECOND - TRUSTED);
    assert!(redsync.mutex("name").try_lock().await.unwrap().is_some());
}

#[tokio::test]
async fn an_hour_passes_in_no_time() {
    let began = std::time::Instant::now();
    let (clock, redsync) = simulated(3);
    let guard = held(&redsync, HOUR).await;

    clock.advance(HOUR / 2);
    assert!(guard.is_valid());
    clock.advance(HOUR / 2);

    assert!(!guard.is_valid());
    assert!(began.elapsed() < DEADLINE);
}

#[tokio::test]
async fn an_extended_guard_is_held_for_a_day() {
    let (clock, redsync) = simulated(5);
    let guard = redsync.mutex("name").lock().await.unwrap();
    let begun = clock.now();
    while clock.now() < begun + 24 * HOUR {
        clock.advance(5 * SECOND);
        guard.extend().await.unwrap();
        assert!(redsync.mutex("name").try_lock().await.unwrap().is_none());
    }
    guard.unlock().await.unwrap();
}

#[tokio::test]
async fn a_waiter_gets_in_when_the_lease_runs_out_and_not_before() {
    // In line it asks a moment after the end; else at the next of its tries.
    for (polls, late) in [(false, SECOND / 100), (true, SECOND)] {
        let (clock, redsync) = simulated(3);
        let abandoned = held(&redsync, HOUR).await;
        let end = clock.now() + HOUR;
        abandoned.into_lease();
        let mutex = redsync.mutex("name").wait_without_limit();
        let mutex = if polls { mutex.retry_delay(SECOND) } else { mutex };

        let guard = drive(&clock, tokio::spawn(async move { mutex.lock().await })).await.unwrap();

        assert!(clock.now() >= end && clock.now() <= end + late, "{:?}", clock.now());
        assert!(guard.is_valid());
    }
}

#[tokio::test]
async fn a_waiter_gets_in_with_the_unlock() {
    let (clock, redsync) = simulated(3);
    let guard = held(&redsync, HOUR).await;
    let mutex = redsync.mutex("name");
    let waiting = tokio::spawn(async move { mutex.lock().await });
    settle().await;
    let now = clock.now();

    guard.unlock().await.unwrap();

    let _guard = drive(&clock, waiting).await.unwrap();
    assert_eq!(clock.now(), now);
}

#[tokio::test]
async fn a_poller_gets_in_at_its_next_try_after_an_unlock() {
    let (clock, redsync) = simulated(3);
    let guard = held(&redsync, HOUR).await;
    let mutex = redsync.mutex("name").wait_without_limit().retry_delay(SECOND);
    let waiting = tokio::spawn(async move { mutex.lock().await });
    settle().await;
    let next_try = clock.now() + SECOND;

    guard.unlock().await.unwrap();

    let _guard = drive(&clock, waiting).await.unwrap();
    assert_eq!(clock.now(), next_try);
}

#[tokio::test]
async fn waiting_ends_exactly_in_time() {
    let (clock, redsync) = simulated(3);
    let _held = held(&redsync, 10 * HOUR).await;
    for mutex in both_ways(&redsync.mutex("name").wait_up_to(HOUR), 7 * SECOND) {
        let begun = clock.now();

        let error = drive(&clock, tokio::spawn(async move { mutex.lock().await })).await.unwrap_err();

        assert_eq!(error.kind(), ErrorKind::Taken);
        assert_eq!(clock.now(), begun + HOUR);
    }
}

#[tokio::test]
async fn waiting_has_no_end_by_default() {
    let (clock, redsync) = simulated(3);
    let guard = held(&redsync, 10 * HOUR).await;
    let mutex = redsync.mutex("name");
    let waiting = tokio::spawn(async move { mutex.lock().await });
    let begun = clock.now();
    settle().await;
    while clock.now() < begun + HOUR {
        clock.advance(SECOND);
        settle().await;
    }
    assert!(!waiting.is_finished());

    guard.unlock().await.unwrap();

    assert!(drive(&clock, waiting).await.unwrap().is_valid());
}

#[tokio::test]
async fn polling_gives_up_after_32_tries_and_31_pauses() {
    let (clock, redsync) = simulated(1);
    let _held = held(&redsync, HOUR).await;
    let begun = clock.now();
    let mutex = redsync.mutex("name").retry_delay(SECOND);

    let error = drive(&clock, tokio::spawn(async move { mutex.lock().await })).await.unwrap_err();

    assert_eq!(error.kind(), ErrorKind::Taken);
    assert_eq!(clock.now(), begun + 31 * SECOND);
}

#[tokio::test]
async fn between_tries_lie_50_to_250_ms_unless_told_otherwise() {
    let (clock, redsync) = simulated(1);
    let _held = held(&redsync, HOUR).await;
    let begun = clock.now();
    let mutex = redsync.mutex("name").tries(32);

    let error = drive(&clock, tokio::spawn(async move { mutex.lock().await })).await.unwrap_err();

    assert_eq!(error.kind(), ErrorKind::Taken);
    let took = clock.now().saturating_since(begun);
    let (least, most) = (Duration::from_millis(50), Duration::from_millis(250));
    assert!(took >= 31 * least && took <= 31 * most, "{took:?}");
}

#[tokio::test]
async fn a_shorter_extension_shortens_the_guard() {
    let (clock, redsync) = simulated(3);
    let guard = held(&redsync, HOUR).await;

    guard.extend_by(8 * SECOND).await.unwrap();

    assert_eq!(guard.valid_until(), clock.now() + TRUSTED);
}

#[tokio::test]
async fn an_adopted_guard_is_valid_from_the_adoption_on() {
    let (clock, redsync) = simulated(3);
    let lease = redsync.mutex("name").lock().await.unwrap().into_lease();
    clock.advance(7 * SECOND);

    let guard = redsync.adopt(&lease).await.unwrap();

    assert_eq!(guard.valid_until(), clock.now() + TRUSTED);
}

#[tokio::test]
async fn the_time_left_is_exact() {
    let (clock, redsync) = simulated(3);
    let guard = held(&redsync, HOUR).await;
    clock.advance(Duration::from_millis(1234));

    let state = redsync.inspect("name").await.unwrap().state();

    let LockState::Held(holder) = state else {
        panic!("{state:?}");
    };
    assert_eq!(holder.time_left(), TimeLeft::For(HOUR - Duration::from_millis(1234)));
    guard.unlock().await.unwrap();
}

#[tokio::test]
async fn no_two_guards_are_ever_valid_at_once() {
    let (clock, redsync) = simulated(5);
    let mut last: Option<Guard> = None;
    let mut taken_over = 0;
    // Steps that fall on no boundary, so that every phase of a lease is met.
    for _ in 0..2_000 {
        clock.advance(Duration::from_millis(37));
        if let Some(guard) = redsync.mutex("name").expiry(SECOND).try_lock().await.unwrap() {
            let overlaps = last.as_ref().is_some_and(Guard::is_valid);
            assert!(!overlaps, "two guards at {:?}", clock.now());
            taken_over += 1;
            last = Some(guard);
        }
    }
    assert!(taken_over > 50, "{taken_over}");
}

#[tokio::test]
async fn a_simulated_clock_begins_at_its_beginning() {
    let (clock, redsync) = simulated(1);

    let guard = redsync.mutex("name").lock().await.unwrap();

    assert_eq!(clock.now(), Instant::default());
    assert_eq!(guard.valid_until(), Instant::default() + TRUSTED);
}
