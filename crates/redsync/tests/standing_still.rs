//! Runtimes that stand still, workers that are busy, and futures that are polled outside of any runtime: guards are
//! renewed, released and told of all the same.

mod support;

use std::future::{Future, pending};
use std::pin::pin;
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use redsync::{Clock, Error, Guard, MemoryNode, Node, Redsync, Succession, SystemClock};
use redsync_testkit::{Proxy, RedisServer, wait_until};
use support::{DEADLINE, connect_to, over};
use tokio::runtime::{Builder, Runtime};
use tokio::time::{sleep, timeout};

const MILLIS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// How late a loss may be told.
const ON_TIME: Duration = Duration::from_millis(60);

/// In how many rounds at most, of which the best counts: a machine that stands still for an expiry loses every lock.
const ROUNDS: usize = 3;

fn held_in_some_round(holds: impl Fn() -> bool) -> bool {
    (0..ROUNDS).any(|_| holds())
}

/// The least lateness of the rounds, which end with the first that is on time. A machine with fewer processors than workers is
/// late in many of them: a worker that is to take over from a busy one gets no processor.
fn best_of_rounds(lateness: impl Fn() -> Duration) -> Duration {
    let mut best = Duration::MAX;
    for round in 0..4 * ROUNDS {
        best = best.min(lateness());
        println!("round {round}: {best:?} late at best");
        if best < ON_TIME {
            break;
        }
    }
    best
}

fn of_one_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn of_workers(workers: usize) -> Runtime {
    Builder::new_multi_thread().worker_threads(workers).enable_all().build().unwrap()
}

/// Over a node that needs no runtime to be asked.
fn in_memory() -> Redsync {
    Redsync::new([Arc::new(MemoryNode::new()) as Arc<dyn Node>]).unwrap()
}

/// Drives `future` on this thread, without any runtime, until `deadline` has passed; and says how often it was polled.
fn drive<T>(future: impl Future<Output = T>, deadline: Duration) -> (usize, T) {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    let begun = std::time::Instant::now();
    let mut polls = 0;
    loop {
        polls += 1;
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return (polls, output);
        }
        let left = deadline.checked_sub(begun.elapsed()).expect("it completes in time");
        thread::park_timeout(left);
    }
}

/// A guard of a lock of `expiry` in a runtime that still runs, and what came of unlocking it outside of any.
fn unlocked_outside(expiry: Duration, server: &RedisServer) -> (Runtime, Result<(), Error>) {
    let runtime = of_workers(1);
    let redsync = runtime.block_on(connect_to(server));
    let guard = runtime.block_on(redsync.mutex("name").expiry(expiry).lock()).unwrap();
    let (_, unlocked) = drive(guard.unlock(), DEADLINE);
    (runtime, unlocked)
}

#[test]
fn an_unlock_outside_of_any_runtime_says_so() {
    let server = RedisServer::start();

    let (_runtime, unlocked) = unlocked_outside(MINUTE, &server);

    assert!(matches!(unlocked, Err(Error::Runtime { .. })), "{unlocked:?}");
}

#[test]
fn an_unlock_outside_of_any_runtime_gives_the_lock_back_all_the_same() {
    let server = RedisServer::start();

    let (_runtime, _) = unlocked_outside(MINUTE, &server);

    wait_until("the key is gone", SECOND, || server.get("name").is_none());
}

#[test]
fn after_an_unlock_outside_of_any_runtime_the_lock_is_renewed_no_more() {
    let server = RedisServer::start();
    let (_runtime, _) = unlocked_outside(SECOND / 2, &server);
    wait_until("the key is gone", DEADLINE, || server.get("name").is_none());
    let asked = server.command_count("evalsha");

    // Time for two renewals.
    thread::sleep(SECOND / 2);

    assert_eq!(server.command_count("evalsha"), asked);
}

#[test]
fn a_task_that_blocks_its_worker_does_not_keep_its_own_guard_from_being_renewed() {
    let server = RedisServer::start();
    let is_held = held_in_some_round(|| {
        let runtime = of_workers(4);
        let redsync = runtime.block_on(connect_to(&server));
        let busy = runtime.spawn(async move {
            let guard = redsync.mutex("name").expiry(300 * MILLIS).lock().await.unwrap();
            // A handler that computes.
            thread::sleep(SECOND);
            guard.is_valid()
        });
        runtime.block_on(busy).unwrap()
    });
    assert!(is_held, "lost in each round");
}

