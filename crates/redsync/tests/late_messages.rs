//! Messages that come late, or whose answers never do: nobody loses a lock by them that is held, holds one that is not, or
//! waits for them.

#[path = "support/delegate.rs"]
mod delegate;
#[path = "support/late.rs"]
mod late;
mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use late::{Late, Way, over_nodes, settle, until};
use redsync::{ClientId, Error, Guard, MemoryNode, Mutex, Node, RedisNode, Redsync, SqliteNode, Succession};
use redsync_testkit::{RedisServer, servers, wait_until};
use support::{DEADLINE, assert_contains, cluster, connect, connect_to, over, timed, with_causes};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

const EXPIRY: Duration = Duration::from_millis(1_500);

/// What a hand-over may take on a busy machine: less than any renewal of a place.
const SOON: Duration = Duration::from_secs(1);

/// A node, one who waits through a network that may be slow, and the others, who do not.
fn one_node() -> (Arc<Late>, Redsync, Redsync) {
    let late = Late::new();
    let waiter = over_nodes([Arc::clone(&late) as Arc<dyn Node>]);
    let others = over_nodes([late.punctual()]);
    (late, waiter, others)
}

/// Begins to wait.
fn wait_for(mutex: Mutex) -> JoinHandle<Result<Guard, Error>> {
    tokio::spawn(async move { mutex.lock().await })
}

/// The guard of one who began to wait.
async fn guard_of(wait: JoinHandle<Result<Guard, Error>>) -> Guard {
    timeout(DEADLINE, wait).await.expect("it has its turn").unwrap().unwrap()
}

/// A runtime that can end before the test's does.
fn another_runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("there are threads")
}

/// Ends `runtime`, and returns when it has.
async fn end(runtime: Runtime) {
    tokio::task::spawn_blocking(move || drop(runtime)).await.expect("it ends");
}

#[tokio::test]
async fn a_grant_that_was_held_up_is_not_given_back_while_the_lock_is_held() {
    let (late, waiter, others) = one_node();
    let held = others.mutex("name").lock().await.unwrap();
    let wait = wait_for(waiter.mutex("name").expiry(EXPIRY));
    until("it is in the queue", async || late.waiting("name").await == 1).await;
    late.hold_pushes();
    held.unlock().await.unwrap();
    // By the answer to renewing its place, which is of a later round.
    let guard = guard_of(wait).await;

    assert_eq!(late.deliver_pushes(), 1);
    settle().await;

    assert_eq!(late.released(), []);
    assert!(others.mutex("name").try_lock().await.unwrap().is_none(), "a rival has it, too");
    guard.extend().await.expect("its lease is as it was");
    assert!(guard.is_valid());
}

#[tokio::test]
async fn a_grant_that_was_held_up_is_not_given_back_while_another_goes_on_with_the_token() {
    let (late, waiter, others) = one_node();
    let held = others.mutex("name").lock().await.unwrap();
    let wait = wait_for(waiter.mutex("name").expiry(EXPIRY));
    until("it is in the queue", async || late.waiting("name").await == 1).await;
    late.hold_pushes();
    held.unlock().await.unwrap();
    let lease = guard_of(wait).await.into_lease();
    let adopted = others.mutex("name").adopt(&lease).await.unwrap();

    assert_eq!(late.deliver_pushes(), 1);
    settle().await;

    assert_eq!(late.released(), []);
    assert!(others.mutex("name").try_lock().await.unwrap().is_none(), "a rival has it, too");
    adopted.extend().await.expect("its lease is as it was");
}

#[tokio::test]
async fn who_adopts_a_token_whose_place_was_being_renewed_is_not_valid_for_longer_than_that_lets_the_lease_last()
 {
    let (late, waiter, others) = one_node();
    let held = others.mutex("name").lock().await.unwrap();
    let wait = wait_for(waiter.mutex("name").expiry(Duration::from_secs(1)));
    until("it is in the queue", async || late.waiting("name").await == 1).await;
    late.enters(Way::Slow);
    until("its place is being renewed", async || late.held_back() == 1).await;
    held.unlock().await.unwrap();
    let lease = guard_of(wait).await.into_lease();
    let adopting = others.mutex("name").expiry(Duration::from_secs(60)).renew(false);
    let adopted = adopting.adopt(&lease).await.unwrap();
    assert!(adopted.is_valid());

    late.deliver(false).await;

    let third = others.mutex("name");
    until("the lease is over", async || third.try_lock().await.unwrap().is_some()).await;
    assert!(!adopted.is_valid(), "valid for {:?} more, and others have the lock", adopted.remaining());
}

