//! Futures dropped at any point, guards dropped anywhere, runtimes that end: no key outlives its owner.

#[path = "support/delegate.rs"]
mod delegate;
mod support;

use std::fmt;
use std::future::{poll_fn, ready};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use delegate::delegate;
use redsync::{
    Acquired, Answer, Claim, Guard, LockName, MemoryNode, Node, NodeFault, Redsync, Released, Succession,
    Token,
};
use redsync_testkit::{RedisServer, servers, wait_until};
use support::{DEADLINE, both_ways, connect, connect_to, keys_on, over, wait_until_empty};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

/// A lease's time: the default. What is gone well before it was released, and did not expire.
const EXPIRY: Duration = Duration::from_secs(8);

/// How long the background may take to release what was abandoned.
const SOON: Duration = Duration::from_secs(3);

/// Drops `future` after it was polled `polls` times, or gives what it came to before.
async fn polled<T>(future: impl Future<Output = T>, polls: usize) -> Option<T> {
    let mut future = pin!(future);
    for _ in 0..polls {
        let polled = poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await;
        if let Poll::Ready(output) = polled {
            return Some(output);
        }
        // Lets something happen between two polls: a part of what one round trip takes.
        thread::sleep(Duration::from_micros(60));
    }
    None
}

/// Drops `future` after `time`, or gives what it came to before. Runtimes' timers count whole milliseconds, which is
/// too coarse for this.
async fn within<T>(future: impl Future<Output = T>, time: Duration) -> Option<T> {
    let (mut future, began) = (pin!(future), Instant::now());
    loop {
        let polled = poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await;
        match polled {
            Poll::Ready(output) => return Some(output),
            Poll::Pending if began.elapsed() >= time => return None,
            Poll::Pending => tokio::task::yield_now().await,
        }
    }
}

/// From nothing at all to longer than a lock takes, in steps of 50 µs.
fn instants() -> impl Iterator<Item = Duration> + Clone {
    (0..60).map(|step| step * Duration::from_micros(50))
}