#[test]
fn a_task_that_blocks_its_worker_does_not_keep_anothers_guard_from_being_renewed() {
    let server = RedisServer::start();
    let is_held = held_in_some_round(|| {
        let runtime = of_workers(4);
        let redsync = runtime.block_on(connect_to(&server));
        let guard = runtime.block_on(redsync.mutex("first").expiry(400 * MILLIS).lock()).unwrap();
        let busy = runtime.spawn(async move {
            // Due before the first, which whoever waits for the deadlines has to be told.
            let _own = redsync.mutex("second").expiry(200 * MILLIS).lock().await.unwrap();
            // A handler that computes.
            thread::sleep(SECOND);
        });
        runtime.block_on(busy).unwrap();
        guard.is_valid()
    });
    assert!(is_held, "lost in each round");
}

/// Whether guards of a healthy runtime last for two seconds as `watched`, whose expiry is a fraction of that, while the
/// runtime that keeps the guards stands still.
fn last_beside_a_runtime_that_stands_still<F>(watched: fn(Arc<Guard>) -> F) -> bool
where
    F: Future<Output = bool> + Send + 'static,
{
    let (still, healthy) = (of_one_thread(), of_workers(2));
    let redsync = in_memory();
    let _first = still.block_on(redsync.mutex("first").lock()).unwrap();
    healthy.block_on(async {
        let mut watching = Vec::new();
        for number in 0..5 {
            let mutex = redsync.mutex(number.to_string()).expiry(SECOND / 2);
            watching.push(tokio::spawn(watched(Arc::new(mutex.lock().await.unwrap()))));
        }
        let mut last = true;
        for watching in watching {
            last &= watching.await.unwrap();
        }
        last
    })
}

#[test]
fn guards_whose_loss_is_awaited_are_renewed_though_the_runtime_that_keeps_guards_stands_still() {
    let is_held = held_in_some_round(|| {
        last_beside_a_runtime_that_stands_still(|guard| async move {
            timeout(2 * SECOND, guard.lost()).await.is_err()
        })
    });
    assert!(is_held, "lost in each round");
}

#[test]
fn guards_that_work_is_run_under_are_renewed_though_the_runtime_that_keeps_guards_stands_still() {
    let is_held = held_in_some_round(|| {
        last_beside_a_runtime_that_stands_still(
            // The work.
            |guard| async move { guard.run(sleep(2 * SECOND)).await.is_ok() },
        )
    });
    assert!(is_held, "lost in each round");
}

/// How many of 200 guards are lost, whose runtime ends when it has begun to renew them, while another goes on with redsync.
fn lost_with_renewals_never_polled(server: &RedisServer) -> usize {
    let (ending, another) = (of_workers(1), of_workers(2));
    let redsync = ending.block_on(connect_to(server));
    let guards = ending.block_on(async {
        let mut guards = Vec::new();
        for number in 0..200 {
            guards.push(redsync.mutex(number.to_string()).expiry(SECOND).lock().await.unwrap());
        }
        guards
    });
    // The only worker is busy until all renewals are due and its runtime has begun to end: then it begins all of them, and
    // polls a few.
    let (free, is_free) = mpsc::channel::<()>();
    let (alive, is_alive) = mpsc::channel::<()>();
    ending.spawn(async move { is_free.recv() });
    ending.spawn(async move {
        pending::<()>().await;
        drop(alive);
    });
    thread::sleep(guards[199].remaining().saturating_sub(SECOND * 6 / 10));
    ending.shutdown_background();
    free.send(()).unwrap();
    is_alive.recv().expect_err("what waits in a runtime is dropped with it");

    another.block_on(async {
        for _ in 0..80 {
            // Others have it, or nobody; what matters is that redsync is used.
            let _ = redsync.mutex("other").try_lock().await;
            // From one use to the next.
            sleep(20 * MILLIS).await;
        }
    });
    let lost = guards.iter().filter(|guard| !guard.is_valid()).count();
    println!("{lost} of {} were lost", guards.len());
    lost
}

#[test]
fn renewals_that_their_runtime_began_and_never_polled_are_tried_again_in_another() {
    let server = RedisServer::start();

    let lossless = (0..ROUNDS).filter(|_| lost_with_renewals_never_polled(&server) == 0).count();

    // A machine that stands still may lose one round; and in some, the ending runtime begins nothing any more.
    assert!(lossless + 1 >= ROUNDS, "{lossless} rounds of {ROUNDS} went without a loss");
}

/// How late the signals of ten guards come that are lost at once, and whose `on_lost` takes 100 ms each: the latest of them.
fn latest_of_ten_losses() -> Duration {
    let runtime = of_workers(4);
    let redsync = in_memory();
    runtime.block_on(async {
        let (mut guards, mut told) = (Vec::new(), Vec::new());
        for number in 0..10 {
            let mutex = redsync.mutex(number.to_string()).expiry(SECOND / 2).renew(false);
            // A function that takes its time, as one does that writes to a log on a slow disk.
            let mutex = mutex.on_lost(|_| thread::sleep(100 * MILLIS));
            let guard = mutex.lock().await.unwrap();
            let (lost, end) = (guard.lost(), guard.valid_until());
            told.push(tokio::spawn(async move {
                lost.await;
                SystemClock.now().saturating_since(end)
            }));
            guards.push(guard);
        }
        let mut latest = Duration::ZERO;
        for told in told {
            latest = latest.max(told.await.unwrap());
        }
        latest
    })
}

