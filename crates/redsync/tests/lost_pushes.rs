//! A grant is told once. What happens when that is lost: with its connection, with its server, or in the network.

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::seq::SliceRandom;
use redsync::{Clock, Error, ErrorKind, Guard, Instant, Redsync, SystemClock};
use redsync_testkit::{Proxy, RedisServer, servers, wait_until};
use support::{DEADLINE, assert_contains, connect, connect_to, median, over, timed, wait_until_empty};
use tokio::task::JoinHandle;
use tokio::time::timeout;

const EXPIRY: Duration = Duration::from_millis(1_500);
/// How often a place in the queue is renewed.
const REFRESH: Duration = Duration::from_millis(500);
/// What a busy machine may add.
const MARGIN: Duration = Duration::from_millis(250);

/// Servers behind a network each: one who waits goes through the network, and one who holds does not.
struct Routes {
    servers: Vec<RedisServer>,
    proxies: Vec<Proxy>,
    waiter: Redsync,
    holder: Redsync,
}

impl Routes {
    async fn open(nodes: usize) -> Self {
        let servers = servers(nodes);
        let proxies: Vec<Proxy> = servers.iter().map(Proxy::before).collect();
        let waiter = over(proxies.iter().map(Proxy::url));
        waiter.check_nodes().await.unwrap();
        let holder = connect(&servers).await;
        Self { servers, proxies, waiter, holder }
    }

    /// Holds the lock on every node.
    async fn hold(&self, name: &str) -> Guard {
        self.holder.mutex(name).expiry(EXPIRY).fail_fast(false).lock().await.unwrap()
    }

    /// Begins to wait, and returns when it is in the queue on all nodes.
    fn wait(&self, name: &str) -> JoinHandle<Result<Guard, Error>> {
        let mutex = self.waiter.mutex(name).expiry(EXPIRY);
        let wait = tokio::spawn(async move { mutex.lock().await });
        self.until_in_queue(name, 1);
        wait
    }

    fn until_in_queue(&self, name: &str, waiters: usize) {
        wait_until("all are in the queue", DEADLINE, || {
            self.servers.iter().all(|server| server.waiting(name) == waiters)
        });
    }
}