#[tokio::test]
async fn a_lease_of_three_nodes_is_as_good_for_whoever_adopts_it_as_for_its_first_holder() {
    let nodes = [Late::new(), Late::new(), Late::new()];
    let [first, second] = [0, 1].map(|_| over_nodes(nodes.iter().map(|node| node.punctual())));
    let lease = first.mutex("name").expiry(Duration::from_secs(1)).lock().await.unwrap().into_lease();

    let guard = second.mutex("name").expiry(Duration::from_secs(60)).adopt(&lease).await.unwrap();

    assert!(guard.remaining() > Duration::from_secs(50), "{:?}", guard.remaining());
}

#[tokio::test]
async fn nobody_holds_by_a_token_of_which_a_yield_was_lost() {
    for way in [Way::Cut, Way::Slow] {
        let nodes = [Late::new(), Late::new(), Late::new()];
        let waiter = over_nodes(nodes.iter().map(|node| Arc::clone(node) as Arc<dyn Node>));
        let others = over_nodes(nodes.iter().map(|node| node.punctual()));
        let stranger = over_nodes(nodes[1..].iter().map(|node| node.punctual()));
        let held = stranger.mutex("name").fail_fast(false).lock().await.unwrap();
        nodes[0].yields(way);
        let wait = wait_for(waiter.mutex("name").expiry(EXPIRY));
        // It has one lease of three.
        until("it yields", async || !nodes[0].yielded().is_empty()).await;
        let lost = nodes[0].yielded()[0].claim.token.clone();
        nodes[0].yields(Way::Open);

        nodes[2].go_down();
        held.unlock().await.unwrap();

        let guard = guard_of(wait).await;
        assert_ne!(*guard.token(), lost, "{way:?}");
        let has_asked = nodes[0].entered().iter().any(|place| place.claim.token == *guard.token());
        assert!(has_asked, "{way:?}: it asked for a place for its other token");
        // Only a yield that was slow is ever applied.
        nodes[0].deliver(true).await;
        settle().await;
        guard.extend().await.unwrap();
        assert!(others.mutex("name").try_lock().await.unwrap().is_none(), "{way:?}: a rival has it, too");
    }
}

#[tokio::test]
async fn who_has_too_few_leases_yields_them_long_before_its_place_is_renewed() {
    let nodes = [Late::new(), Late::new(), Late::new()];
    let waiter = over_nodes(nodes.iter().map(|node| Arc::clone(node) as Arc<dyn Node>));
    let others = over_nodes(nodes.iter().map(|node| node.punctual()));
    let held = others.mutex("name").fail_fast(false).lock().await.unwrap();
    // Places are renewed every twenty seconds.
    let _wait = wait_for(waiter.mutex("name").expiry(Duration::from_secs(60)));
    for node in &nodes {
        until("it is in the queue", async || node.waiting("name").await == 1).await;
    }
    settle().await;

    nodes[0].punctual().release(held.name(), held.token(), Succession::HandOver).await.unwrap();

    let yields = until("it yields", async || !nodes[0].yielded().is_empty());
    timeout(SOON, yields).await.expect("it yields soon");
}

