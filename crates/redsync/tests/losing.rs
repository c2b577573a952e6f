//! The loss of a lock: told on time and once, whatever the servers do.

mod support;

use std::collections::BTreeSet;
use std::future::{pending, poll_fn, ready};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use redsync::{Clock, Error, ErrorKind, Guard, Instant, Lost, NodeError, SystemClock};
use redsync_testkit::{RedisServer, servers, wait_until};
use support::{DEADLINE, assert_contains, connect, connect_to, median, timed, wait_until_empty};
use tokio::time::timeout;

const SECOND: Duration = Duration::from_secs(1);

/// Long enough to take a lock on a busy machine, short enough to wait for its end.
const SHORT: Duration = Duration::from_millis(300);

/// How late a loss may be told.
const ON_TIME: Duration = Duration::from_millis(20);

/// How long what asks no server may take.
const AT_ONCE: Duration = Duration::from_millis(40);

/// The machine may be busy with something else: so many rounds, of which the best counts.
const ROUNDS: usize = 3;

/// Holds ten locks of `expiry` on all `servers` while some of them hang, so that renewals are in every phase when their
/// time is over. Gives how late the last of the losses was told, in the best round.
async fn lateness(servers: &[RedisServer], hung: &[RedisServer], expiry: Duration) -> Duration {
    let redsync = connect(servers).await;
    let mut best = Duration::MAX;
    for round in 0..ROUNDS {
        let mut guards = Vec::new();
        for number in 0..10 {
            let mutex = redsync.mutex(format!("round {round}, {number}")).expiry(expiry);
            guards.push(mutex.lock().await.unwrap());
        }
        hung.iter().for_each(RedisServer::pause);
        let waiting = guards.into_iter().map(|guard| {
            tokio::spawn(async move {
                let lost = timeout(DEADLINE, guard.lost()).await.expect("the loss is told");
                let told = SystemClock.now();
                assert!(!lost.was_released());
                assert!(told >= guard.valid_until(), "told before its time");
                told.saturating_since(guard.valid_until())
            })
        });

        let mut late = Duration::ZERO;
        for waiting in waiting.collect::<Vec<_>>() {
            late = late.max(waiting.await.unwrap());
        }

        hung.iter().for_each(RedisServer::resume);
        println!("{} of {} servers hung, round {round}: told {late:?} late", hung.len(), servers.len());
        best = best.min(late);
        if best < ON_TIME {
            break;
        }
    }
    best
}

