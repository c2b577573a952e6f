//! Fences: unique, in the order of acquisition, whatever happens to nodes and clocks; and what they cost.

mod support;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use redsync::{Clock, Fence, FencedGuard, Instant, Lease, Redsync, Sleep, SystemClock};
use redsync_testkit::{RedisServer, servers};
use tokio::time::{sleep, timeout};

use self::support::{DEADLINE, connect, over};

const COUNTER: &str = "{name}:redsync:fence";

async fn locked(redsync: &Redsync) -> FencedGuard {
    redsync.mutex("name").fenced().lock().await.unwrap()
}

/// Takes the lock and gives it back.
async fn fence(redsync: &Redsync) -> Fence {
    let guard = locked(redsync).await;
    let fence = guard.fence();
    guard.unlock().await.unwrap();
    fence
}

fn wall_micros() -> u64 {
    SystemClock.wall_micros()
}

fn counter(server: &RedisServer) -> Option<u64> {
    server.get(COUNTER).map(|text| text.parse().unwrap())
}

/// How many scripts the servers were asked to run.
fn scripts(servers: &[RedisServer]) -> Vec<u64> {
    servers.iter().map(|server| server.command_count("evalsha")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_holder_has_a_larger_fence_than_the_one_before() {
    for nodes in [1, 2, 3, 5] {
        let servers = servers(nodes);
        let redsync = connect(&servers).await;
        let mut last: Option<Fence> = None;
        for _ in 0..20 {
            let guard = locked(&redsync).await;
            let mine = guard.fence();
            assert!(last.is_none_or(|last| last < mine), "{last:?}, {mine:?}");
            guard.extend().await.unwrap();
            assert_eq!(guard.fence(), mine, "extending changes nothing");
            guard.unlock().await.unwrap();
            last = Some(mine);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nodes_count_alike_a_fence_costs_no_further_round_trip() {
    let servers = servers(3);
    let redsync = connect(&servers).await;
    // Connected, and taught the scripts.
    fence(&redsync).await;
    redsync.drain(DEADLINE).await;
    let before = scripts(&servers);
    for _ in 0..50 {
        fence(&redsync).await;
        // All have answered: a slow one is not still being asked when the next comes.
        redsync.drain(DEADLINE).await;
    }
    let asked: Vec<u64> =
        scripts(&servers).iter().zip(&before).map(|(after, before)| after - before).collect();
    assert_eq!(asked, [100; 3], "one to acquire and one to release, each time");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_counters_differ_all_are_raised_to_the_highest_and_agree_from_then_on() {
    let servers = servers(3);
    let redsync = connect(&servers).await;
    fence(&redsync).await;
    // Ahead of the nodes' clocks, each by another time: what is proposed is less than any of them.
    let ahead = wall_micros() + 60_000_000;
    for (server, further) in servers.iter().zip([0, 1_000, 2_000]) {
        server.set(COUNTER, &(ahead + further).to_string(), None);
    }

    let guard = locked(&redsync).await;
    let mine = guard.fence().as_u64();
    assert!(mine > ahead + 1_000, "{mine} is larger than a majority's counters, {ahead} and more");
    redsync.drain(DEADLINE).await;
    let confirmed = servers.iter().filter(|server| counter(server) == Some(mine)).count();
    assert!(confirmed >= 2, "{mine}: {:?}", servers.iter().map(counter).collect::<Vec<_>>());
    guard.unlock().await.unwrap();

    let next = fence(&redsync).await.as_u64();
    assert!(next > mine);
    for server in &servers {
        assert!(counter(server).is_some_and(|counter| counter > ahead), "counters never fall");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nodes_run_ahead_fences_stay_in_order() {
    let servers = servers(3);
    let redsync = connect(&servers).await;
    let mut last = fence(&redsync).await.as_u64();
    for round in 0..60_u64 {
        // Each in its turn, by a second more.
        let server = &servers[(round % 3) as usize];
        server.set(COUNTER, &(wall_micros() + round * 1_000_000).to_string(), None);
        let next = fence(&redsync).await.as_u64();
        assert!(next > last, "round {round}: {next} after {last}");
        last = next;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nodes_forget_fences_stay_in_order_by_clocks_that_are_right() {
    let servers = servers(3);
    let redsync = connect(&servers).await;
    let mut last = fence(&redsync).await.as_u64();
    for round in 0..60_u64 {
        // A majority of them, now and then.
        for server in &servers[..=(round % 2) as usize] {
            match round % 3 {
                0 => server.set(COUNTER, "7", None),
                _ => drop(server.command(&["DEL", COUNTER])),
            }
        }
        let next = fence(&redsync).await.as_u64();
        assert!(next > last, "round {round}: {next} after {last}");
        last = next;
    }
}

/// The system's clock with another wall clock.
#[derive(Debug)]
struct Wrong {
    by_micros: i64,
}

impl Clock for Wrong {
    fn now(&self) -> Instant {
        SystemClock.now()
    }

    fn wall_micros(&self) -> u64 {
        SystemClock.wall_micros().saturating_add_signed(self.by_micros)
    }

    fn sleep_until(&self, end: Instant) -> Sleep {
        SystemClock.sleep_until(end)
    }
}

/// A caller whose wall clock is wrong by so much.
fn wrong_by(servers: &[RedisServer], by_micros: i64) -> Redsync {
    let builder = Redsync::builder().restart_guard(false).clock(Wrong { by_micros });
    servers.iter().fold(builder, |builder, server| builder.url(server.url())).build().unwrap()
}

const YEAR: i64 = 365 * 86_400 * 1_000_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_year_ahead_or_back_changes_neither_uniqueness_nor_order_nor_where_counters_go() {
    for nodes in [1, 3] {
        let servers = servers(nodes);
        let mut last = 0;
        for round in 0..30 {
            // Each a caller that has seen no node's clock yet: one that has believes that more than its own.
            let by = [YEAR, -YEAR, 0][round % 3];
            let redsync = wrong_by(&servers, by);
            let fence = fence(&redsync).await.as_u64();
            redsync.drain(DEADLINE).await;
            assert!(fence > last, "{fence} after {last}");
            let bound = wall_micros() + 1_000_000 + 30;
            for server in &servers {
                assert!(counter(server).unwrap() <= bound, "{:?} with a bound of {bound}", counter(server));
            }
            last = fence;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_with_a_wrong_clock_takes_the_fence_that_is_its_turn() {
    let servers = servers(3);
    let first = connect(&servers).await;
    let holder = locked(&first).await;
    let had = Arc::new(Mutex::new(vec![holder.fence().as_u64()]));
    let mut waiting = Vec::new();
    for by in [YEAR, 0, -YEAR, 0, YEAR, -YEAR] {
        let (redsync, had) = (wrong_by(&servers, by), Arc::clone(&had));
        waiting.push(tokio::spawn(async move {
            let guard = locked(&redsync).await;
            had.lock().unwrap().push(guard.fence().as_u64());
            guard.unlock().await.unwrap();
            redsync.drain(DEADLINE).await;
        }));
    }
    while first.inspect("name").await.unwrap().waiting() < 6 {
        sleep(Duration::from_millis(1)).await;
    }
    holder.unlock().await.unwrap();
    for waiting in waiting {
        timeout(DEADLINE, waiting).await.expect("each has its turn").unwrap();
    }
    let had = had.lock().unwrap();
    assert!(had.is_sorted_by(|a, b| a < b), "{had:?}");
    let bound = wall_micros() + 1_000_000 + 7;
    assert!(servers.iter().all(|server| counter(server).unwrap() <= bound));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_is_handed_over_has_a_fence_at_once() {
    for nodes in [1, 3] {
        let servers = servers(nodes);
        let (first, second) = (connect(&servers).await, connect(&servers).await);
        let holder = locked(&first).await;
        let fence = holder.fence();
        let waiting = tokio::spawn(async move { locked(&second).await });
        while first.inspect("name").await.unwrap().waiting() == 0 {
            sleep(Duration::from_millis(1)).await;
        }
        holder.unlock().await.unwrap();
        let next = timeout(DEADLINE, waiting).await.expect("it is handed over").unwrap();
        assert!(fence < next.fence());
        next.unlock().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_knows_of_no_fences_keeps_nobody_waiting_who_wants_one() {
    for nodes in [1, 3] {
        let servers = servers(nodes);
        let (plain, other) = (connect(&servers).await, connect(&servers).await);
        for _ in 0..3 {
            // On all nodes: one that came late would grant it to who is to wait.
            let holder = plain.mutex("name").fail_fast(false).lock().await.unwrap();
            let mutex = other.mutex("name").fenced();
            let waiting = tokio::spawn(async move { mutex.lock().await.unwrap() });
            redsync_testkit::wait_until("it is in the queue", DEADLINE, || {
                servers.iter().all(|server| server.waiting("name") == 1)
            });
            holder.unlock().await.unwrap();
            // Far less than the expiry.
            let next = timeout(Duration::from_secs(2), waiting).await.expect("it is its turn").unwrap();
            next.unlock().await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_lets_a_lock_expire_has_a_smaller_fence_than_the_next() {
    let servers = servers(3);
    let redsync = connect(&servers).await;
    let mutex = redsync.mutex("name").expiry(Duration::from_millis(100)).renew(false).fenced();
    let lapsed = mutex.lock().await.unwrap();
    let next = fence(&redsync).await;
    assert!(lapsed.fence() < next);
    assert!(!lapsed.is_valid());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fence_goes_along_with_the_lease() {
    let servers = servers(3);
    let (first, second) = (connect(&servers).await, connect(&servers).await);
    let guard = locked(&first).await;
    let fence = guard.fence();
    let line = guard.into_lease().to_string();
    let lease: Lease = line.parse().unwrap();
    assert_eq!(lease.fence(), Some(fence));
    let guard = second.mutex("name").fenced().adopt(&lease).await.unwrap();
    assert_eq!(guard.fence(), fence);
    guard.extend().await.unwrap();
    assert_eq!(guard.lease().fence(), Some(fence));
    guard.unlock().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_without_a_fence_is_not_adopted_with_one() {
    let servers = servers(1);
    let redsync = connect(&servers).await;
    let lease = redsync.mutex("name").lock().await.unwrap().into_lease();
    let error = redsync.mutex("name").fenced().adopt(&lease).await.unwrap_err();
    assert_eq!(error.to_string(), "invalid lease: it has no fence: the lock was taken without one");
    redsync.mutex("name").release(&lease).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_whose_fence_was_cut_off_is_not_adopted() {
    let servers = servers(3);
    let redsync = connect(&servers).await;
    let lease = locked(&redsync).await.into_lease();
    let line = lease.to_string();
    let cut: Lease = line[..line.len() - 3].parse().unwrap();
    let error = redsync.adopt(&cut).await.unwrap_err();
    assert!(error.to_string().contains("was it cut off?"), "{error}");
    let raised = lease.clone().with_fence(Fence::MAX);
    assert!(redsync.adopt(&raised).await.is_err());
    redsync.adopt(&lease).await.unwrap().unlock().await.unwrap();
    assert!(servers.iter().all(|server| counter(server) < Some(Fence::MAX.as_u64())));
}

/// Who has waited for long came before others who have a fence by now; and the node that had counted them forgets.
#[tokio::test(flavor = "multi_thread")]
async fn who_waited_while_a_node_forgot_has_a_later_fence_than_those_before() {
    let servers = servers(1);
    let (first, second) = (connect(&servers).await, connect(&servers).await);
    let holder = locked(&first).await;
    let waiting = tokio::spawn(async move { locked(&second).await });
    while first.inspect("name").await.unwrap().waiting() == 0 {
        sleep(Duration::from_millis(1)).await;
    }
    // Longer than a node's clock makes up for.
    sleep(Duration::from_millis(1_200)).await;
    // As if it had been had by others meanwhile, and what they had is lost.
    let had = wall_micros();
    servers[0].flushall();
    servers[0].command(&["CLIENT", "KILL", "TYPE", "normal"]);
    servers[0].command(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    let next = timeout(DEADLINE, waiting).await.expect("the lock is free").unwrap();
    assert!(next.fence().as_u64() > had, "{} after {had}", next.fence());
    next.unlock().await.unwrap();
    drop(holder);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_comes_back_without_its_counter_has_it_again_from_the_holder() {
    let servers = servers(3);
    let redsync = connect(&servers).await;
    // All answers are waited for: that one node has lost its lease is heard in time.
    let mutex = redsync.mutex("name").expiry(Duration::from_secs(60)).fail_fast(false).fenced();
    // Ahead of the time: the fence is another than what was proposed for it.
    let ahead = (wall_micros() + 60_000_000).to_string();
    servers.iter().for_each(|server| server.set(COUNTER, &ahead, None));
    let guard = mutex.lock().await.unwrap();
    servers[0].command(&["DEL", "name", COUNTER]);
    guard.extend().await.unwrap();
    redsync.drain(DEADLINE).await;
    assert_eq!(counter(&servers[0]), Some(guard.fence().as_u64()));
    guard.unlock().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_counter_is_kept_as_long_as_was_asked_for() {
    let servers = servers(1);
    let redsync = connect(&servers).await;
    fence(&redsync).await;
    let left = servers[0].pttl(COUNTER);
    let days = |days: i64| days * 86_400_000;
    assert!((days(29)..=days(30)).contains(&left), "{left}");
    let mutex = redsync.mutex("name").fence_retention(Duration::from_secs(60)).fenced();
    mutex.lock().await.unwrap().unlock().await.unwrap();
    assert!((1..=60_000).contains(&servers[0].pttl(COUNTER)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retention_shorter_than_the_expiry_is_refused() {
    let servers = servers(1);
    let mutex = connect(&servers).await.mutex("name").fence_retention(Duration::from_secs(1));
    let error = mutex.fenced().lock().await.unwrap_err();
    let message = "invalid fence_retention: 1s is shorter than the expiry, 8s, or than 10 s";
    assert_eq!(error.to_string(), message);
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_without_fences_count_nothing() {
    let servers = servers(1);
    let redsync = connect(&servers).await;
    redsync.mutex("name").lock().await.unwrap().unlock().await.unwrap();
    assert_eq!(counter(&servers[0]), None);
}

/// How many confirmations there were so far, in this process.
fn confirmations(snapshotter: &Snapshotter) -> u64 {
    let counted = snapshotter.snapshot().into_vec().into_iter().filter_map(|(key, _, _, value)| {
        let is_it = key.key().name() == "redsync_fence_confirmations_total";
        match value {
            DebugValue::Counter(count) if is_it => Some(count),
            _ => None,
        }
    });
    counted.sum()
}

/// 200 contending clients, and a node that is killed and comes back with its data each second.
///
/// `REDSYNC_TEST_SECONDS` says for how long, with each number of nodes; 4 by default.
#[test]
fn under_restarts_fences_grow_in_the_order_of_acquisition() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    // Whatever is counted while the recorder is this thread's: all tasks run on it.
    metrics::with_local_recorder(&recorder, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let seconds = std::env::var("REDSYNC_TEST_SECONDS").map_or(4, |seconds| seconds.parse().unwrap());
        for nodes in [1, 3, 5] {
            runtime.block_on(restarts(nodes, Duration::from_secs(seconds), &snapshotter));
        }
    });
}

async fn restarts(nodes: usize, time: Duration, snapshotter: &Snapshotter) {
    const CLIENTS: usize = 200;
    let servers: Vec<RedisServer> = (0..nodes).map(|_| RedisServer::builder().persistent().start()).collect();
    let is_over = Arc::new(AtomicBool::new(false));
    // Written to while the lock is held: in the order of acquisition.
    let (had, lapsed) = (Arc::new(Mutex::new(Vec::<Fence>::new())), Arc::new(AtomicUsize::new(0)));
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let redsync = over(servers.iter().map(RedisServer::url));
        let (is_over, had, lapsed) = (Arc::clone(&is_over), Arc::clone(&had), Arc::clone(&lapsed));
        clients.push(tokio::spawn(async move {
            let mutex = redsync.mutex("name").expiry(Duration::from_secs(3)).fenced();
            while !is_over.load(Ordering::Relaxed) {
                // A server that is down for longer than the expiry ends the wait.
                let Ok(guard) = mutex.lock().await else { continue };
                {
                    let mut had = had.lock().unwrap();
                    had.push(guard.fence());
                    if !guard.is_valid() {
                        // Somebody else may have had it meanwhile, and come before.
                        had.pop();
                        lapsed.fetch_add(1, Ordering::Relaxed);
                    }
                }
                let _ = guard.unlock().await;
            }
            redsync.drain(Duration::from_secs(2)).await;
        }));
    }
    let (began, mut restarted) = (SystemClock.now(), 0);
    while SystemClock.now() < began + time {
        sleep(Duration::from_millis(900)).await;
        let server = &servers[restarted % nodes];
        server.kill();
        // For a moment it is gone.
        sleep(Duration::from_millis(100)).await;
        server.restart();
        restarted += 1;
    }
    is_over.store(true, Ordering::Relaxed);
    for client in clients {
        timeout(Duration::from_secs(60), client).await.expect("all come to an end").unwrap();
    }
    let had = had.lock().unwrap();
    println!(
        "{nodes} nodes, {restarted} restarts: {} acquisitions, {} confirmations, {} lapsed before they were written down",
        had.len(),
        confirmations(snapshotter),
        lapsed.load(Ordering::Relaxed),
    );
    if let Some(pair) = had.windows(2).find(|pair| pair[0] >= pair[1]) {
        panic!("{} was followed by {}", pair[0], pair[1]);
    }
    assert_eq!(had.iter().collect::<BTreeSet<_>>().len(), had.len(), "unique");
    assert!(had.len() > 100, "{}", had.len());
}