#[tokio::test]
async fn nobody_holds_before_it_is_known_what_has_become_of_a_yield() {
    let nodes = [Late::new(), Late::new(), Late::new()];
    let waiter = over_nodes(nodes.iter().map(|node| Arc::clone(node) as Arc<dyn Node>));
    let stranger = over_nodes(nodes[1..].iter().map(|node| node.punctual()));
    let held = stranger.mutex("name").fail_fast(false).lock().await.unwrap();
    nodes[0].yields(Way::Slow);
    // A request may take two seconds then, before it is given up.
    let wait = wait_for(waiter.mutex("name").expiry(Duration::from_secs(40)));
    until("it yields", async || !nodes[0].yielded().is_empty()).await;

    held.unlock().await.unwrap();
    for node in &nodes[1..] {
        until("it has the lease", async || node.waiting("name").await == 0 && node.is_held("name").await)
            .await;
    }
    settle().await;
    assert!(!wait.is_finished(), "one yield is under way, and could be handed on unseen");

    nodes[0].deliver(true).await;
    let guard = guard_of(wait).await;
    assert_eq!(*guard.token(), nodes[0].yielded()[0].claim.token, "it is the same token's");
    assert!(guard.is_valid());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_yield_whose_runtime_stands_still_keeps_nobody_waiting_for_an_expiry() {
    let expiry = Duration::from_secs(6);
    let nodes = [Late::new(), Late::new(), Late::new()];
    let waiter = over_nodes(nodes.iter().map(|node| Arc::clone(node) as Arc<dyn Node>));
    let others = over_nodes(nodes.iter().map(|node| node.punctual()));
    let held = others.mutex("name").fail_fast(false).lock().await.unwrap();
    // Whoever waits first has the places renewed where it lives.
    let (stand_still, stands_still) = oneshot::channel::<()>();
    let (mutex, begun) = (waiter.mutex("name").expiry(expiry), Arc::new(Notify::new()));
    let (here, has_begun) = (Arc::clone(&begun), begun.notified());
    let node = Arc::clone(&nodes[0]);
    let living = std::thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build().expect("there are threads");
        runtime.block_on(async move {
            let first = wait_for(mutex);
            until("the first is in the queue", async || node.waiting("name").await == 1).await;
            first.abort();
            here.notify_one();
            let _ = stands_still.await;
        });
        runtime
    });
    has_begun.await;
    nodes[0].yields(Way::Slow);
    until("the first has left", async || nodes[0].waiting("name").await == 0).await;
    let wait = wait_for(waiter.mutex("name").expiry(expiry));
    until("it is in the queue", async || nodes[0].waiting("name").await == 1).await;
    nodes[0].punctual().release(held.name(), held.token(), Succession::HandOver).await.unwrap();
    until("it yields", async || !nodes[0].yielded().is_empty()).await;

    // It stands still from here on, and nobody sees to what becomes of the yield.
    stand_still.send(()).unwrap();
    let still = tokio::task::spawn_blocking(|| living.join().unwrap()).await.unwrap();
    held.unlock().await.unwrap();

    let (took, guard) = timed(guard_of(wait)).await;
    assert!(took < expiry - Duration::from_secs(1), "{took:?}");
    assert_ne!(*guard.token(), nodes[0].yielded()[0].claim.token, "that one is spoilt");
    guard.unlock().await.unwrap();
    end(still).await;
}

#[tokio::test]
async fn what_a_renewal_brings_that_its_release_overtook_is_released_soon() {
    for (is_answered, is_free) in [(false, false), (false, true), (true, false), (true, true)] {
        let case = format!("answered: {is_answered}, free: {is_free}");
        let (late, waiter, others) = one_node();
        let mut held = Some(others.mutex("name").lock().await.unwrap());
        let wait = wait_for(waiter.mutex("name").expiry(Duration::from_secs(60)));
        until("it is in the queue", async || late.waiting("name").await == 1).await;
        settle().await;
        late.enters(Way::Slow);
        late.interrupt();
        until("its place is being renewed", async || late.held_back() == 1).await;
        wait.abort();
        until("it has left", async || late.waiting("name").await == 0).await;
        settle().await;
        if is_free {
            held.take().unwrap().unlock().await.unwrap();
        }

        late.deliver(is_answered).await;
        let (took, ()) = timed(until("nothing of it is left", async || {
            late.waiting("name").await == 0 && late.is_held("name").await == held.is_some()
        }))
        .await;

        println!("{case}: gone after {took:?}");
        assert!(late.released().len() >= 2, "{case}: it came after the first release");
        assert!(held.is_none_or(|held| held.is_valid()), "{case}");
    }
}

#[tokio::test]
async fn a_lease_that_comes_while_it_is_being_given_back_is_given_back_once() {
    let (_ends, last) = lease_that_comes_while_it_is_being_given_back().await;
    let token = last.released()[0].clone();
    settle().await;

    assert_eq!(last.released(), [token], "it is given back already");
    assert!(last.is_held("name").await, "that is on its way");
    last.releases(Way::Open);
    last.deliver_releases();
    until("it is free", async || !last.is_held("name").await).await;
}

#[tokio::test]
async fn a_lease_that_comes_while_it_is_being_given_back_in_vain_is_given_back_again() {
    let (_ends, last) = lease_that_comes_while_it_is_being_given_back().await;

    last.lose_releases();
    last.releases(Way::Open);

    until("it is free", async || !last.is_held("name").await).await;
}

/// The last of three nodes, which told of its lease when a release of that was on its way there; and the two ends that
/// hold and wait.
async fn lease_that_comes_while_it_is_being_given_back() -> ([Redsync; 2], Arc<Late>) {
    let nodes = [Late::new(), Late::new(), Late::new()];
    let waiter = over_nodes(nodes.iter().map(|node| Arc::clone(node) as Arc<dyn Node>));
    let others = over_nodes(nodes.iter().map(|node| node.punctual()));
    let held = others.mutex("name").lock().await.unwrap();
    // Its leases outlast the test.
    let wait = wait_for(waiter.mutex("name").expiry(DEADLINE * 2));
    for node in &nodes {
        until("it is in the queue", async || node.waiting("name").await == 1).await;
    }
    let [.., last] = nodes;
    last.hold_pushes();
    held.unlock().await.unwrap();
    let guard = guard_of(wait).await;
    let token = guard.token().clone();
    last.releases(Way::Slow);
    guard.unlock().await.expect("two of three had it");
    until("it is being given back", async || last.released() == [token.clone()]).await;
    assert_eq!(last.deliver_pushes(), 1);
    ([waiter, others], last)
}