/// Whether `holds` is true in one of the rounds: a machine that stands still for an expiry loses every lock.
async fn held_in_some_round(holds: impl AsyncFn(usize) -> bool) -> bool {
    for round in 0..ROUNDS {
        if holds(round).await {
            return true;
        }
    }
    false
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loss_is_told_on_time_while_every_server_hangs() {
    let servers = servers(3);

    let late = lateness(&servers, &servers, 2 * SECOND).await;

    assert!(late < ON_TIME, "{late:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loss_is_told_on_time_while_a_majority_hangs() {
    let servers = servers(3);

    let late = lateness(&servers, &servers[..2], SECOND).await;

    assert!(late < ON_TIME, "{late:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_minority_that_hangs_loses_no_lock() {
    let servers = servers(3);
    let redsync = connect(&servers).await;
    servers[1].pause();

    let is_held = held_in_some_round(async |round| {
        let guard = redsync.mutex(format!("round {round}")).expiry(SECOND).lock().await.unwrap();
        timeout(4 * SECOND, guard.lost()).await.is_err()
    });

    assert!(is_held.await, "lost in each round");
    servers[1].resume();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_that_renews_itself_is_never_valid_longer_than_a_majority_of_its_keys() {
    let servers = servers(3);
    let redsync = connect(&servers).await;
    // Without drift, hardly anything hides a bound that is counted from too late.
    let mutex = |number: usize| redsync.mutex(number.to_string()).drift_factor(0.0).expiry(2 * SHORT);
    let mut guards = Vec::new();
    for number in 0..40 {
        guards.push(mutex(number).lock().await.unwrap());
    }
    let began = std::time::Instant::now();
    let (mut compared, mut renewals) = (0, 0);

    while began.elapsed() < 6 * SHORT {
        for guard in &guards {
            let before = guard.valid_until();
            let mut servers_say: Vec<i64> = servers.iter().map(|s| s.pttl(guard.name().as_str())).collect();
            servers_say.sort_unstable();
            // The servers are asked first: by the time `remaining` is read, their own time left can only be less.
            let (guard_says, after) = (guard.remaining(), guard.valid_until());
            // Renewed in between, the guard may know of more than the servers said.
            if after != before {
                renewals += 1;
                continue;
            }
            let majority_says = Duration::from_millis(u64::try_from(servers_say[1]).unwrap_or_default());
            assert!(guard_says <= majority_says, "{guard_says:?} of {majority_says:?}, {servers_say:?}");
            compared += usize::from(!guard_says.is_zero());
        }
        tokio::task::yield_now().await;
    }

    assert!(compared > 400 && renewals > 0, "{compared} comparisons, {renewals} renewals meanwhile");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_whose_keys_a_majority_lost_is_lost_at_the_next_renewal() {
    let servers = servers(3);
    let redsync = connect(&servers).await;
    // All are heard, so that no key comes late.
    let guard = redsync.mutex("name").expiry(3 * SECOND).fail_fast(false).lock().await.unwrap();
    let end = guard.valid_until();
    servers[..2].iter().for_each(RedisServer::flushall);

    let lost = timeout(DEADLINE, guard.lost()).await.expect("the loss is told");

    assert!(!lost.was_released());
    let early = end.saturating_since(SystemClock.now());
    assert!(early > SECOND, "told {early:?} before the end; the next renewal is after a third of 3 s");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_another_took_over_is_lost_at_the_next_renewal() {
    let servers = servers(3);
    let redsync = connect(&servers).await;
    let guard = redsync.mutex("name").expiry(3 * SECOND).lock().await.unwrap();
    let end = guard.valid_until();
    servers[..2].iter().for_each(|server| server.set("name", "5f1c@thief:1", Some(60_000)));

    let lost = timeout(DEADLINE, guard.lost()).await.expect("the loss is told");

    assert!(!lost.was_released());
    let early = end.saturating_since(SystemClock.now());
    assert!(early > SECOND, "told {early:?} before the end; the next renewal is after a third of 3 s");
}

/// What the signal and `on_lost` tell of a lock that another took over on two servers while the third hangs. All three
/// are heard, so that the renewal goes on for a moment after its verdict is certain.
async fn told_of_a_take_over() -> [String; 2] {
    let servers = servers(3);
    let redsync = connect(&servers).await;
    let called: Arc<Mutex<Option<String>>> = Arc::default();
    let hook = Arc::clone(&called);
    let mutex = redsync.mutex("name").expiry(2 * SECOND).fail_fast(false);
    let mutex = mutex.on_lost(move |lost| *hook.lock().unwrap() = Some(lost.to_string()));
    let guard = mutex.lock().await.unwrap();
    servers[..2].iter().for_each(|server| server.set("name", "5f1c@thief:1", Some(60_000)));
    servers[2].pause();

    let lost = timeout(DEADLINE, guard.lost()).await.expect("the loss is told");
    wait_until("on_lost is called", DEADLINE, || called.lock().unwrap().is_some());

    [lost.to_string(), called.lock().unwrap().clone().unwrap()]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_tells_who_took_over() {
    let [signal, _] = told_of_a_take_over().await;

    assert_contains(&signal, &["lock \"name\" was lost", "held by thief:1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn on_lost_tells_who_took_over() {
    let [_, hook] = told_of_a_take_over().await;

    assert_contains(&hook, &["lock \"name\" was lost", "held by thief:1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_losses_at_once_each_has_its_cause() {
    let server = RedisServer::start();
    let redsync = connect_to(&server).await;
    let told: Arc<Mutex<Vec<String>>> = Arc::default();
    let mut guards = Vec::new();
    for number in 0..300 {
        let told = Arc::clone(&told);
        let mutex = redsync.mutex(number.to_string()).expiry(3 * SECOND);
        let mutex = mutex.on_lost(move |lost| told.lock().unwrap().push(lost.to_string()));
        guards.push(mutex.lock().await.unwrap());
    }
    for guard in &guards {
        server.set(guard.name().as_str(), "5f1c@thief:1", Some(60_000));
    }

    wait_until("all are told", DEADLINE, || told.lock().unwrap().len() == guards.len());

    let told = told.lock().unwrap();
    let without = told.iter().filter(|told| told.contains("its time ran out")).count();
    assert_eq!(without, 0, "so many of {} have none", guards.len());
}

/// Names of locks, as `on_lost` was called for them.
#[derive(Clone, Default)]
struct Called(Arc<Mutex<Vec<String>>>);

impl Called {
    fn hook(&self) -> impl Fn(&Lost) + Send + Sync + 'static {
        let called = Arc::clone(&self.0);
        move |lost| called.lock().unwrap().push(lost.name().to_string())
    }

    fn names(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    fn wait(&self) {
        wait_until("on_lost is called", DEADLINE, || !self.names().is_empty());
    }
}

/// Ends `guard` in the ways that are left after its loss, so that a second call would come.
async fn end_after_loss(redsync: &redsync::Redsync, guard: Guard) {
    guard.extend().await.unwrap_err();
    let signal = guard.lost();
    guard.unlock().await.unwrap_err();
    signal.await;
    assert!(redsync.drain(DEADLINE).await);
    // What would call it a second time has its time.
    tokio::time::sleep(Duration::from_millis(100)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_lost_is_called_once_when_the_time_runs_out() {
    let server = RedisServer::start();
    let redsync = connect_to(&server).await;
    let called = Called::default();
    let mutex = redsync.mutex("orders:42").expiry(SHORT).renew(false).on_lost(called.hook());
    let guard = mutex.lock().await.unwrap();

    called.wait();
    end_after_loss(&redsync, guard).await;

    assert_eq!(called.names(), ["orders:42"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn on_lost_is_called_once_when_another_took_over() {
    let servers = servers(3);
    let redsync = connect(&servers).await;
    let called = Called::default();
    let guard = redsync.mutex("orders:42").expiry(SECOND).on_lost(called.hook()).lock().await.unwrap();
    servers.iter().for_each(|server| server.set("orders:42", "thief", Some(60_000)));

    called.wait();
    end_after_loss(&redsync, guard).await;

    assert_eq!(called.names(), ["orders:42"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn on_lost_is_not_called_for_what_is_released() {
    let server = RedisServer::start();
    let redsync = connect_to(&server).await;
    let called = Called::default();
    let mutex = redsync.mutex("name").expiry(SHORT).on_lost(called.hook());

    mutex.lock().await.unwrap().unlock().await.unwrap();
    drop(mutex.lock().await.unwrap());
    assert!(redsync.drain(DEADLINE).await);
    let lease = mutex.lock().await.unwrap().into_lease();

    // The time in which all of them would have been lost.
    tokio::time::sleep(2 * SHORT).await;
    assert_eq!(called.names(), [""; 0]);
    assert_eq!(lease.name().as_str(), "name");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_on_lost_hurts_no_other_guard() {
    let server = RedisServer::start();
    let redsync = connect_to(&server).await;
    let called = Called::default();
    // Without a message on the terminal.
    let panicking = |_: &Lost| std::panic::resume_unwind(Box::new("a panic"));

    let is_held = held_in_some_round(async |round| {
        let mutex = |name: &str| redsync.mutex(format!("{name}, round {round}")).expiry(SHORT);
        let renewing = mutex("renewing").expiry(SECOND).lock().await.unwrap();
        let first = mutex("first").renew(false).on_lost(panicking).lock().await.unwrap();
        let second =
            mutex("second").expiry(2 * SHORT).renew(false).on_lost(called.hook()).lock().await.unwrap();
        first.lost().await;
        second.lost().await;
        called.wait();
        timeout(2 * SECOND, renewing.lost()).await.is_err()
    });

    assert!(is_held.await, "lost in each round");
}

/// Says when it is dropped.
struct Dropped(Arc<AtomicBool>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn work_is_dropped_before_its_run_returns_lost() {
    let server = RedisServer::start();
    let redsync = connect_to(&server).await;
    let guard = redsync.mutex("name").expiry(SHORT).renew(false).lock().await.unwrap();
    let dropped = Arc::new(AtomicBool::new(false));
    let work = Dropped(Arc::clone(&dropped));

    let run = guard.run(async move {
        let _work = work;
        pending::<()>().await;
    });
    let lost = timeout(DEADLINE, run).await.expect("it ends").unwrap_err();

    assert!(dropped.load(Ordering::SeqCst));
    assert!(!lost.was_released());
}

#[tokio::test(flavor = "multi_thread")]
async fn work_that_finishes_gives_its_output() {
    let server = RedisServer::start();
    let redsync = connect_to(&server).await;
    let guard = redsync.mutex("name").lock().await.unwrap();

    let output = guard.run(async { "report" }).await;

    assert_eq!(output.unwrap(), "report");
    assert!(guard.is_valid());
}

#[tokio::test(flavor = "multi_thread")]
async fn work_that_finishes_after_the_loss_is_lost() {
    let server = RedisServer::start();
    let redsync = connect_to(&server).await;
    let guard = redsync.mutex("name").expiry(SHORT).renew(false).lock().await.unwrap();

    // It cannot be interrupted: it has no await.
    let run = guard.run(async { thread::sleep(2 * SHORT) }).await;

    assert!(run.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn work_is_not_begun_under_a_lost_guard() {
    let server = RedisServer::start();
    let redsync = connect_to(&server).await;
    let guard = redsync.mutex("name").expiry(SHORT).renew(false).lock().await.unwrap();
    guard.lost().await;
    let begun = AtomicBool::new(false);

    guard.run(async { begun.store(true, Ordering::SeqCst) }).await.unwrap_err();

    assert!(!begun.load(Ordering::SeqCst));
}

#[tokio::test(flavor = "multi_thread")]
async fn all_clones_of_a_signal_complete() {
    let server = RedisServer::start();
    let redsync = connect_to(&server).await;
    let guard = redsync.mutex("name").expiry(SHORT).renew(false).lock().await.unwrap();
    let signal = guard.lost();
    let waiting: Vec<_> = (0..20).map(|_| tokio::spawn(signal.clone())).collect();

    for waiting in waiting {
        timeout(DEADLINE, waiting).await.expect("it completes").unwrap();
    }

    timeout(DEADLINE, signal.clone()).await.expect("one that was not polled before completes");
}

/// What a task that waits for the loss of a guard is told when the guard `ends` in some other way.
async fn told_when(ends: impl AsyncFnOnce(Guard)) -> Lost {
    let server = RedisServer::start();
    let redsync = connect_to(&server).await;
    let guard = redsync.mutex("name").lock().await.unwrap();
    let waits = Arc::new(AtomicBool::new(false));
    let told = tokio::spawn({
        let (mut signal, waits) = (guard.lost(), Arc::clone(&waits));
        poll_fn(move |context| {
            let polled = Pin::new(&mut signal).poll(context);
            waits.store(true, Ordering::SeqCst);
            polled
        })
    });
    wait_until("somebody waits", DEADLINE, || waits.load(Ordering::SeqCst));

    ends(guard).await;

    timeout(DEADLINE, told).await.expect("it completes").unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn unlocking_completes_the_signal_as_released() {
    let lost = told_when(async |guard| guard.unlock().await.unwrap()).await;

    assert!(lost.was_released());
    assert_eq!(lost.to_string(), "lock \"name\" was released");
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_completes_the_signal_as_released() {
    let lost = told_when(async |guard| drop(guard)).await;

    assert!(lost.was_released());
}

#[tokio::test(flavor = "multi_thread")]
async fn handing_on_completes_the_signal_as_released() {
    let lost = told_when(async |guard| drop(guard.into_lease())).await;

    assert!(lost.was_released());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_that_is_not_awaited_keeps_no_lock() {
    let servers = servers(3);
    let redsync = connect(&servers).await;
    let guard = redsync.mutex("name").lock().await.unwrap();
    let _signal = guard.lost();

    drop(guard);

    wait_until_empty(&servers, 3 * SECOND);
}

/// Guards over `servers`, all of which hang, and that are lost.
async fn lost_guards(servers: &[RedisServer], guards: usize) -> Vec<Guard> {
    let redsync = connect(servers).await;
    let mut lost = Vec::new();
    for number in 0..guards {
        lost.push(redsync.mutex(number.to_string()).expiry(SECOND).lock().await.unwrap());
    }
    servers.iter().for_each(RedisServer::pause);
    for guard in &lost {
        timeout(DEADLINE, guard.lost()).await.expect("it is lost");
    }
    lost
}

#[tokio::test(flavor = "multi_thread")]
async fn extending_a_lost_guard_fails_at_once_while_all_servers_hang() {
    let servers = servers(3);
    let mut took = Vec::new();
    for guard in lost_guards(&servers, 5).await {
        let (time, extended) = timed(guard.extend()).await;
        assert_eq!(extended.unwrap_err().kind(), ErrorKind::Lost);
        took.push(time);
    }
    assert!(median(took.clone()) < AT_ONCE, "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn unlocking_a_lost_guard_fails_at_once_while_all_servers_hang() {
    let servers = servers(3);
    let mut took = Vec::new();
    for guard in lost_guards(&servers, 5).await {
        let (time, unlocked) = timed(guard.unlock()).await;
        assert!(matches!(unlocked.unwrap_err(), Error::Lost(lost) if !lost.was_released()));
        took.push(time);
    }
    assert!(median(took.clone()) < AT_ONCE, "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cause_of_a_loss_names_the_nodes_that_did_not_answer() {
    let servers = servers(3);
    let redsync = connect(&servers).await;
    let guard = redsync.mutex("name").expiry(SECOND).lock().await.unwrap();
    servers[1..].iter().for_each(RedisServer::pause);

    let lost = timeout(DEADLINE, guard.lost()).await.expect("it is lost");

    let cause = lost.cause().expect("renewals failed");
    assert_eq!(cause.kind(), ErrorKind::NoQuorum);
    let named: BTreeSet<&str> = cause.nodes().iter().map(NodeError::node).collect();
    let hung: Vec<String> = servers[1..].iter().map(RedisServer::url).collect();
    assert_eq!(named, hung.iter().map(String::as_str).collect());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loss_without_a_renewal_has_no_cause() {
    let server = RedisServer::start();
    let redsync = connect_to(&server).await;
    let guard = redsync.mutex("name").expiry(SHORT).renew(false).lock().await.unwrap();

    let lost = guard.lost().await;

    assert!(lost.cause().is_none());
    assert_eq!(lost.to_string(), "lock \"name\" was lost: its time ran out");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_of_a_lost_lock_is_released_when_the_servers_are_back() {
    let servers = servers(3);
    let redsync = connect(&servers).await;
    // Trusted for 1.2 s of 40 s.
    let mutex = redsync.mutex("name").expiry(40 * SECOND).drift_factor(0.97);
    let guard = mutex.lock().await.unwrap();
    servers.iter().for_each(RedisServer::pause);
    timeout(DEADLINE, guard.lost()).await.expect("it is lost");
    drop(guard);

    servers.iter().for_each(RedisServer::resume);

    wait_until_empty(&servers, DEADLINE);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_lock_stays_lost_when_the_servers_are_back() {
    let servers = servers(3);
    let redsync = connect(&servers).await;
    let mutex = redsync.mutex("name").expiry(40 * SECOND).drift_factor(0.97);
    let guard = mutex.lock().await.unwrap();
    servers.iter().for_each(RedisServer::pause);
    timeout(DEADLINE, guard.lost()).await.expect("it is lost");

    servers.iter().for_each(RedisServer::resume);
    // A renewal that was under way is answered now.
    tokio::time::sleep(SECOND / 2).await;

    assert!(!guard.is_valid());
    assert_eq!(guard.run(ready(())).await.unwrap_err().name().as_str(), "name");
    assert!(guard.valid_until() <= SystemClock.now() || guard.valid_until() == Instant::default());
}