/// How long it takes to get a lock, from its release on, when all connections are cut then.
async fn cut(nodes: usize, is_before: bool) -> Vec<Duration> {
    const ROUNDS: usize = 15;
    let routes = Routes::open(nodes).await;
    let mut delays = Vec::new();
    for round in 0..ROUNDS {
        let name = &format!("round-{round}");
        let guard = routes.hold(name).await;
        let wait = routes.wait(name);
        let cut = || routes.proxies.iter().for_each(Proxy::reset);
        if is_before {
            cut();
        }
        let released = std::time::Instant::now();
        guard.unlock().await.unwrap();
        if !is_before {
            cut();
        }
        let guard = timeout(DEADLINE, wait).await.expect("it has its turn").unwrap().unwrap();
        delays.push(released.elapsed());
        assert!(guard.is_valid());
        // Cut in the middle of it, it could not say how it ended.
        drop(guard);
    }
    delays
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_cut_around_the_release_costs_a_refresh_at_most_and_usually_nothing() {
    for nodes in [1, 3] {
        for is_before in [true, false] {
            let delays = cut(nodes, is_before).await;
            let (worst, median) = (*delays.iter().max().unwrap(), median(delays));
            let when = if is_before { "before" } else { "after" };
            println!("{nodes} nodes, cut right {when} the release: median {median:?}, worst {worst:?}");
            assert!(worst <= REFRESH + MARGIN, "{nodes} nodes, {when}: {worst:?}");
            assert!(median <= Duration::from_millis(150), "{nodes} nodes, {when}: {median:?}");
        }
    }
}

/// When a lock was held.
#[derive(Clone, Copy, Debug)]
struct Hold {
    from: Instant,
    to: Instant,
}

#[track_caller]
fn assert_apart(holds: &[Hold]) {
    let mut holds = holds.to_vec();
    holds.sort_by_key(|hold| hold.from);
    for pair in holds.windows(2) {
        assert!(pair[0].to <= pair[1].from, "somebody holds beside another: {pair:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_get_their_turn_though_every_node_was_restarted_while_they_waited() {
    const CALLERS: usize = 50;
    for nodes in [1, 3] {
        let servers = servers(nodes);
        let mut clients = Vec::new();
        for _ in 0..5 {
            clients.push(connect(&servers).await);
        }
        let holder = connect(&servers).await;
        // Without the restart guard, a restart takes the lock from its holder. It is not one of those who are looked at.
        let _lease =
            holder.mutex("name").expiry(20 * EXPIRY).fail_fast(false).lock().await.unwrap().into_lease();
        let holds = Arc::new(Mutex::new(Vec::new()));
        let mut waits = Vec::new();
        for number in 0..CALLERS {
            let mutex = clients[number % clients.len()].mutex("name").expiry(EXPIRY);
            let holds = Arc::clone(&holds);
            waits.push(tokio::spawn(async move {
                let guard = mutex.lock().await.unwrap();
                let from = SystemClock.now();
                // The work under the lock.
                tokio::time::sleep(Duration::from_millis(3)).await;
                let to = SystemClock.now();
                assert!(guard.is_valid());
                holds.lock().unwrap().push(Hold { from, to });
                guard.unlock().await
            }));
        }
        wait_until("all are in the queue", DEADLINE, || {
            servers.iter().all(|server| server.waiting("name") == CALLERS)
        });
        // Not the order in which they are listed.
        let mut order: Vec<&RedisServer> = servers.iter().collect();
        order.shuffle(&mut rand::rng());
        order.iter().for_each(|server| server.restart());
        let (took, ()) = timed(async {
            for wait in waits {
                let unlocked = timeout(2 * DEADLINE, wait).await.expect("all have their turn").unwrap();
                // A holder whose node restarts while it holds, which one of them may be, has lost the lock there.
                if let Err(error) = unlocked {
                    println!("{nodes} nodes: {error}");
                }
            }
        })
        .await;
        println!("{nodes} nodes: all {CALLERS} had their turn {took:?} after the restarts");
        let holds = holds.lock().unwrap();
        assert_eq!(holds.len(), CALLERS);
        assert_apart(&holds);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_whose_way_was_a_black_hole_for_a_while_gets_its_turn_after_it() {
    for nodes in [1, 3] {
        let routes = Routes::open(nodes).await;
        let guard = routes.hold("name").await;
        let wait = routes.wait("name");
        let began = SystemClock.now();
        routes.proxies.iter().for_each(Proxy::black_hole);
        // Somewhere in the hole. It is shorter than the expiry, by what it may take to connect anew: that is begun anew
        // every half second where nothing answers.
        tokio::time::sleep(Duration::from_millis(300)).await;
        guard.unlock().await.unwrap();
        tokio::time::sleep(Duration::from_millis(400)).await;
        assert!(!wait.is_finished(), "nobody told it");
        routes.proxies.iter().for_each(Proxy::pass);
        let hole = SystemClock.now().saturating_since(began);
        let (took, guard) = timed(timeout(DEADLINE, wait)).await;
        println!("{nodes} nodes: it had the lock {took:?} after a hole of {hole:?}");
        let guard = guard.expect("it has its turn").unwrap();
        let guard = guard.unwrap_or_else(|error| panic!("{took:?} after a hole of {hole:?}: {error}"));
        assert!(guard.is_valid());
        assert!(took <= EXPIRY + MARGIN, "{nodes} nodes: it had the lock {took:?} after the hole");
        guard.unlock().await.unwrap();
        wait_until_empty(&routes.servers, DEADLINE);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_whose_way_is_a_black_hole_does_not_keep_the_lock_from_others_for_longer_than_one_expiry() {
    for nodes in [1, 3] {
        let routes = Routes::open(nodes).await;
        let guard = routes.hold("name").await;
        let wait = routes.wait("name");
        // Nodes order by tickets to which their clocks agree, within milliseconds.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let mutex = routes.holder.mutex("name").expiry(EXPIRY);
        let other = tokio::spawn(async move { mutex.lock().await });
        routes.until_in_queue("name", 2);
        routes.proxies.iter().for_each(Proxy::black_hole);
        let released = std::time::Instant::now();
        guard.unlock().await.unwrap();
        let guard = timeout(DEADLINE, other).await.expect("it has its turn").unwrap().unwrap();
        let took = released.elapsed();
        println!("{nodes} nodes: the other had it after {took:?}");
        assert!(took <= EXPIRY + MARGIN, "{nodes} nodes: the other had it after {took:?}");
        routes.proxies.iter().for_each(Proxy::pass);
        guard.unlock().await.unwrap();
        wait.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_ends_when_no_quorum_was_in_reach_for_longer_than_the_expiry_and_the_error_names_every_node()
{
    type Fault = fn(&Proxy);
    let faults: [(&str, Fault); 2] = [("refused", Proxy::refuse), ("a black hole", Proxy::black_hole)];
    for (nodes, cut) in [(1, 1), (3, 2), (3, 3)] {
        for (what, fault) in faults {
            let routes = Routes::open(nodes).await;
            let _guard = routes.hold("name").await;
            let wait = routes.wait("name");
            // The last answers of the nodes may be as old as a refresh.
            routes.proxies[nodes - cut..].iter().for_each(fault);
            let (took, locked) = timed(timeout(DEADLINE, wait)).await;
            let error = locked.expect("it ends").unwrap().unwrap_err();
            let case = format!("{cut} of {nodes} nodes {what}");
            println!("{case}: after {took:?}: {error}");
            assert_eq!(error.kind(), ErrorKind::NoQuorum, "{case}: {error}");
            assert!(took >= EXPIRY, "{case}: after {took:?}");
            assert!(took <= EXPIRY + REFRESH + 2 * MARGIN, "{case}: after {took:?}");
            assert_eq!(error.nodes().len(), nodes, "{case}: {error}");
            let addresses: Vec<String> = routes.proxies.iter().map(Proxy::address).collect();
            assert_contains(&error.to_string(), &addresses.iter().map(String::as_str).collect::<Vec<_>>());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_goes_on_through_outages_that_are_shorter_than_the_expiry() {
    for nodes in [1, 3] {
        let routes = Routes::open(nodes).await;
        let guard = routes.hold("name").await;
        let wait = routes.wait("name");
        for _ in 0..3 {
            routes.proxies.iter().for_each(Proxy::refuse);
            // The outage.
            tokio::time::sleep(EXPIRY * 6 / 10).await;
            routes.proxies.iter().for_each(Proxy::pass);
            // Time for a refresh to get through, before the next.
            tokio::time::sleep(REFRESH + MARGIN).await;
        }
        assert!(!wait.is_finished(), "it waits through them");
        let released = std::time::Instant::now();
        guard.unlock().await.unwrap();
        let guard = timeout(DEADLINE, wait).await.expect("it has its turn").unwrap().unwrap();
        assert!(released.elapsed() <= REFRESH + MARGIN, "{nodes} nodes: {:?}", released.elapsed());
        guard.unlock().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn users_who_may_not_be_told_get_the_lock_in_their_turn_by_asking() {
    let server = RedisServer::builder().user("deaf", "secret", "~* resetchannels +@all").start();
    let url = server.url().replace("redis://", "redis://deaf:secret@");
    let mut clients = Vec::new();
    for _ in 0..4 {
        let client = over([url.clone()]);
        client.check_nodes().await.unwrap();
        clients.push(client);
    }
    // One holder who may not tell either, and one who may.
    for (round, holder) in [clients.pop().unwrap(), connect_to(&server).await].into_iter().enumerate() {
        let name = format!("round-{round}");
        let guard = holder.mutex(&name).expiry(EXPIRY).lock().await.unwrap();
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut waits = Vec::new();
        for (number, client) in clients.iter().enumerate() {
            let (mutex, order) = (client.mutex(&name).expiry(EXPIRY), Arc::clone(&order));
            waits.push(tokio::spawn(async move {
                let guard = mutex.lock().await.unwrap();
                order.lock().unwrap().push(number);
                guard.unlock().await.unwrap();
            }));
            wait_until("it is in the queue", DEADLINE, || server.waiting(&name) == number + 1);
        }
        let released = std::time::Instant::now();
        guard.unlock().await.unwrap();
        for wait in waits {
            timeout(DEADLINE, wait).await.expect("it has its turn").unwrap();
        }
        println!("round {round}: all had it after {:?}", released.elapsed());
        assert_eq!(*order.lock().unwrap(), [0, 1, 2]);
        assert!(released.elapsed() <= EXPIRY + MARGIN, "they ask often: {:?}", released.elapsed());
    }
    wait_until_empty(std::slice::from_ref(&server), DEADLINE);
}
