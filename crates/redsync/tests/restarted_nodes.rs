//! Nodes that may have forgotten: a restarted server, a promoted replica. Their votes are withheld for as long as a lease
//! that they forgot may still be trusted.

#[path = "support/delegate.rs"]
mod delegate;
#[path = "../examples/own_client.rs"]
mod own_client;
mod support;

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use delegate::delegate;
use own_client::PlainClient;
use redsync::{
    Acquired, Answer, Claim, ClientId, Clock, DrivenClock, Entered, Error, ErrorKind, Guard, Instant,
    MemoryNode, Node, NodeError, Place, RedisNode, Redsync, SystemClock, Uptime,
};
use redsync_testkit::{Proxy, RedisServer, servers, wait_until};
use support::{DEADLINE, assert_contains, both_ways, keys_on, over, timed, wait_until_empty};
use tokio::time::timeout;

const SECOND: Duration = Duration::from_secs(1);
const NANOSECOND: Duration = Duration::from_nanos(1);

/// Over `servers`, of which those that restarted are guarded against.
async fn guarded(servers: &[RedisServer]) -> Redsync {
    let builder = Redsync::builder().restart_guard(true);
    let builder = servers.iter().fold(builder, |builder, server| builder.url(server.url()));
    let redsync = builder.build().unwrap();
    redsync.check_nodes().await.expect("the kit's servers answer");
    redsync
}