/// Fails unless all servers are empty soon, and stay so.
async fn assert_nothing_stays(servers: &[RedisServer]) {
    // What was still on its way when its future was dropped arrives. Loopback takes microseconds.
    tokio::time::sleep(Duration::from_millis(200)).await;
    wait_until_empty(servers, SOON);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_dropped_at_any_poll_leaves_no_key() {
    for nodes in [1, 3] {
        let servers = servers(nodes);
        let redsync = connect(&servers).await;
        let mut abandoned = 0;
        for polls in (0..16).cycle().take(200) {
            let mutex = redsync.mutex(format!("{abandoned} after {polls}"));
            match polled(mutex.lock(), polls).await {
                Some(locked) => locked.unwrap().unlock().await.unwrap(),
                None => abandoned += 1,
            }
        }
        assert!(abandoned > 10, "{abandoned} were abandoned");
        assert_nothing_stays(&servers).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_dropped_at_any_instant_leaves_no_key() {
    for nodes in [1, 3] {
        let servers = servers(nodes);
        let redsync = connect(&servers).await;
        for (round, time) in instants().cycle().take(180).enumerate() {
            let mutex = redsync.mutex(format!("round {round}"));
            let _guard = within(mutex.lock(), time).await.transpose().unwrap();
        }
        let arrived = servers[0].command_count("set");
        assert!(arrived > 20, "hardly anything was ever sent: {arrived}");
        assert_nothing_stays(&servers).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_dropped_while_it_connects_leaves_no_key() {
    for nodes in [1, 3] {
        let servers = servers(nodes);
        for (round, time) in instants().cycle().take(60).enumerate() {
            let redsync = over(servers.iter().map(RedisServer::url));
            let mutex = redsync.mutex(format!("round {round}"));
            let _guard = within(mutex.lock(), 2 * time).await.transpose().unwrap();
        }
        assert_nothing_stays(&servers).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_dropped_at_any_instant_leaves_the_holder_alone() {
    let servers = servers(3);
    let redsync = connect(&servers).await;
    let held = redsync.mutex("name").fail_fast(false).lock().await.unwrap();
    for time in instants() {
        for waiting in both_ways(&redsync.mutex("name"), Duration::from_millis(1)) {
            assert!(within(waiting.lock(), time).await.is_none());
        }
    }
    // Where a busy machine was too late to hear an answer, the place is looked for again and again, less and less often.
    wait_until("no place in the queue is left", DEADLINE, || {
        keys_on(&servers).iter().map(|(_, key)| key).all(|key| key == "name")
    });
    for server in &servers {
        assert_eq!(server.get("name").as_deref(), Some(held.token().as_str()));
    }
    held.unlock().await.unwrap();
    assert_nothing_stays(&servers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_wait_dropped_at_any_instant_leaves_no_place_in_queue() {
    let servers = servers(3);
    let held = connect(&servers).await.mutex("name").fail_fast(false).lock().await.unwrap();
    for time in instants() {
        // One that has not waited before: its nodes do not know where to tell it.
        let redsync = connect(&servers).await;
        assert!(within(redsync.mutex("name").lock(), time).await.is_none());
    }

    // Where a busy machine was too late to hear an answer, the place is looked for again and again, less and less often.
    wait_until("no place in the queue is left", DEADLINE, || {
        keys_on(&servers).iter().map(|(_, key)| key).all(|key| key == "name")
    });

    held.unlock().await.unwrap();
    assert_nothing_stays(&servers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unlock_dropped_at_any_instant_still_releases() {
    for nodes in [1, 3] {
        let servers = servers(nodes);
        let redsync = connect(&servers).await;
        for (round, time) in instants().enumerate() {
            let guard = redsync.mutex(format!("round {round}")).lock().await.unwrap();
            let _ = within(guard.unlock(), time).await;
        }
        assert_nothing_stays(&servers).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unlock_that_was_never_polled_still_releases() {
    let server = RedisServer::start();
    let guard = connect_to(&server).await.mutex("name").lock().await.unwrap();

    drop(guard.unlock());

    wait_until_empty(&[server], SOON);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_extend_dropped_at_any_instant_leaves_the_guard_as_it_was() {
    for nodes in [1, 3] {
        let servers = servers(nodes);
        let redsync = connect(&servers).await;
        for (round, time) in instants().enumerate() {
            let guard = redsync.mutex(format!("round {round}")).lock().await.unwrap();

            let _ = within(guard.extend(), time).await;

            assert!(guard.is_valid(), "round {round}");
            guard.extend().await.unwrap();
            guard.unlock().await.unwrap();
        }
        assert_nothing_stays(&servers).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shorter_extension_dropped_midway_is_believed_at_once() {
    let server = RedisServer::start();
    let redsync = connect_to(&server).await;
    let guard = redsync.mutex("name").lock().await.unwrap();
    server.pause();

    let _ = polled(guard.extend_by(Duration::from_secs(2)), 1).await;

    assert!(guard.remaining() <= Duration::from_secs(2));
    server.resume();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_grant_of_a_hung_server_is_undone() {
    // Shorter and longer than a request may take, so that the release itself arrives, or is lost too.
    for pause in [Duration::from_millis(50), Duration::from_millis(1500)] {
        let server = RedisServer::start();
        let redsync = connect_to(&server).await;
        server.pause();
        let abandoned = within(redsync.mutex("name").lock(), Duration::from_millis(20)).await;
        assert!(abandoned.is_none());
        // The server is silent for that long.
        tokio::time::sleep(pause).await;

        server.resume();

        wait_until("the late SET is applied", DEADLINE, || server.command_count("set") > 0);
        wait_until_empty(&[server], SOON);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_grant_to_an_attempt_that_gave_up_is_undone() {
    let servers = servers(3);
    let redsync = connect(&servers).await;
    servers[0].pause();
    servers[1].pause();
    redsync.mutex("name").tries(1).lock().await.unwrap_err();

    servers[0].resume();
    servers[1].resume();

    wait_until("the late SETs are applied", DEADLINE, || {
        servers[..2].iter().all(|server| server.command_count("set") > 0)
    });
    wait_until_empty(&servers, SOON);
}

/// Has `hung` servers go on, and fails unless nothing is left on any of them soon, of what they were asked before.
async fn assert_late_places_are_undone(servers: &[RedisServer], hung: &[RedisServer]) {
    hung.iter().for_each(RedisServer::resume);
    wait_until("the late SETs are applied", DEADLINE, || {
        hung.iter().all(|server| server.command_count("set") > 0)
    });
    assert_nothing_stays(servers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_place_in_queue_of_a_wait_that_ended_is_undone() {
    let servers = servers(3);
    let redsync = connect(&servers).await;
    servers[..2].iter().for_each(RedisServer::pause);
    // Each node may take 2 s.
    let mutex = redsync.mutex("name").expiry(Duration::from_secs(60));
    mutex.wait_up_to(Duration::from_millis(300)).lock().await.unwrap_err();

    assert_late_places_are_undone(&servers, &servers[..2]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_place_in_queue_of_a_wait_that_was_dropped_is_undone() {
    // While the lease is asked for; the first place; and the place once more.
    for time in [1_000, 3_000, 5_500].map(Duration::from_millis) {
        let servers = servers(3);
        let redsync = connect(&servers).await;
        servers[..2].iter().for_each(RedisServer::pause);
        let mutex = redsync.mutex("name").expiry(Duration::from_secs(60));
        timeout(time, mutex.lock()).await.unwrap_err();

        assert_late_places_are_undone(&servers, &servers[..2]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_place_in_queue_of_a_lock_that_was_unlocked_meanwhile_is_undone() {
    for pause in [Duration::from_millis(50), Duration::from_millis(300), Duration::from_millis(1500)] {
        let servers = servers(3);
        let (holder, redsync) = (connect(&servers).await, connect(&servers).await);
        let held = holder.mutex("name").lock().await.unwrap();
        wait_until("all have the key", DEADLINE, || keys_on(&servers).len() == 3);
        servers[2].pause();
        let mutex = redsync.mutex("name");
        let waiting = tokio::spawn(async move { mutex.lock().await });
        // The server is silent for that long.
        tokio::time::sleep(pause).await;
        held.unlock().await.unwrap();
        waiting.await.unwrap().unwrap().unlock().await.unwrap();

        assert_late_places_are_undone(&servers, &servers[2..]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_grant_to_a_lock_that_was_unlocked_meanwhile_is_undone() {
    for pause in [Duration::from_millis(50), Duration::from_millis(1500)] {
        let servers = servers(3);
        let redsync = connect(&servers).await;
        servers[2].pause();
        let guard = redsync.mutex("name").lock().await.unwrap();
        guard.unlock().await.unwrap();
        // The server is silent for that long.
        tokio::time::sleep(pause).await;

        servers[2].resume();

        wait_until("the late SET is applied", DEADLINE, || servers[2].command_count("set") > 0);
        wait_until_empty(&servers, SOON);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_grant_to_a_guard_that_was_dropped_meanwhile_is_undone() {
    let servers = servers(3);
    let redsync = connect(&servers).await;
    servers[2].pause();
    drop(redsync.mutex("name").lock().await.unwrap());
    // Longer than the release itself is waited for.
    tokio::time::sleep(Duration::from_millis(1000)).await;

    servers[2].resume();

    wait_until("the late SET is applied", DEADLINE, || servers[2].command_count("set") > 0);
    wait_until_empty(&servers, SOON);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_repair_of_a_lock_that_was_unlocked_meanwhile_is_undone() {
    let servers = servers(3);
    let redsync = connect(&servers).await;
    let mutex = redsync.mutex("name").fail_fast(false);
    let guard = mutex.lock().await.unwrap();
    // The third node says that it has no lease, and by the next extension it hangs.
    servers[2].set("name", "a-stranger", Some(60_000));
    guard.extend().await.unwrap();
    servers[2].flushall();
    let before = servers[2].command_count("set");
    servers[2].pause();
    guard.extend().await.unwrap();
    guard.unlock().await.unwrap();

    servers[2].resume();

    wait_until("the late repair is applied", DEADLINE, || servers[2].command_count("set") > before);
    wait_until_empty(&servers, SOON);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repair_dropped_midway_is_undone_by_the_unlock() {
    let servers = servers(3);
    let redsync = connect(&servers).await;
    let mutex = redsync.mutex("name").fail_fast(false);
    let guard = mutex.lock().await.unwrap();
    servers[2].set("name", "a-stranger", Some(60_000));
    guard.extend().await.unwrap();
    servers[2].flushall();
    let before = servers[2].command_count("set");
    servers[2].pause();
    assert!(within(guard.extend(), Duration::from_millis(20)).await.is_none());
    servers[2].resume();
    wait_until("the repair is applied", DEADLINE, || servers[2].command_count("set") > before);

    guard.unlock().await.unwrap();

    wait_until_empty(&servers, SOON);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_aborted_while_it_holds_releases() {
    let servers = servers(3);
    let mutex = connect(&servers).await.mutex("name");
    let (leases, held) = tokio::sync::oneshot::channel();
    let task = tokio::spawn(async move {
        let _guard = mutex.lock().await.unwrap();
        leases.send(()).unwrap();
        std::future::pending::<()>().await;
    });
    held.await.unwrap();

    task.abort();

    wait_until_empty(&servers, SOON);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_panics_while_it_holds_releases() {
    let server = RedisServer::start();
    let mutex = connect_to(&server).await.mutex("name");
    let task = tokio::spawn(async move {
        let _guard = mutex.lock().await.unwrap();
        std::panic::resume_unwind(Box::new("a panic without a message on the terminal"));
    });

    assert!(task.await.unwrap_err().is_panic());

    wait_until_empty(&[server], SOON);
}

/// Runs `action` on a thread of its own, and fails if it does not end in time or panics.
fn in_time<T: Send + 'static>(action: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, ended) = mpsc::channel();
    let thread = thread::spawn(move || {
        let output = action();
        let _ = done.send(());
        output
    });
    let waited = ended.recv_timeout(DEADLINE);
    assert!(waited != Err(mpsc::RecvTimeoutError::Timeout), "it hangs");
    thread.join().expect("it does not panic")
}

fn runtimes() -> [Runtime; 2] {
    let (mut one, mut several) = (Builder::new_current_thread(), Builder::new_multi_thread());
    [one.enable_all().build().unwrap(), several.worker_threads(2).enable_all().build().unwrap()]
}

#[test]
fn a_runtime_that_ends_with_guards_alive_neither_panics_nor_hangs() {
    for runtime in runtimes() {
        let servers = servers(3);
        in_time(move || {
            let redsync = runtime.block_on(connect(&servers));
            for number in 0..20 {
                let mutex = redsync.mutex(format!("name {number}"));
                let guard = runtime.block_on(mutex.lock()).unwrap();
                // Half of them are dropped with their task, half with their runtime gone.
                if number % 2 == 0 {
                    runtime.spawn(async move {
                        let _guard = guard;
                        std::future::pending::<()>().await;
                    });
                }
            }
            drop(runtime);
        });
    }
}

#[test]
fn a_release_that_is_refused_is_asked_again_now_and_then_and_starves_nobody() {
    let node = NeverReleases { store: MemoryNode::new(), asked: Arc::default() };
    let asked = Arc::clone(&node.asked);
    let [runtime, _] = runtimes();

    let took = in_time(move || {
        runtime.block_on(async move {
            let redsync = Redsync::new([Arc::new(node) as Arc<dyn Node>]).unwrap();
            let guard = redsync.mutex("name").lock().await.unwrap();
            let began = Instant::now();
            drop(guard);
            // The time in which the releases are counted.
            tokio::time::sleep(Duration::from_millis(500)).await;
            began.elapsed()
        })
    });

    let asked = asked.load(Ordering::SeqCst);
    assert!((2..=50).contains(&asked), "asked {asked} times");
    assert!(took < EXPIRY / 2, "the runtime stood still for {took:?}");
}

/// A node that is out of reach whenever it is to release.
#[derive(Debug)]
struct NeverReleases {
    store: MemoryNode,
    asked: Arc<AtomicUsize>,
}

impl Node for NeverReleases {
    delegate!(store: identity, uptime, health_warnings, acquire, extend, enter, yield_lease, inspect, list, listen);

    fn release<'a>(&'a self, _: &'a LockName, _: &'a Token, _: Succession) -> Answer<'a, Released> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        Box::pin(ready(Err(NodeFault::unreachable("nobody listens"))))
    }
}

impl fmt::Display for NeverReleases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.store.fmt(f)
    }
}

#[test]
fn a_guard_dropped_after_its_runtime_warns_and_does_not_panic() {
    for runtime in runtimes() {
        let server = RedisServer::start();
        let warnings = in_time(move || {
            let redsync = runtime.block_on(connect_to(&server));
            let guard: Guard = runtime.block_on(redsync.mutex("orders:42").lock()).unwrap();
            drop(runtime);
            let warnings = Warnings::default();
            tracing::subscriber::with_default(warnings.clone(), || drop(guard));
            warnings.0.load(Ordering::SeqCst)
        });
        assert_eq!(warnings, 1);
    }
}

#[test]
fn a_guard_dropped_after_its_runtime_but_inside_another_releases() {
    for runtime in runtimes() {
        let server = RedisServer::start();
        let redsync = runtime.block_on(connect_to(&server));
        let guard = runtime.block_on(redsync.mutex("name").lock()).unwrap();
        drop(runtime);
        let another = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();

        another.block_on(async move { drop(guard) });

        wait_until_empty(&[server], SOON);
    }
}

#[test]
fn a_redsync_goes_on_in_another_runtime() {
    let servers = servers(3);
    let [first, second] = runtimes();
    let redsync = first.block_on(connect(&servers));
    first.block_on(async {
        redsync.mutex("name").lock().await.unwrap().unlock().await.unwrap();
        // Slow nodes' requests would end with the runtime.
        assert!(redsync.drain(DEADLINE).await);
    });
    drop(first);

    second.block_on(async {
        // The first request on each connection finds out that it has ended.
        let guard = redsync.mutex("name").lock().await.unwrap();
        guard.unlock().await.unwrap();
    });

    let _inside = second.enter();
    wait_until("nothing is left", EXPIRY / 2, || keys_on(&servers).is_empty());
}

/// Counts the library's warnings.
#[derive(Clone, Default)]
struct Warnings(Arc<AtomicUsize>);

impl tracing::Subscriber for Warnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target().starts_with("redsync") && *metadata.level() == tracing::Level::WARN
    }

    fn event(&self, _: &tracing::Event<'_>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

/// A memory node that grants at once and says so late; it counts whom it could tell.
#[derive(Debug)]
struct SaysLate {
    node: MemoryNode,
    heard: Arc<AtomicUsize>,
}

impl fmt::Display for SaysLate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.node.fmt(f)
    }
}

impl Node for SaysLate {
    delegate!(node: identity, uptime, health_warnings, extend, enter, yield_lease, release, inspect, list, listen);

    fn acquire<'a>(&'a self, claim: &'a Claim) -> Answer<'a, Acquired> {
        Box::pin(async move {
            let acquired = self.node.acquire(claim).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
            self.heard.fetch_add(1, Ordering::SeqCst);
            acquired
        })
    }
}

#[test]
fn a_runtime_that_stands_still_does_not_keep_the_errands_of_another_waiting() {
    let heard = Arc::new(AtomicUsize::new(0));
    let late = Arc::new(SaysLate { node: MemoryNode::new(), heard: Arc::clone(&heard) }) as Arc<dyn Node>;
    let prompt = (0..2).map(|_| Arc::new(MemoryNode::new()) as Arc<dyn Node>);
    let redsync = Redsync::new(prompt.chain([late])).unwrap();
    let idle = Builder::new_current_thread().enable_all().build().unwrap();
    let _guard = idle.block_on(redsync.mutex("first").lock()).unwrap();

    let busy = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    busy.block_on(redsync.mutex("second").lock()).unwrap().into_lease();

    wait_until("the late answer is heard", DEADLINE, || heard.load(Ordering::SeqCst) == 1);
}