#[tokio::test]
async fn a_request_that_was_unanswered_when_its_runtime_ended_keeps_nobody_waiting() {
    let (late, waiter, others) = one_node();
    let held = others.mutex("name").lock().await.unwrap();
    // Whoever waits first has the places of all renewed in its runtime.
    let runtime = another_runtime();
    let mutex = waiter.mutex("name").expiry(EXPIRY);
    let first = mutex.clone();
    runtime.spawn(async move { first.lock().await });
    until("the first is in the queue", async || late.waiting("name").await == 1).await;
    let first = late.entered()[0].claim.token.clone();
    let wait = wait_for(mutex);
    until("the second is in the queue", async || late.waiting("name").await == 2).await;
    late.enters(Way::Slow);
    until("places are being renewed", async || late.held_back() > 0).await;

    end(runtime).await;
    late.enters(Way::Open);

    let before = late.entered().len();
    until("the second's place is renewed", async || {
        late.entered()[before..].iter().any(|place| place.claim.token != first)
    })
    .await;
    let released = Instant::now();
    held.unlock().await.unwrap();
    let guard = guard_of(wait).await;
    assert!(guard.is_valid());
    assert!(released.elapsed() < EXPIRY, "{:?}", released.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_has_its_turn_when_the_runtime_ends_that_the_connection_lives_in() {
    let server = RedisServer::start();
    let holder = connect_to(&server).await;
    let held = holder.mutex("name").lock().await.unwrap();
    let runtime = another_runtime();
    let waiter = over([server.url()]);
    let connecting = waiter.clone();
    runtime.spawn(async move { connecting.check_nodes().await }).await.unwrap().unwrap();
    let wait = wait_for(waiter.mutex("name").expiry(Duration::from_secs(9)));
    wait_until("it is in the queue", DEADLINE, || server.waiting("name") == 1);

    end(runtime).await;

    let (took, guard) = timed(async {
        held.unlock().await.unwrap();
        guard_of(wait).await
    })
    .await;
    println!("it had the lock after {took:?}");
    assert!(guard.is_valid());
    assert!(took < SOON, "it had the lock after {took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_in_queue_looks_often_whether_a_strangers_key_is_gone() {
    for nodes in [1, 3] {
        let servers = servers(nodes);
        servers.iter().for_each(|server| server.set("name", "a stranger", Some(60_000)));
        let wait = wait_for(connect(&servers).await.mutex("name"));
        wait_until("it is in the queue", DEADLINE, || {
            servers.iter().all(|server| server.waiting("name") == 1)
        });
        // Past whatever follows from the first answers.
        tokio::time::sleep(Duration::from_millis(300)).await;

        let (took, guard) = timed(async {
            servers.iter().for_each(|server| _ = server.command(&["DEL", "name"]));
            guard_of(wait).await
        })
        .await;

        println!("{nodes} nodes: it had the lock after {took:?}");
        assert!(guard.is_valid());
        assert!(took <= Duration::from_millis(400), "{nodes} nodes: it had the lock after {took:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_refuses_names_that_no_hash_tag_fits_and_says_what_to_do() {
    let server = cluster();
    for name in ["job:{}", "a}b"] {
        // One that knows its server, and one that has yet to connect.
        for redsync in [connect_to(&server).await, over([server.url()])] {
            let error = redsync.mutex(name).try_lock().await.unwrap_err();

            assert_contains(&with_causes(&error), &["hash tag", name]);
            assert_eq!(server.keys(), Vec::<String>::new());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn asking_for_no_place_at_all_is_an_error() {
    let server = RedisServer::start();
    let directory = tempfile::tempdir().unwrap();
    let nodes: [Arc<dyn Node>; 3] = [
        Arc::new(MemoryNode::new()),
        Arc::new(RedisNode::open(&server.url()).unwrap()),
        Arc::new(SqliteNode::new(directory.path().join("locks"))),
    ];
    for node in nodes {
        let asked = timeout(DEADLINE, node.enter(&ClientId::random(), &[])).await.expect("it answers");
        assert!(asked.is_err(), "{node}: {asked:?}");
    }
}