#[test]
fn of_many_losses_at_once_every_signal_is_on_time_though_each_on_lost_takes_its_time() {
    let latest = best_of_rounds(latest_of_ten_losses);

    assert!(latest < ON_TIME, "one was {latest:?} late at best");
}

/// How long after `on_lost`, which takes a second, the signal of the same guard comes; a renewal finds its lease lost.
fn lateness_beside_a_slow_on_lost() -> Duration {
    let runtime = of_workers(4);
    let node = MemoryNode::new();
    let redsync = Redsync::new([Arc::new(node.clone()) as Arc<dyn Node>]).unwrap();
    let (called, is_called) = mpsc::channel();
    runtime.block_on(async {
        let mutex = redsync.mutex("name").expiry(SECOND / 2).on_lost(move |_| {
            called.send(SystemClock.now()).unwrap();
            // A function that takes its time.
            thread::sleep(SECOND);
        });
        let guard = mutex.lock().await.unwrap();
        let signal = guard.lost();
        let told = tokio::spawn(async move {
            signal.await;
            SystemClock.now()
        });
        node.release(guard.name(), guard.token(), Succession::HandOver).await.unwrap();
        told.await.unwrap().saturating_since(is_called.recv().unwrap())
    })
}

#[test]
fn a_signal_does_not_wait_for_an_on_lost_that_takes_its_time() {
    let late = best_of_rounds(lateness_beside_a_slow_on_lost);

    assert!(late < ON_TIME, "{late:?} late at best");
}

/// Drives the signal of a guard of a second, whose runtime has ended, outside of any: how often it was polled, and how late
/// it was told.
fn driven_outside() -> (usize, Duration) {
    let runtime = of_workers(1);
    let redsync = in_memory();
    let guard = runtime.block_on(redsync.mutex("name").expiry(SECOND).lock()).unwrap();
    drop(runtime);

    let (polls, _) = drive(guard.lost(), DEADLINE);

    let now = SystemClock.now();
    assert!(now >= guard.valid_until(), "told before its time");
    (polls, now.saturating_since(guard.valid_until()))
}

#[test]
fn a_signal_driven_outside_of_any_runtime_after_its_own_has_ended_is_on_time() {
    let late = best_of_rounds(|| driven_outside().1);

    assert!(late < ON_TIME, "{late:?} late at best");
}

#[test]
fn a_signal_driven_outside_of_any_runtime_after_its_own_has_ended_is_polled_now_and_then() {
    let (polls, _) = driven_outside();

    assert!(polls < 40, "{polls} times in a second");
}

#[test]
fn a_node_whose_connecting_stands_still_with_its_runtime_is_used_by_another_once_it_answers() {
    let server = RedisServer::start();
    let proxy = Proxy::before(&server);
    let redsync = over([proxy.url()]);
    let (still, another) = (of_one_thread(), of_workers(2));
    proxy.black_hole();
    let mutex = redsync.mutex("name").wait_up_to(MINUTE);
    still.block_on(async { timeout(SECOND / 10, mutex.lock()).await.unwrap_err() });
    assert!(proxy.connections() > 0, "it is being connected to");

    proxy.pass();
    let locked = another.block_on(async { timeout(5 * SECOND, mutex.lock()).await });

    assert!(locked.expect("it is usable in time").unwrap().is_valid());
    drop(still);
}

#[test]
fn who_waits_in_a_runtime_that_has_ended_hears_of_it() {
    let redsync = in_memory();
    let (home, ending) = (of_workers(1), of_workers(1));
    let holder = home.block_on(redsync.mutex("held").lock()).unwrap();
    let (mutex, handle) = (redsync.mutex("held"), ending.handle().clone());
    let waiting = thread::spawn(move || handle.block_on(mutex.lock()));
    wait_until("somebody waits", DEADLINE, || home.block_on(redsync.inspect("held")).unwrap().waiting() == 1);

    ending.shutdown_background();

    wait_until("it has ended", DEADLINE, || waiting.is_finished());
    let error = waiting.join().unwrap().unwrap_err();
    assert!(matches!(error, Error::Runtime { .. }), "{error}");
    assert!(error.to_string().contains("has ended"), "{error}");
    home.block_on(holder.unlock()).unwrap();
}
