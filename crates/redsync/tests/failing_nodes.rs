//! Nodes that are killed, hung or restarted: a minority of them costs nothing, a majority is named with reasons.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use redsync::{Error, FaultKind, NodeError, Operation, Redsync};
use redsync_testkit::{RedisServer, servers, wait_until};
use support::{DEADLINE, assert_contains, connect, connect_to, keys_on, median, timed, wait_until_empty};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};

/// An expiry of 8 s, the default, gives each node a twentieth of it.
const REQUEST_TIMEOUT: Duration = Duration::from_millis(400);

/// What a busy machine may add to a time that is measured.
const SLACK: Duration = Duration::from_millis(1500);

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_is_taken_extended_and_released_with_two_of_five_killed() {
    let servers = servers(5);
    let redsync = connect(&servers).await;
    servers[0].kill();
    servers[3].kill();

    let guard = redsync.mutex("name").lock().await.unwrap();
    guard.extend().await.unwrap();
    guard.unlock().await.unwrap();

    wait_until("the survivors are free", DEADLINE, || {
        [1, 2, 4].iter().all(|&node| servers[node].keys().is_empty())
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_outlives_the_kill_of_two_of_its_five_nodes() {
    let servers = servers(5);
    let redsync = connect(&servers).await;
    let guard = redsync.mutex("name").lock().await.unwrap();

    servers[0].kill();
    servers[1].kill();

    guard.extend().await.unwrap();
    assert!(guard.is_valid());
    guard.unlock().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn three_of_five_killed_are_no_quorum_and_each_is_named_with_its_reason() {
    let servers = servers(5);
    let redsync = connect(&servers).await;
    for server in &servers[..3] {
        server.kill();
    }
    for server in &servers[..3] {
        wait_until_noticed(&redsync, server).await;
    }

    let (took, locked) = timed(redsync.mutex("name").tries(1).lock()).await;

    let error = locked.unwrap_err();
    assert!(took < REQUEST_TIMEOUT + SLACK, "{took:?}");
    let Error::NoQuorum { nodes, total: 5, operation: Operation::Lock, .. } = &error else {
        panic!("{error:?}");
    };
    assert_eq!(nodes.len(), 3, "{error}");
    let message = error.to_string();
    assert_contains(&message, &["no quorum to take lock \"name\": 3 of 5 nodes failed, 3 must answer"]);
    for server in &servers[..3] {
        let reason = format!("{}: cannot connect: connection refused", server.url());
        assert_contains(&message, &[&reason]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_without_quorum_leaves_no_key_on_the_survivors() {
    let servers = servers(5);
    let redsync = connect(&servers).await;
    for server in &servers[..3] {
        server.kill();
    }

    redsync.mutex("name").tries(1).lock().await.unwrap_err();

    wait_until_empty(&servers[3..], DEADLINE);
}

#[tokio::test(flavor = "multi_thread")]
async fn connecting_succeeds_with_a_minority_down() {
    let servers = servers(5);
    servers[1].kill();
    servers[4].kill();

    let redsync = connect(&servers).await;

    let guard = redsync.mutex("name").lock().await.unwrap();
    guard.unlock().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn connecting_fails_with_a_majority_down_and_says_which() {
    let servers = servers(3);
    servers[0].kill();
    servers[1].kill();

    let error = Redsync::connect(servers.iter().map(RedisServer::url)).await.unwrap_err();

    assert!(matches!(error, Error::NoQuorum { operation: Operation::Connect, name: None, .. }), "{error:?}");
    let (first, second) = (servers[0].url(), servers[1].url());
    assert_contains(
        &error.to_string(),
        &["no quorum to connect: 2 of 3", &first, &second, "connection refused"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_whose_nodes_are_killed_says_so_and_stays_valid_until_its_time() {
    let servers = servers(3);
    let redsync = connect(&servers).await;
    let guard = redsync.mutex("name").lock().await.unwrap();
    servers[0].kill();
    servers[1].kill();

    let error = guard.extend().await.unwrap_err();

    assert!(matches!(error, Error::NoQuorum { operation: Operation::Extend, .. }), "{error:?}");
    assert!(guard.is_valid(), "a failed extension takes nothing away");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_that_cannot_be_extended_is_not_expired_whenever_its_nodes_went_down() {
    let servers = servers(3);
    let redsync = connect(&servers).await;
    servers[0].kill();
    wait_until_noticed(&redsync, &servers[0]).await;
    let guard = redsync.mutex("name").fail_fast(false).lock().await.unwrap();
    servers[1].kill();

    let error = guard.extend().await.unwrap_err();

    assert!(guard.is_valid());
    assert!(matches!(error, Error::NoQuorum { .. }), "two of three are down, but: {error}");
}

/// Waits until `redsync` knows that nobody is there: the first to ask only learns that the connection broke.
async fn wait_until_noticed(redsync: &Redsync, server: &RedisServer) {
    let began = Instant::now();
    loop {
        let inspection = redsync.inspect("no matter which").await.unwrap();
        let is_noticed = inspection
            .nodes()
            .iter()
            .any(|report| report.node == server.url() && report.answer.as_ref().is_err_and(is_unreachable));
        if is_noticed {
            return;
        }
        assert!(began.elapsed() < DEADLINE, "the kill was never noticed");
    }
}

fn is_unreachable(error: &NodeError) -> bool {
    matches!(error, NodeError::Failed { source, .. } if source.kind() == FaultKind::Unreachable)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unlock_without_quorum_says_so() {
    let servers = servers(3);
    let redsync = connect(&servers).await;
    let guard = redsync.mutex("name").lock().await.unwrap();
    servers[0].kill();
    servers[1].kill();

    let (took, unlocked) = timed(guard.unlock()).await;

    let error = unlocked.unwrap_err();
    assert!(took < REQUEST_TIMEOUT + SLACK, "{took:?}");
    assert!(matches!(error, Error::NoQuorum { operation: Operation::Unlock, .. }), "{error:?}");
    wait_until_empty(&servers[2..], DEADLINE);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_node_does_not_delay_the_lock() {
    const PAIRS: usize = 300;
    let (healthy, hung) = (servers(3), servers(3));
    let with_healthy = connect(&healthy).await.mutex("name");
    let with_hung = connect(&hung).await.mutex("name");
    let pair = async |mutex: &redsync::Mutex| {
        let (took, ()) = timed(async {
            let guard = mutex.lock().await.unwrap();
            guard.unlock().await.unwrap();
        })
        .await;
        took
    };
    for _ in 0..20 {
        pair(&with_healthy).await;
        pair(&with_hung).await;
    }
    hung[1].pause();

    let (mut healthy_took, mut hung_took) = (Vec::new(), Vec::new());
    for _ in 0..PAIRS {
        // In turn, so that what else this machine does meets both.
        healthy_took.push(pair(&with_healthy).await);
        hung_took.push(pair(&with_hung).await);
    }

    // Once its connection is given up, a hung node may fail fast for a while: half of the pairs do not tell it all.
    let waited = hung_took.iter().filter(|took| **took > REQUEST_TIMEOUT / 2).count();
    let (healthy_took, hung_took) = (median(healthy_took), median(hung_took));
    println!(
        "lock and unlock, p50: healthy {healthy_took:?}, one of three hung {hung_took:?}, {waited} waited"
    );
    assert!(hung_took * 2 <= healthy_took * 3, "healthy {healthy_took:?}, one of three hung {hung_took:?}");
    assert!(waited <= PAIRS / 50, "{waited} of {PAIRS} waited for the hung node");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_just_hung_delays_nothing() {
    let servers = servers(3);
    let redsync = connect(&servers).await;
    // A node may take 2 s to answer for a lease of an hour.
    let mutex = redsync.mutex("name").expiry(Duration::from_secs(3600));
    servers[1].pause();

    let (took, ()) = timed(async {
        let guard = mutex.lock().await.unwrap();
        guard.extend().await.unwrap();
        guard.unlock().await.unwrap();
    })
    .await;

    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_majority_is_named_with_the_time_it_was_given() {
    let servers = servers(3);
    let redsync = connect(&servers).await;
    servers[0].pause();
    servers[2].pause();

    let (took, locked) = timed(redsync.mutex("name").tries(1).lock()).await;

    let error = locked.unwrap_err();
    let Error::NoQuorum { nodes, .. } = &error else {
        panic!("{error:?}");
    };
    let mut silent: Vec<&str> = nodes
        .iter()
        .filter(|node| matches!(node, NodeError::Timeout { after, .. } if *after == REQUEST_TIMEOUT))
        .map(NodeError::node)
        .collect();
    silent.sort_unstable();
    let mut expected = [servers[0].url(), servers[2].url()];
    expected.sort_unstable();
    assert_eq!(silent, expected);
    let said = format!("{} did not answer within 400ms", servers[2].url());
    assert_contains(&error.to_string(), &["no quorum to take lock \"name\"", &said]);
    assert!(took >= REQUEST_TIMEOUT && took < 2 * REQUEST_TIMEOUT + SLACK, "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_given_a_share_of_the_expiry_but_no_less_than_50_ms_and_no_more_than_2_s() {
    let server = RedisServer::start();
    let redsync = connect_to(&server).await;
    server.pause();
    for (expiry, share) in [(1, 50), (4, 200), (3600, 2000)] {
        let mutex = redsync.mutex("name").expiry(Duration::from_secs(expiry)).tries(1);

        let (took, locked) = timed(mutex.lock()).await;

        let share = Duration::from_millis(share);
        let error = locked.unwrap_err();
        assert!(matches!(error.nodes(), [NodeError::Timeout { after, .. }] if *after == share), "{error}");
        assert!(took >= share && took < share + SLACK, "{took:?} for {share:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_hung_majority_holds_is_released_when_it_comes_back() {
    let servers = servers(3);
    let redsync = connect(&servers).await;
    let mutex = redsync.mutex("name").expiry(Duration::from_secs(60)).timeout_factor(0.005);
    let guard = mutex.lock().await.unwrap();
    servers[0].pause();
    servers[1].pause();
    guard.unlock().await.unwrap_err();

    servers[0].resume();
    servers[1].resume();

    // The lease itself would last for a minute.
    wait_until_empty(&servers, DEADLINE);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_server_is_used_again_within_about_a_second() {
    let server = RedisServer::start();
    let redsync = connect_to(&server).await;
    let mutex = redsync.mutex("name");
    server.kill();
    let down = Instant::now();
    // Long enough for the pauses between connects to have grown to their longest.
    while down.elapsed() < Duration::from_secs(2) {
        mutex.try_lock().await.unwrap_err();
        // As often as a caller with the default delay would try at most.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    server.restart();
    let up = Instant::now();
    let guard = loop {
        match mutex.try_lock().await {
            Ok(guard) => break guard,
            // The pause between two tries.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
        assert!(up.elapsed() < DEADLINE, "the server was never used again");
    };

    assert!(up.elapsed() < Duration::from_millis(1500), "{:?}", up.elapsed());
    assert!(guard.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_restarted_between_two_calls_is_used_by_the_second_try_at_the_latest() {
    let server = RedisServer::start();
    let redsync = connect_to(&server).await;
    let mutex = redsync.mutex("name").tries(2);
    mutex.lock().await.unwrap().unlock().await.unwrap();

    server.restart();

    mutex.lock().await.unwrap().unlock().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resumed_server_has_its_vote_again() {
    let servers = servers(3);
    let redsync = connect(&servers).await;
    servers[0].pause();
    // Enough unanswered requests for the connection to be given up.
    let before = redsync.mutex("before").expiry(Duration::from_secs(1)).fail_fast(false);
    for _ in 0..4 {
        before.lock().await.unwrap().unlock().await.unwrap();
    }

    servers[0].resume();

    let resumed = Instant::now();
    loop {
        let guard = redsync.mutex("after").fail_fast(false).lock().await.unwrap();
        let has_voted = servers[0].get("after").is_some();
        guard.unlock().await.unwrap();
        if has_voted {
            break;
        }
        assert!(resumed.elapsed() < DEADLINE, "the server never voted again");
    }
    wait_until("nothing is left", DEADLINE, || keys_on(&servers).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_carries_nothing_any_more_is_replaced() {
    let server = RedisServer::start();
    let passage = Passage::to(&server);
    let redsync = Redsync::connect([&passage.url]).await.unwrap();
    // A request is given up after 50 ms.
    let mutex = redsync.mutex("name").expiry(Duration::from_secs(1));
    mutex.lock().await.unwrap().unlock().await.unwrap();

    passage.mute();

    let muted = Instant::now();
    while mutex.try_lock().await.is_err() {
        assert!(muted.elapsed() < DEADLINE, "the connection is never replaced");
    }
    assert!(muted.elapsed() < Duration::from_secs(3), "{:?}", muted.elapsed());
}

/// A way to a server whose connections can be made to carry nothing more, neither data nor their end, while new ones
/// are as good as ever: what a firewall that forgot a connection does.
struct Passage {
    url: String,
    generation: Arc<AtomicUsize>,
    _directory: TempDir,
}

impl Passage {
    fn to(server: &RedisServer) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let entrance = directory.path().join("passage.sock");
        let exit = server.dir().join("redis.sock");
        let listener = UnixListener::bind(&entrance).unwrap();
        let generation = Arc::new(AtomicUsize::new(0));
        let current = Arc::clone(&generation);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = UnixStream::connect(&exit).await.unwrap();
                let (client, server) = (client.into_split(), server.into_split());
                for (from, to) in [(client.0, server.1), (server.0, client.1)] {
                    let own = current.load(Ordering::SeqCst);
                    tokio::spawn(carry(from, to, own, Arc::clone(&current)));
                }
            }
        });
        Self { url: format!("redis+unix://{}", entrance.display()), generation, _directory: directory }
    }

    /// From now on, the connections there are carry nothing.
    fn mute(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
    }
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, own: usize, current: Arc<AtomicUsize>) {
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let is_muted = current.load(Ordering::SeqCst) != own;
        if !is_muted && to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
