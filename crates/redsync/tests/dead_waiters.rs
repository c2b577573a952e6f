//! Holders and waiters that die, stand still or do not want the lock any more: what that costs those behind them.

mod support;
#[path = "support/workers.rs"]
mod workers;

use std::pin::Pin;
use std::task::{Context, Waker};
use std::time::Duration;

use redsync::{Clock, Error, Guard, Mutex, Redsync, SystemClock};
use redsync_testkit::{RedisServer, servers, wait_until};
use support::{DEADLINE, connect, connect_to, median, timed, wait_until_empty};
use tokio::time::timeout;
use workers::{Entry, Fleet, What, assert_apart, when};

const EXPIRY: Duration = Duration::from_secs(2);
/// How much later than at the end of an expiry the next one may have the lock.
const MARGIN: Duration = Duration::from_millis(250);

#[test]
#[ignore = "the other processes of the tests here, which start it"]
fn worker() {
    workers::work_if_asked();
}

fn wait_for_queue(servers: &[RedisServer], name: &str, waiters: usize) {
    wait_until("all are in the queue", DEADLINE, || {
        servers.iter().all(|server| server.waiting(name) == waiters)
    });
}

/// How many commands clients have sent that ask for something of a lock. Those inside of scripts are counted too: it is
/// fewer in truth.
fn commands(server: &RedisServer) -> u64 {
    ["evalsha", "eval", "set"].iter().map(|command| server.command_count(command)).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_holder_costs_one_expiry_and_few_commands() {
    const WAITERS: usize = 100;
    let fleet = servers(1);
    let server = &fleet[0];
    let mut workers = Fleet::start(5, &fleet);
    workers.enter(4, Entry::new(WAITERS, "name").expiry(EXPIRY).unrenewed().holding_for(10 * EXPIRY));
    let held_since = workers.held(WAITERS, DEADLINE);
    for number in 0..WAITERS {
        // The first keeps the lock for a while, so that what it took to get it can be counted.
        let hold = if number == 0 { Duration::from_millis(300) } else { Duration::ZERO };
        workers.enter(number % 4, Entry::new(number, "name").expiry(EXPIRY).holding_for(hold));
    }
    wait_for_queue(&fleet, "name", WAITERS);
    let before = commands(server);
    workers.kill(4);
    let took = workers.held(0, EXPIRY + DEADLINE).saturating_since(held_since);
    let sent = commands(server) - before;
    println!("the first in the queue had it {took:?} after the killed holder, for {sent} commands");
    workers.all_freed(WAITERS, DEADLINE);
    assert_eq!(workers.order(What::Held)[1..], (0..WAITERS).collect::<Vec<_>>());
    assert!(took <= EXPIRY + MARGIN, "it took {took:?}");
    assert!(sent < 2 * WAITERS as u64, "{sent} commands for {WAITERS} waiters");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_waiters_are_passed_over_at_once() {
    const ROUNDS: usize = 5;
    for nodes in [1, 3] {
        let servers = servers(nodes);
        let redsync = connect(&servers).await;
        let mut delays = Vec::new();
        for round in 0..ROUNDS {
            let name = &format!("round-{round}");
            let mut workers = Fleet::start(4, &servers);
            let holder = redsync.mutex(name).expiry(EXPIRY).fail_fast(false).lock().await.unwrap();
            for number in 0..4 {
                workers.enter(number, Entry::new(number, name).expiry(EXPIRY));
                // Nodes order by tickets to which their clocks agree, within milliseconds.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            wait_for_queue(&servers, name, 4);
            (0..3).for_each(|worker| workers.kill(worker));
            let released = SystemClock.now();
            holder.unlock().await.unwrap();
            delays.push(workers.held(3, EXPIRY + DEADLINE).saturating_since(released));
        }
        println!("{nodes} nodes: the fourth had it after {delays:?}");
        let median = median(delays);
        assert!(median <= Duration::from_millis(50), "{nodes} nodes: the fourth had it after {median:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_waiter_costs_one_expiry_and_gets_its_turn_when_it_goes_on() {
    for nodes in [1, 3] {
        let servers = servers(nodes);
        let redsync = connect(&servers).await;
        let mut workers = Fleet::start(2, &servers);
        let holder = redsync.mutex("name").expiry(EXPIRY).fail_fast(false).lock().await.unwrap();
        workers.enter(0, Entry::new(0, "name").expiry(EXPIRY));
        // Nodes order by tickets to which their clocks agree, within milliseconds.
        tokio::time::sleep(Duration::from_millis(50)).await;
        workers.enter(1, Entry::new(1, "name").expiry(EXPIRY).holding_for(Duration::from_millis(600)));
        wait_for_queue(&servers, "name", 2);
        workers.stop(0);
        let released = SystemClock.now();
        holder.unlock().await.unwrap();
        let took = workers.held(1, EXPIRY + DEADLINE).saturating_since(released);
        workers.go_on(0);
        workers.all_freed(2, DEADLINE);
        println!("{nodes} nodes: the second had it after {took:?}");
        assert_apart(&workers.heard);
        assert_eq!(workers.order(What::Held), [1, 0]);
        let gap = when(&workers.heard, What::Held, 0).unwrap();
        let gap = gap.saturating_since(when(&workers.heard, What::Freeing, 1).unwrap());
        println!("{nodes} nodes: the stopped one had it {gap:?} after the second let go of it");
        assert!(took <= EXPIRY + MARGIN, "{nodes} nodes: the second had it after {took:?}");
        assert!(gap <= MARGIN, "{nodes} nodes: the one that went on had it {gap:?} after the second");
    }
}

/// A wait that only goes on when a test polls it. What it does in the background goes on by itself.
struct ByHand(Pin<Box<dyn Future<Output = Result<Guard, Error>> + Send>>);

impl ByHand {
    fn new(mutex: Mutex) -> Self {
        Self(Box::pin(async move { mutex.lock().await }))
    }

    fn poll_once(&mut self) -> bool {
        self.0.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    /// Polls until it is in the queue on all of `servers`, as the last of so many.
    fn until_in_queue(&mut self, servers: &[RedisServer], name: &str, waiters: usize) {
        wait_until("it is in the queue", DEADLINE, || {
            assert!(!self.poll_once(), "another has the lock");
            servers.iter().all(|server| server.waiting(name) == waiters)
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_wait_leaves_the_queue() {
    for nodes in [1, 3] {
        let servers = servers(nodes);
        let redsync = connect(&servers).await;
        let holder = redsync.mutex("name").expiry(EXPIRY).fail_fast(false).lock().await.unwrap();
        let mut wait = ByHand::new(redsync.mutex("name").expiry(EXPIRY));
        wait.until_in_queue(&servers, "name", 1);
        drop(wait);
        wait_until("the line is empty", Duration::from_millis(500), || {
            servers.iter().all(|server| server.waiting("name") == 0)
        });
        holder.unlock().await.unwrap();
        wait_until_empty(&servers, DEADLINE);
    }
}

/// The one before it has the lock when it is dropped; how long it takes until the next one does.
async fn after_one_who_was_granted(nodes: usize, abandon: impl FnOnce(ByHand) -> Option<ByHand>) -> Duration {
    let servers = servers(nodes);
    let (redsync, other) = (connect(&servers).await, connect(&servers).await);
    let holder = other.mutex("name").expiry(EXPIRY).fail_fast(false).lock().await.unwrap();
    let token = holder.token().as_str().to_owned();
    let mut first = ByHand::new(redsync.mutex("name").expiry(EXPIRY));
    first.until_in_queue(&servers, "name", 1);
    // Nodes order by tickets to which their clocks agree, within milliseconds.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let mutex = other.mutex("name").expiry(EXPIRY);
    let second = tokio::spawn(async move { mutex.lock().await });
    wait_for_queue(&servers, "name", 2);
    holder.unlock().await.unwrap();
    wait_until("the first was granted the lock", DEADLINE, || {
        servers.iter().all(|server| server.get("name").is_some_and(|held| held != token))
    });
    let _kept = abandon(first);
    let (took, guard) = timed(timeout(EXPIRY + DEADLINE, second)).await;
    let guard = guard.expect("the second has its turn").unwrap().unwrap();
    assert!(guard.is_valid());
    guard.unlock().await.unwrap();
    took
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_that_is_dropped_when_it_was_just_granted_passes_the_lock_on() {
    for nodes in [1, 3] {
        let took = after_one_who_was_granted(nodes, |_dropped| None).await;
        println!("{nodes} nodes: passed on after {took:?}");
        assert!(took <= Duration::from_millis(100), "{nodes} nodes: it was passed on after {took:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_that_is_left_alone_when_it_was_granted_blocks_others_for_no_longer_than_one_expiry() {
    for nodes in [1, 3] {
        let took = after_one_who_was_granted(nodes, Some).await;
        println!("{nodes} nodes: the second had it after {took:?}");
        assert!(took <= EXPIRY + MARGIN, "{nodes} nodes: the second had it after {took:?}");
    }
}

/// How long the lock is out of reach for others, after somebody polled once for it, and never again.
async fn after_one_poll(redsync: &Redsync, other: &Redsync) -> Duration {
    // Once in a while a single poll is enough for the nodes to answer: then there is a guard, and it is tried again.
    let _left = std::iter::repeat_with(|| ByHand::new(redsync.mutex("name").expiry(EXPIRY)))
        .find_map(|mut wait| (!wait.poll_once()).then_some(wait));
    // What was sent with that poll reaches the nodes before the other comes.
    tokio::time::sleep(Duration::from_millis(20)).await;
    let (took, guard) = timed(timeout(EXPIRY + DEADLINE, other.mutex("name").expiry(EXPIRY).lock())).await;
    guard.expect("it has its turn").unwrap().unlock().await.unwrap();
    took
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_that_is_polled_once_blocks_others_for_no_longer_than_one_expiry() {
    let server = RedisServer::start();
    let took = after_one_poll(&connect_to(&server).await, &connect_to(&server).await).await;
    assert!(took <= EXPIRY + MARGIN, "the other had it after {took:?}");
    let servers = servers(3);
    let took = after_one_poll(&connect(&servers).await, &connect(&servers).await).await;
    assert!(took <= EXPIRY + MARGIN, "the other had it after {took:?}");
}
