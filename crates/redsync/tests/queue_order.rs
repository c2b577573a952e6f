//! Whoever comes first is served first: across tasks, processes and nodes, and whatever a caller's wall clock shows.

#[path = "support/seed.rs"]
mod seed;
mod support;
#[path = "support/workers.rs"]
mod workers;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rand::RngExt;
use redsync::{Clock, MemoryNode, Node, Redsync, Sleep, SystemClock};
use redsync_testkit::{RedisServer, servers, wait_until};
use seed::seed;
use support::{DEADLINE, connect, connect_to, median, over, wait_until_empty};
use tokio::time::timeout;
use workers::{Entry, Fleet, What, assert_apart, list_of, of, when};

const MILLISECOND: Duration = Duration::from_millis(1);
const HOUR_MICROS: i64 = 3_600_000_000;

#[test]
#[ignore = "the other processes of the tests here, which start it"]
fn worker() {
    workers::work_if_asked();
}

/// 20 runs of 64 waiters from 16 processes, which enter 5 ms apart.
#[tokio::test(flavor = "multi_thread")]
async fn processes_get_a_lock_in_the_order_in_which_they_came() {
    const RUNS: usize = 20;
    const WAITERS: usize = 64;
    let fleet = servers(1);
    let server = &fleet[0];
    let redsync = connect_to(server).await;
    let mut workers = Fleet::start(16, &fleet);
    let mut wrong = Vec::new();
    for run in 0..RUNS {
        let name = &format!("run-{run}");
        let holder = redsync.mutex(name).lock().await.unwrap();
        let mut came = Vec::new();
        for turn in 0..WAITERS {
            // 7 has no factor in common with 16: neighbours in the queue are of different processes.
            let number = run * WAITERS + turn;
            workers.enter(turn * 7 % 16, Entry::new(number, name).holding_for(MILLISECOND));
            came.push(number);
            // That they come so far apart is what is claimed.
            thread::sleep(5 * MILLISECOND);
        }
        holder.unlock().await.unwrap();
        workers.all_freed(WAITERS, DEADLINE);
        let served = workers.order(What::Held);
        let booked: Vec<usize> = server
            .command(&["LRANGE", &list_of(name), "0", "-1"])
            .array()
            .iter()
            .map(|number| number.text().parse().unwrap())
            .collect();
        assert_apart(&workers.heard);
        if served != came || booked != came {
            wrong.push((run, booked));
        }
        workers.heard.clear();
    }
    assert!(wrong.is_empty(), "{} of {RUNS} runs were out of order: {wrong:?}", wrong.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn on_three_nodes_nobody_is_overtaken_by_one_who_came_50_ms_later() {
    const WAITERS: usize = 200;
    let (seed, mut random) = seed();
    let nodes = servers(3);
    let redsync = connect(&nodes).await;
    let mut workers = Fleet::start(8, &nodes);
    let holder = redsync.mutex("name").fail_fast(false).lock().await.unwrap();
    let mut holder = Some(holder);
    for number in 0..WAITERS {
        let entry = Entry::new(number, "name").holding_for(MILLISECOND * random.random_range(0..4));
        workers.enter(random.random_range(0..8), entry);
        // Random arrivals: sometimes several at once, sometimes after a while, and in the second half while others are
        // served.
        if random.random_bool(0.7) {
            thread::sleep(Duration::from_micros(random.random_range(0..15_000)));
        }
        if number == WAITERS / 2 {
            holder.take().unwrap().unlock().await.unwrap();
        }
    }
    workers.all_freed(WAITERS, 2 * DEADLINE);
    assert_apart(&workers.heard);
    let mut worst = Duration::ZERO;
    for early in of(&workers.heard, What::Entered) {
        let held = when(&workers.heard, What::Held, early.number).unwrap();
        for late in of(&workers.heard, What::Entered).filter(|late| late.at > early.at) {
            if when(&workers.heard, What::Held, late.number).unwrap() < held {
                worst = worst.max(late.at.saturating_since(early.at));
            }
        }
    }
    println!("the largest lead that was overtaken: {worst:?} (seed {seed})");
    assert!(worst <= 50 * MILLISECOND, "somebody was overtaken by one who came {worst:?} later; seed {seed}");
}

/// Memory and commands of one process in which so many tasks wait for one lock: for each of them.
async fn crowd(waiters: usize) -> (usize, f64) {
    let fleet = servers(1);
    let server = &fleet[0];
    let redsync = connect_to(server).await;
    let mut workers = Fleet::start(1, &fleet);
    // What comes with the first wait, and with the first crowd of bytes, is not of each waiter.
    workers.enter(0, Entry::new(usize::MAX, "warm-up"));
    workers.all_freed(1, DEADLINE);
    workers.heard.clear();
    let holder = redsync.mutex("name").fail_fast(false).lock().await.unwrap();
    let (before, asked) = (workers.resident(0), requests(server));
    for number in 0..waiters {
        workers.tell(0, Entry::new(number, "name"));
    }
    workers.hear("all have entered", DEADLINE, |heard| of(heard, What::Entered).count() == waiters);
    redsync_testkit::wait_until("all are in the queue", DEADLINE, || server.waiting("name") == waiters);
    let memory = workers.resident(0).saturating_sub(before) / waiters;
    holder.unlock().await.unwrap();
    workers.all_freed(waiters, 2 * DEADLINE);
    let commands = (requests(server) - asked) as f64 / waiters as f64;
    assert_eq!(workers.order(What::Held), (0..waiters).collect::<Vec<_>>());
    assert_apart(&workers.heard);
    println!("{waiters} waiters: {memory} bytes resident and {commands:.2} requests for each");
    (memory, commands)
}

/// How many requests of redsync's kind the server has had.
fn requests(server: &RedisServer) -> u64 {
    ["evalsha", "eval", "fcall", "set", "ping"].iter().map(|command| server.command_count(command)).sum::<u64>()
        // The scripts' own: one for each hand-over.
        - server.command_count("publish")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_tasks_of_one_process_get_a_lock_in_order_at_a_constant_cost_for_each() {
    let (_, few) = crowd(100).await;
    let (memory, many) = crowd(1_000).await;
    assert!(many <= 4.0, "{many:.2} requests for each hand-over");
    assert!(many <= few * 1.5, "{few:.2} requests for each of 100, {many:.2} for each of 1,000");
    assert!(memory < 32 * 1024, "{memory} bytes for each waiter");
}

#[tokio::test(flavor = "multi_thread")]
async fn on_memory_nodes_tasks_get_a_lock_in_the_order_in_which_they_came() {
    for nodes in [1, 3] {
        let nodes: Vec<Arc<dyn Node>> = (0..nodes).map(|_| Arc::new(MemoryNode::new()) as _).collect();
        let clients: Vec<Redsync> = (0..16).map(|_| Redsync::new(nodes.clone()).unwrap()).collect();
        let order = served(&clients, "name", 5 * MILLISECOND).await;
        assert_eq!(order, (0..clients.len()).collect::<Vec<_>>());
    }
}

/// The system's clock, with a wall clock that is wrong.
#[derive(Debug)]
struct Wrong {
    by_micros: i64,
}

impl Clock for Wrong {
    fn now(&self) -> redsync::Instant {
        SystemClock.now()
    }

    fn wall_micros(&self) -> u64 {
        SystemClock.wall_micros().saturating_add_signed(self.by_micros)
    }

    fn sleep_until(&self, deadline: redsync::Instant) -> Sleep {
        SystemClock.sleep_until(deadline)
    }
}

/// Clients whose wall clocks are wrong by so many microseconds.
async fn with_clocks(nodes: &[RedisServer], wrong_by: &[i64]) -> Vec<Redsync> {
    let mut clients = Vec::new();
    for &by_micros in wrong_by {
        let builder = Redsync::builder().restart_guard(false).clock(Wrong { by_micros });
        let builder = nodes.iter().map(RedisServer::url).fold(builder, redsync::Builder::url);
        let client = builder.build().unwrap();
        client.check_nodes().await.unwrap();
        clients.push(client);
    }
    clients
}

/// Has the clients wait, each so long after the one before, and gives the order in which they were served.
async fn served(clients: &[Redsync], name: &str, apart: Duration) -> Vec<usize> {
    let holder = clients[0].mutex(name).fail_fast(false).lock().await.unwrap();
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut waits = Vec::new();
    for (number, client) in clients.iter().enumerate() {
        let (mutex, order) = (client.mutex(name), Arc::clone(&order));
        waits.push(tokio::spawn(async move {
            let guard = mutex.lock().await.unwrap();
            order.lock().unwrap().push(number);
            guard.unlock().await.unwrap();
        }));
        // That they come so far apart is what is claimed.
        tokio::time::sleep(apart).await;
    }
    holder.unlock().await.unwrap();
    for wait in waits {
        timeout(DEADLINE, wait).await.expect("nobody starves").unwrap();
    }
    order.lock().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wall_clock_that_is_wrong_by_an_hour_does_not_change_the_order() {
    for nodes in [1, 3] {
        let servers = servers(nodes);
        let wrong_by = [0, -HOUR_MICROS, 0, HOUR_MICROS, 0, -HOUR_MICROS, HOUR_MICROS, 0];
        let clients = with_clocks(&servers, &wrong_by).await;
        let in_order: Vec<usize> = (0..wrong_by.len()).collect();
        // The first wait of a client may have to be corrected by what the nodes answer.
        assert_eq!(
            served(&clients, "first", 60 * MILLISECOND).await,
            in_order,
            "the first time, {nodes} nodes"
        );
        let (rounds, apart) = if nodes == 1 { (20, 5 * MILLISECOND) } else { (5, 50 * MILLISECOND) };
        for round in 0..rounds {
            let order = served(&clients, &format!("round-{round}"), apart).await;
            assert_eq!(order, in_order, "round {round}, {nodes} nodes");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wall_clock_that_is_wrong_by_an_hour_brings_nobody_more_or_less_than_its_share() {
    for nodes in [1, 3] {
        let servers = servers(nodes);
        let clients = with_clocks(&servers, &[0, HOUR_MICROS, 0, -HOUR_MICROS]).await;
        let is_over = Arc::new(AtomicBool::new(false));
        let shares: Vec<Arc<AtomicUsize>> = clients.iter().map(|_| Arc::default()).collect();
        let mut tasks = Vec::new();
        for (client, share) in clients.iter().zip(&shares) {
            let (mutex, share, is_over) = (client.mutex("name"), Arc::clone(share), Arc::clone(&is_over));
            tasks.push(tokio::spawn(async move {
                while !is_over.load(Ordering::Relaxed) {
                    let guard = mutex.lock().await.unwrap();
                    share.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(MILLISECOND).await;
                    guard.unlock().await.unwrap();
                }
            }));
        }
        // The time in which they compete.
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        is_over.store(true, Ordering::Relaxed);
        for task in tasks {
            timeout(DEADLINE, task).await.expect("nobody starves").unwrap();
        }
        let shares: Vec<usize> = shares.iter().map(|share| share.load(Ordering::Relaxed)).collect();
        let fair = shares.iter().sum::<usize>() / shares.len();
        println!("{nodes} nodes: {shares:?}; the second's clock is an hour ahead, the last's behind");
        assert!(fair > 20, "{shares:?}: too few to tell");
        assert!(shares.iter().all(|&share| share * 10 >= fair * 8 && share * 10 <= fair * 12), "{shares:?}");
        drop(clients);
        wait_until_empty(&servers, DEADLINE);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_became_first_unawares_asks_as_soon_as_a_lost_holders_lease_has_ended() {
    const EXPIRY: Duration = Duration::from_millis(900);
    let server = RedisServer::start();
    let mut late = Vec::new();
    for round in 0..7 {
        let name = format!("round-{round}");
        let [leases, first, second] = [(); 3].map(|()| over([server.url()]).mutex(&name).expiry(EXPIRY));
        let holder = leases.renew(false).lock().await.unwrap();
        let is_in_queue =
            |waiting| wait_until("it is in the queue", DEADLINE, || server.waiting(&name) == waiting);
        let first = tokio::spawn(async move { first.lock().await });
        is_in_queue(1);
        let second = tokio::spawn(async move { (second.lock().await.unwrap(), SystemClock.now()) });
        is_in_queue(2);
        // Shortly before the end, when the second has renewed its place for the last time.
        while server.command(&["PTTL", &name]).int() > 25 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        first.abort();
        is_in_queue(1);
        let ends =
            SystemClock.now() + Duration::from_millis(server.command(&["PTTL", &name]).int().max(0) as u64);

        let (guard, had) = second.await.unwrap();

        late.push(had.saturating_since(ends));
        drop(holder);
        guard.unlock().await.unwrap();
    }
    println!("the one who became first had it so long after the lease's end: {late:?}");
    // It was 23 ms, less where the place had just been renewed.
    assert!(median(late) < Duration::from_millis(15));
}