/// Tries to take "name" all the time, until it has it; gives the guard and when it was had.
async fn rival(redsync: Redsync, expiry: Duration, restart_guard: bool) -> (Guard, Instant) {
    let mutex = redsync.mutex("name").expiry(expiry).restart_guard(restart_guard);
    loop {
        // Errors are part of it: a quorum may be withheld, or down.
        if let Ok(Some(guard)) = mutex.try_lock().await {
            return (guard, SystemClock.now());
        }
        // The pause between two tries.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// How node 3 misses what node 2 forgets.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Third {
    /// The holder cannot reach it. It was never down.
    CutOff,
    /// It is down meanwhile.
    Down,
}

/// Ann holds on nodes 1 and 2, node 2 restarts without its data, and node 3 is there again. Gives the end of Ann's time,
/// and when a rival that tries all the time got in.
async fn amnesia(third: Third, rival_guards: bool) -> (Instant, Instant) {
    const EXPIRY: Duration = Duration::from_secs(3);
    let servers = servers(3);
    let proxy = Proxy::before(&servers[2]);
    let urls = [servers[0].url(), servers[1].url(), proxy.url()];
    let bob = guarded(&servers).await;
    if third == Third::CutOff {
        // Until then the rival trusts neither the first nor the third.
        tokio::time::sleep(EXPIRY + SECOND / 4).await;
        proxy.refuse();
    } else {
        servers[2].kill();
    }

    let ann = over(urls).mutex("name").expiry(EXPIRY).renew(false).lock().await.unwrap();
    wait_until("two nodes have the key", DEADLINE, || servers[..2].iter().all(|s| s.get("name").is_some()));
    servers[1].kill();
    servers[1].restart();
    if third == Third::Down {
        servers[2].restart();
    }
    let rival = timeout(DEADLINE, rival(bob, EXPIRY, rival_guards)).await;

    let (_, got_in) = rival.expect("the rival gets in some time");
    (ann.valid_until(), got_in)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_node_does_not_let_a_rival_in_before_the_holders_time_is_over() {
    let (end, got_in) = amnesia(Third::CutOff, true).await;

    assert!(got_in >= end, "{:?} too early", end.saturating_since(got_in));
    assert!(got_in <= end + 6 * SECOND, "{:?} after the end", got_in.saturating_since(end));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_restarted_nodes_do_not_let_a_rival_in_before_the_holders_time_is_over() {
    let (end, got_in) = amnesia(Third::Down, true).await;

    assert!(got_in >= end, "{:?} too early", end.saturating_since(got_in));
    assert!(got_in <= end + 6 * SECOND, "{:?} after the end", got_in.saturating_since(end));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_guard_a_restarted_node_lets_a_rival_in_while_the_lock_is_held() {
    let (end, got_in) = amnesia(Third::Down, false).await;

    assert!(got_in < end, "{:?} after the end: the guard would be for nothing", got_in.saturating_since(end));
}

#[tokio::test(flavor = "multi_thread")]
async fn trying_fresh_servers_is_an_error_that_names_each_of_them_and_the_wait() {
    let servers = servers(3);
    let redsync = Redsync::connect(servers.iter().map(RedisServer::url)).await.unwrap();

    let error = redsync.mutex("name").fail_fast(false).try_lock().await.unwrap_err();

    assert_eq!(error.kind(), ErrorKind::NoQuorum);
    for server in &servers {
        let said = error.nodes().iter().find(|said| said.node() == server.url()).expect("it is named");
        let NodeError::Withheld { wait: Some(wait), .. } = said else { panic!("{said:?}") };
        assert!(*wait > 4 * SECOND && *wait <= Duration::from_millis(8_082), "{wait:?}");
        assert_contains(&error.to_string(), &[&server.url(), "restarted", "its vote counts in"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_outlasts_the_quarantine_of_fresh_servers_whatever_the_tries() {
    let servers = servers(3);
    let redsync = Redsync::connect(servers.iter().map(RedisServer::url)).await.unwrap();
    // 32 tries: a third of a second.
    let mutex = redsync.mutex("name").expiry(2 * SECOND).retry_delay(Duration::from_millis(10));

    let (took, locked) = timed(timeout(DEADLINE, mutex.lock())).await;

    assert!(locked.expect("it ends").unwrap().is_valid());
    assert!(took > SECOND && took < 5 * SECOND, "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_in_queue_outlasts_the_quarantine_of_fresh_servers() {
    let servers = servers(3);
    let redsync = Redsync::connect(servers.iter().map(RedisServer::url)).await.unwrap();

    let (took, locked) = timed(timeout(DEADLINE, redsync.mutex("name").expiry(2 * SECOND).lock())).await;

    assert!(locked.expect("it ends").unwrap().is_valid());
    assert!(took > SECOND && took < 5 * SECOND, "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn trying_is_one_try_also_where_votes_are_withheld() {
    let servers = servers(3);
    let redsync = Redsync::connect(servers.iter().map(RedisServer::url)).await.unwrap();

    let (took, locked) = timed(redsync.mutex("name").tries(1).lock()).await;

    assert_eq!(locked.unwrap_err().kind(), ErrorKind::NoQuorum);
    assert!(took < 2 * SECOND, "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_for_restarted_nodes_ends_in_time() {
    let servers = servers(3);
    let redsync = Redsync::connect(servers.iter().map(RedisServer::url)).await.unwrap();

    for mutex in both_ways(&redsync.mutex("name").wait_up_to(SECOND), SECOND / 50) {
        let (took, locked) = timed(mutex.lock()).await;

        let error = locked.unwrap_err();
        assert!(matches!(error.nodes(), [NodeError::Withheld { .. }, ..]), "{error}");
        assert!(took < 2 * SECOND, "{took:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fresh_single_node_is_trusted_by_default() {
    let server = RedisServer::start();
    let redsync = Redsync::connect([server.url()]).await.unwrap();

    let tried = redsync.mutex("name").try_lock().await;

    assert!(tried.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fresh_single_node_is_not_trusted_where_that_is_asked_for() {
    let server = RedisServer::start();
    let redsync = Redsync::connect([server.url()]).await.unwrap();

    let error = redsync.mutex("name").restart_guard(true).try_lock().await.unwrap_err();

    assert!(matches!(error.nodes(), [NodeError::Withheld { .. }]), "{error}");
    assert_contains(&error.to_string(), &["no quorum to take lock \"name\"", &server.url(), "counts in"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_may_turn_the_guard_off_for_itself() {
    let servers = servers(3);
    let redsync = guarded(&servers).await;

    let tried = redsync.mutex("name").restart_guard(false).try_lock().await;

    assert!(tried.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_minority_does_not_keep_a_valid_guard_from_being_extended() {
    let servers = servers(3);
    let redsync = guarded(&servers).await;
    let guard = redsync.mutex("name").expiry(2 * SECOND).lock().await.unwrap();
    servers[1].kill();
    servers[1].restart();

    let extended = guard.extend().await;

    extended.unwrap();
    assert!(guard.remaining() > SECOND);
}

#[tokio::test(flavor = "multi_thread")]
async fn looking_says_for_how_long_votes_are_withheld() {
    let servers = servers(3);
    let redsync = guarded(&servers).await;

    let inspection = redsync.inspect("name").await.unwrap();

    for node in inspection.nodes() {
        let wait = node.withheld_for(8 * SECOND).expect("it has just started");
        assert!(wait > 4 * SECOND && wait <= Duration::from_millis(8_082), "{wait:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn looking_says_that_votes_are_no_longer_withheld() {
    let servers = servers(3);
    let redsync = guarded(&servers).await;
    let expiry = Duration::from_millis(100);
    // The quarantine of such short leases, and a little.
    tokio::time::sleep(2 * expiry).await;

    let inspection = redsync.inspect("name").await.unwrap();

    assert!(inspection.nodes().iter().all(|node| node.withheld_for(expiry).is_none()), "{inspection:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_that_is_withheld_is_given_back() {
    let servers = servers(3);
    let redsync = guarded(&servers).await;
    for _ in 0..20 {
        redsync.mutex("name").fail_fast(false).try_lock().await.unwrap_err();

        assert_eq!(keys_on(&servers), []);
    }
    // One more where SET does not take NX and GET together, which the first try found out.
    assert!(servers.iter().all(|server| server.command_count("set") >= 20), "they were granted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_that_is_withheld_and_comes_late_is_given_back() {
    let servers = servers(3);
    let redsync = guarded(&servers).await;
    servers[2].pause();
    redsync.mutex("name").try_lock().await.unwrap_err();

    servers[2].resume();

    wait_until("the late SET is applied", DEADLINE, || servers[2].command_count("set") > 0);
    wait_until_empty(&servers, 3 * SECOND);
}

/// Locks of which a replica's uptime in whole seconds is soon long enough.
const SHORT: Duration = Duration::from_millis(500);

/// A replica that has been up for longer than locks of half a second are guarded against.
fn ripe_replica(primary: &RedisServer) -> RedisServer {
    let replica = RedisServer::builder().replica_of(primary).start();
    wait_until("it has been up for 2 s", DEADLINE, || {
        let info = replica.info("server");
        let uptime = info.lines().find_map(|line| line.strip_prefix("uptime_in_seconds:")).unwrap();
        uptime.trim().parse::<u64>().unwrap() >= 2
    });
    replica
}

fn promote(replica: &RedisServer) {
    replica.command(&["REPLICAOF", "NO", "ONE"]);
    assert!(replica.info("replication").contains("role:master"));
}

/// Fails unless the only node's vote is withheld for most of the quarantine of such locks.
#[track_caller]
fn assert_withheld(tried: Result<Option<Guard>, Error>) {
    let error = tried.expect_err("a replica that was promoted just now may not have got the last lease");
    let [NodeError::Withheld { wait: Some(wait), .. }] = error.nodes() else { panic!("{error}") };
    assert!(*wait > SHORT / 2, "{wait:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_is_a_health_warning_that_names_its_primary() {
    let primary = RedisServer::start();
    let replica = RedisServer::builder().replica_of(&primary).start();
    let redsync = over([replica.url()]);

    let health_warnings = redsync.health_warnings().await.unwrap();

    assert_eq!(health_warnings.len(), 1);
    assert_eq!(health_warnings[0].node, replica.url());
    let port = primary.port().to_string();
    assert_contains(&health_warnings[0].to_string(), &[&replica.url(), "is a replica of", &port]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_was_looked_at_is_withheld_from_its_promotion_on() {
    let primary = RedisServer::start();
    let replica = ripe_replica(&primary);
    let redsync = guarded(std::slice::from_ref(&replica)).await;
    assert_eq!(redsync.health_warnings().await.unwrap().len(), 1);

    promote(&replica);

    assert_withheld(redsync.mutex("name").expiry(SHORT).try_lock().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_refused_a_lock_is_withheld_from_its_promotion_on() {
    let primary = RedisServer::start();
    let replica = ripe_replica(&primary);
    let redsync = guarded(std::slice::from_ref(&replica)).await;
    let mutex = redsync.mutex("name").expiry(SHORT);
    let refused = mutex.try_lock().await.unwrap_err();
    assert_contains(&refused.to_string(), &["read-only replica"]);

    promote(&replica);

    assert_withheld(mutex.try_lock().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_was_only_connected_to_is_withheld_from_its_promotion_on() {
    let primary = RedisServer::start();
    let replica = ripe_replica(&primary);
    let redsync = guarded(std::slice::from_ref(&replica)).await;

    promote(&replica);

    assert_withheld(redsync.mutex("name").expiry(SHORT).try_lock().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_behind_ones_own_client_is_withheld_from_its_promotion_on() {
    let primary = RedisServer::start();
    let replica = ripe_replica(&primary);
    let client = PlainClient::connect(&replica.address()).await.unwrap();
    let node: Arc<dyn Node> = Arc::new(RedisNode::with_client(client));
    let redsync = Redsync::builder().node(node).restart_guard(true).build().unwrap();
    assert_eq!(redsync.health_warnings().await.unwrap().len(), 1);

    promote(&replica);

    assert_withheld(redsync.mutex("name").expiry(SHORT).try_lock().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_replica_is_withheld_also_after_its_connection_was_cut_and_made_again() {
    let primary = RedisServer::start();
    let replica = ripe_replica(&primary);
    let redsync = guarded(std::slice::from_ref(&replica)).await;
    let mutex = redsync.mutex("name").expiry(SHORT);
    promote(&replica);
    // The first vote of the promoted one, and the first by which it is seen to be promoted.
    assert_withheld(mutex.try_lock().await);
    assert_withheld(mutex.try_lock().await);

    replica.command(&["CLIENT", "KILL", "TYPE", "normal"]);

    let is_cut = |error: &Error| matches!(error.nodes(), [NodeError::Failed { .. }]);
    let mut tried = mutex.try_lock().await;
    while tried.as_ref().is_err_and(is_cut) {
        tried = mutex.try_lock().await;
    }
    assert_withheld(tried);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_replica_behind_ones_own_client_is_withheld_however_often_it_is_tried() {
    let primary = RedisServer::start();
    let replica = ripe_replica(&primary);
    let client = PlainClient::connect(&replica.address()).await.unwrap();
    let node: Arc<dyn Node> = Arc::new(RedisNode::with_client(client));
    let redsync = Redsync::builder().node(node).restart_guard(true).build().unwrap();
    assert_eq!(redsync.health_warnings().await.unwrap().len(), 1);
    promote(&replica);

    for _ in 0..5 {
        assert_withheld(redsync.mutex("name").expiry(SHORT).try_lock().await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_replica_votes_again_after_the_quarantine() {
    let primary = RedisServer::start();
    let replica = ripe_replica(&primary);
    let redsync = guarded(std::slice::from_ref(&replica)).await;
    redsync.health_warnings().await.unwrap();
    promote(&replica);

    let (took, locked) = timed(timeout(DEADLINE, redsync.mutex("name").expiry(SHORT).lock())).await;

    assert!(locked.expect("it ends").unwrap().is_valid());
    assert!(took < 4 * SECOND, "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_evicts_is_a_health_warning() {
    let builder =
        RedisServer::builder().config("maxmemory", "100mb").config("maxmemory-policy", "allkeys-lru");
    let server = builder.start();
    let redsync = over([server.url()]);

    let health_warnings = redsync.health_warnings().await.unwrap();

    assert_eq!(health_warnings.len(), 1);
    assert_contains(&health_warnings[0].to_string(), &[&server.url(), "allkeys-lru", "noeviction"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_as_it_should_be_is_no_health_warning() {
    let servers = servers(3);
    let redsync = guarded(&servers).await;

    assert_eq!(redsync.health_warnings().await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fresh_server_behind_ones_own_client_is_withheld_too() {
    let server = RedisServer::start();
    let client = PlainClient::connect(&server.address()).await.unwrap();
    let node: Arc<dyn Node> = Arc::new(RedisNode::with_client(client));
    let redsync = Redsync::builder().node(node).restart_guard(true).build().unwrap();

    let error = redsync.mutex("name").try_lock().await.unwrap_err();

    assert!(matches!(error.nodes(), [NodeError::Withheld { wait: Some(_), .. }]), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_behind_ones_own_client_votes_after_the_quarantine() {
    let server = RedisServer::start();
    let client = PlainClient::connect(&server.address()).await.unwrap();
    let node: Arc<dyn Node> = Arc::new(RedisNode::with_client(client));
    let redsync = Redsync::builder().node(node).restart_guard(true).build().unwrap();

    let locked = timeout(DEADLINE, redsync.mutex("name").expiry(SECOND).lock()).await;

    assert!(locked.expect("it ends").unwrap().is_valid());
}

/// A memory node that says since when it is up, and whose answers to acquiring take their time.
#[derive(Debug)]
struct Restarted {
    node: MemoryNode,
    clock: DrivenClock,
    up_since: Instant,
    takes: Mutex<Duration>,
    says: bool,
}

const EXPIRY: Duration = Duration::from_secs(8);
const DRIFT: Duration = Duration::from_millis(82);

fn restarted(says: bool) -> (DrivenClock, Arc<Restarted>, Redsync) {
    let clock = DrivenClock::new();
    clock.advance(100 * SECOND);
    let node = MemoryNode::with_clock(clock.clone());
    let (up_since, takes) = (clock.now(), Mutex::default());
    let node = Arc::new(Restarted { node, clock: clock.clone(), up_since, takes, says });
    let builder = Redsync::builder().clock(clock.clone()).restart_guard(true);
    let redsync = builder.node(Arc::clone(&node) as Arc<dyn Node>).build().unwrap();
    (clock, node, redsync)
}

#[tokio::test]
async fn a_vote_is_withheld_up_to_the_last_nanosecond_of_expiry_and_drift() {
    let (clock, _, redsync) = restarted(true);
    clock.advance(EXPIRY + DRIFT - NANOSECOND);

    let error = redsync.mutex("name").try_lock().await.unwrap_err();

    let [NodeError::Withheld { wait, .. }] = error.nodes() else { panic!("{error}") };
    assert_eq!(*wait, Some(NANOSECOND));
}

#[tokio::test]
async fn a_vote_counts_from_the_end_of_expiry_and_drift_on() {
    let (clock, _, redsync) = restarted(true);
    clock.advance(EXPIRY + DRIFT);

    let tried = redsync.mutex("name").try_lock().await;

    assert!(tried.unwrap().expect("it is granted").is_valid());
}

#[tokio::test]
async fn the_wait_is_that_of_the_locks_own_expiry_and_drift() {
    let (clock, _, redsync) = restarted(true);
    clock.advance(SECOND);

    let error = redsync.mutex("name").expiry(10 * SECOND).drift_factor(0.5).try_lock().await.unwrap_err();

    let [NodeError::Withheld { wait, .. }] = error.nodes() else { panic!("{error}") };
    assert_eq!(*wait, Some(10 * SECOND + 5 * SECOND + Duration::from_millis(2) - SECOND));
}

#[tokio::test]
async fn a_vote_does_not_count_for_an_attempt_that_began_before() {
    let (clock, node, redsync) = restarted(true);
    clock.advance(EXPIRY + DRIFT - NANOSECOND);
    *node.takes.lock().unwrap() = Duration::from_millis(20);

    let error = redsync.mutex("name").try_lock().await.unwrap_err();

    assert!(clock.now() > node.up_since + EXPIRY + DRIFT, "answered after the end");
    let [NodeError::Withheld { wait, .. }] = error.nodes() else { panic!("{error}") };
    assert_eq!(*wait, Some(Duration::ZERO));
}

#[tokio::test]
async fn a_node_that_does_not_say_since_when_it_is_up_is_withheld_without_end() {
    let (clock, _, redsync) = restarted(false);
    clock.advance(1_000 * EXPIRY);

    let error = redsync.mutex("name").try_lock().await.unwrap_err();

    let [NodeError::Withheld { wait: None, .. }] = error.nodes() else { panic!("{error}") };
    assert_contains(&error.to_string(), &["does not say since when it is up"]);
}

impl fmt::Display for Restarted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.node.fmt(f)
    }
}

impl Node for Restarted {
    delegate!(node: identity, health_warnings, extend, yield_lease, release, inspect, list, listen);

    fn uptime(&self) -> Answer<'_, Uptime> {
        Box::pin(async move {
            let uptime = self.clock.now().saturating_since(self.up_since);
            Ok(if self.says { Uptime::AtLeast(uptime) } else { Uptime::Unknown })
        })
    }

    fn acquire<'a>(&'a self, claim: &'a Claim) -> Answer<'a, Acquired> {
        Box::pin(async move {
            let acquired = self.node.acquire(claim).await;
            self.clock.advance(*self.takes.lock().unwrap());
            acquired
        })
    }

    fn enter<'a>(&'a self, client: &'a ClientId, places: &'a [Place]) -> Answer<'a, Entered> {
        Box::pin(async move {
            let entered = self.node.enter(client, places).await;
            self.clock.advance(*self.takes.lock().unwrap());
            entered
        })
    }
}
