//! Minorities that are hung, unreachable, slow or resetting cost a lock over five nodes next to nothing, measured.

mod support;

use std::time::Duration;

use redsync::Redsync;
use redsync_testkit::{Proxy, RedisServer, servers};
use support::{DEADLINE, median, over, timed};
use tokio::sync::Mutex;

const NODES: usize = 5;

/// A round compares this many locks and unlocks on either side, in batches by turns, so that what else this machine does
/// meets both.
const BATCHES: usize = 10;
const BATCH: usize = 50;

/// What else this machine does can only make a ratio worse by chance: one good round shows what the library can do.
const ROUNDS: usize = 3;

/// How much longer than with five healthy nodes a lock and unlock may take, at the median.
const BOUND: f64 = 1.3;

/// A lock and unlock that takes longer has waited for a node that does not answer.
const WAIT: Duration = Duration::from_millis(20);

/// Measurements that run at once would measure each other.
static MEASURING: Mutex<()> = Mutex::const_new(());

/// Five servers, each behind a proxy.
struct Fleet {
    redsync: Redsync,
    proxies: Vec<Proxy>,
    servers: Vec<RedisServer>,
}

impl Fleet {
    /// Connected, and used a little.
    async fn start() -> Self {
        let servers = servers(NODES);
        let proxies: Vec<Proxy> = servers.iter().map(Proxy::before).collect();
        let redsync = over(proxies.iter().map(Proxy::url));
        redsync.check_nodes().await.expect("the kit's servers answer");
        let fleet = Self { redsync, proxies, servers };
        fleet.batch().await;
        fleet
    }

    /// How long each of some locks and unlocks takes.
    async fn batch(&self) -> Vec<Duration> {
        // Nobody needs to know exactly how bad it is.
        tokio::time::timeout(DEADLINE, self.times()).await.expect("a batch takes far less than that")
    }

    async fn times(&self) -> Vec<Duration> {
        let mutex = self.redsync.mutex("name");
        let mut times = Vec::with_capacity(BATCH);
        for _ in 0..BATCH {
            let (took, ()) = timed(async {
                let guard = mutex.lock().await.expect("a majority is healthy");
                guard.unlock().await.expect("a majority is healthy");
            })
            .await;
            times.push(took);
        }
        times
    }
}

/// Fails unless a lock and unlock takes about as long with `faulty` of five nodes out of order as with none.
async fn assert_costs_next_to_nothing(what: &str, faulty: usize, out_of_order: fn(&RedisServer, &Proxy)) {
    let _alone = MEASURING.lock().await;
    let (healthy, limping) = (Fleet::start().await, Fleet::start().await);
    for (server, proxy) in limping.servers.iter().zip(&limping.proxies).take(faulty) {
        out_of_order(server, proxy);
    }

    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let (mut healthy_took, mut limping_took) = (Vec::new(), Vec::new());
        for _ in 0..BATCHES {
            healthy_took.extend(healthy.batch().await);
            limping_took.extend(limping.batch().await);
        }
        // A node that is known to be down may fail fast for a while: half of the pairs do not tell it all.
        let waited = limping_took.iter().filter(|took| **took > WAIT).count();
        let (healthy_took, limping_took) = (median(healthy_took), median(limping_took));
        let ratio = limping_took.as_secs_f64() / healthy_took.as_secs_f64();
        let measured = format!(
            "{faulty} of {NODES} {what}: p50 {limping_took:?}, healthy {healthy_took:?}, ratio {ratio:.2}, {waited} waited"
        );
        println!("{measured}");
        if ratio <= BOUND && waited <= BATCHES * BATCH / 50 {
            return;
        }
        rounds.push(measured);
    }
    panic!("it costs too much:\n{}", rounds.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_node_costs_next_to_nothing() {
    assert_costs_next_to_nothing("hung", 1, |server, _| server.pause()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hung_nodes_cost_next_to_nothing() {
    assert_costs_next_to_nothing("hung", 2, |server, _| server.pause()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_in_a_black_hole_costs_next_to_nothing() {
    assert_costs_next_to_nothing("in a black hole", 1, |_, proxy| proxy.black_hole()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_in_a_black_hole_cost_next_to_nothing() {
    assert_costs_next_to_nothing("in a black hole", 2, |_, proxy| proxy.black_hole()).await;
}

/// What a slow node adds to every round trip.
const LATENCY: Duration = Duration::from_millis(300);

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_node_costs_next_to_nothing() {
    assert_costs_next_to_nothing("slow", 1, |_, proxy| proxy.delay(LATENCY)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_slow_nodes_cost_next_to_nothing() {
    assert_costs_next_to_nothing("slow", 2, |_, proxy| proxy.delay(LATENCY)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_connections_are_reset_by_requests_costs_next_to_nothing() {
    assert_costs_next_to_nothing("resetting on requests", 1, |_, proxy| proxy.reset_on_request()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_whose_connections_are_reset_by_requests_cost_next_to_nothing() {
    assert_costs_next_to_nothing("resetting on requests", 2, |_, proxy| proxy.reset_on_request()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_new_connections_are_reset_costs_next_to_nothing() {
    assert_costs_next_to_nothing("resetting new connections", 1, reset_now_and_always).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_whose_new_connections_are_reset_cost_next_to_nothing() {
    assert_costs_next_to_nothing("resetting new connections", 2, reset_now_and_always).await;
}

fn reset_now_and_always(_: &RedisServer, proxy: &Proxy) {
    proxy.reset_each_new();
    proxy.reset();
}
