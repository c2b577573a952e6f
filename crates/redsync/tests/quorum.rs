//! A majority decides, whichever nodes it is made of, and strangers' keys are left as they are.
//!
//! Each claim is held against every mask of blocked nodes for one to five nodes. A node is blocked when a stranger's
//! key lies under the lock's name.

#[path = "support/delegate.rs"]
mod delegate;
mod support;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use delegate::delegate;
use redsync::{
    Acquired, Answer, Claim, Error, Guard, LockOptions, Mutex, Node, NodeError, RedisNode, Redsync,
};
use redsync_testkit::{RedisServer, servers, wait_until};
use support::{DEADLINE, connect, keys_on, timed};
use tokio::sync::Barrier;

const STRANGER: &str = "a-stranger";
const STRANGERS_MILLIS: u64 = 600_000;

/// Some of `servers`' first `nodes` are blocked under a name of this arrangement's own.
struct Arrangement<'a> {
    servers: &'a [RedisServer],
    blocked: Vec<usize>,
    name: String,
    mutex: Mutex,
}

impl Arrangement<'_> {
    fn is_majority_free(&self) -> bool {
        self.servers.len() - self.blocked.len() > self.servers.len() / 2
    }

    fn strangers_keys(&self) -> Vec<(usize, String)> {
        self.blocked.iter().map(|&node| (node, self.name.clone())).collect()
    }
}

impl fmt::Display for Arrangement<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} nodes, blocked: {:?}", self.servers.len(), self.blocked)
    }
}

/// Holds `claim` against every mask of blocked nodes for one to five nodes; it gets what `try_lock` came to.
async fn for_every_mask(claim: impl AsyncFn(&Arrangement<'_>, Result<Guard, Error>)) {
    let servers = servers(5);
    for nodes in 1..=5 {
        let servers = &servers[..nodes];
        let redsync = connect(servers).await;
        for mask in 0..1_u32 << nodes {
            servers.iter().for_each(RedisServer::flushall);
            let blocked: Vec<usize> = (0..nodes).filter(|node| mask & (1 << node) != 0).collect();
            let name = format!("{nodes} nodes, mask {mask:b}");
            for &node in &blocked {
                servers[node].set(&name, STRANGER, Some(STRANGERS_MILLIS));
            }
            // Every node is heard, so that the error can name every one that is blocked.
            let mutex = redsync.mutex(&name).tries(1).fail_fast(false);
            let arrangement = Arrangement { servers, blocked, name, mutex };
            let locked = arrangement.mutex.lock().await;
            claim(&arrangement, locked).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_is_acquired_exactly_if_a_majority_is_free() {
    for_every_mask(async |arrangement, locked| {
        assert_eq!(locked.is_ok(), arrangement.is_majority_free(), "{arrangement}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn try_lock_succeeds_exactly_if_a_majority_is_free() {
    for_every_mask(async |arrangement, locked| {
        if let Ok(guard) = locked {
            guard.unlock().await.unwrap();
        }
        let tried = arrangement.mutex.try_lock().await.unwrap();
        assert_eq!(tried.is_some(), arrangement.is_majority_free(), "{arrangement}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_attempt_leaves_no_key_of_its_own() {
    for_every_mask(async |arrangement, locked| {
        if locked.is_err() {
            let left = keys_on(arrangement.servers);
            assert_eq!(left, arrangement.strangers_keys(), "{arrangement}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_has_a_key_on_every_free_node() {
    for_every_mask(async |arrangement, locked| {
        if let Ok(guard) = locked {
            for (node, server) in arrangement.servers.iter().enumerate() {
                let expected =
                    if arrangement.blocked.contains(&node) { STRANGER } else { guard.token().as_str() };
                let value = server.get(&arrangement.name);
                assert_eq!(value.as_deref(), Some(expected), "{arrangement}");
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unlock_leaves_only_the_strangers_keys() {
    for_every_mask(async |arrangement, locked| {
        if let Ok(guard) = locked {
            guard.unlock().await.unwrap();
            let left = keys_on(arrangement.servers);
            assert_eq!(left, arrangement.strangers_keys(), "{arrangement}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_error_names_exactly_the_blocked_nodes() {
    for_every_mask(async |arrangement, locked| {
        if let Err(error) = locked {
            let Error::Taken { nodes, name, .. } = &error else {
                panic!("{arrangement}: {error}");
            };
            assert_eq!(name.as_str(), arrangement.name);
            let mut named: Vec<&str> = nodes.iter().map(NodeError::node).collect();
            let mut expected: Vec<String> =
                arrangement.blocked.iter().map(|&node| arrangement.servers[node].url()).collect();
            named.sort_unstable();
            expected.sort_unstable();
            assert_eq!(named, expected, "{arrangement}");
            for node in nodes {
                assert!(
                    matches!(node, NodeError::Taken { holder, .. } if holder.token() == STRANGER),
                    "{arrangement}: {node:?}"
                );
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_keys_keep_their_value_and_their_time() {
    /// What the reading of two servers' times may differ by.
    const SLACK: i64 = 50;
    for_every_mask(async |arrangement, locked| {
        drop(locked);
        let times = || -> Vec<i64> {
            let blocked = arrangement.blocked.iter();
            blocked.map(|&node| arrangement.servers[node].pttl(&arrangement.name)).collect()
        };
        let (began, before) = (Instant::now(), times());

        if let Some(guard) = arrangement.mutex.try_lock().await.unwrap() {
            let _ = guard.extend().await;
            guard.unlock().await.unwrap();
        }

        let after = times();
        let elapsed = i64::try_from(began.elapsed().as_millis()).unwrap();
        for (before, after) in before.into_iter().zip(after) {
            assert!(after <= before, "{arrangement}: {before} ms became {after} ms");
            assert!(
                after >= before - elapsed - SLACK,
                "{arrangement}: {before} ms became {after} ms in {elapsed} ms"
            );
        }
        for &node in &arrangement.blocked {
            let value = arrangement.servers[node].get(&arrangement.name);
            assert_eq!(value.as_deref(), Some(STRANGER), "{arrangement}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strangers_key_without_expiry_stays_without() {
    let servers = servers(3);
    let redsync = connect(&servers).await;
    servers[1].set("name", STRANGER, None);

    let guard = redsync.mutex("name").lock().await.unwrap();
    guard.extend().await.unwrap();
    guard.unlock().await.unwrap();

    assert_eq!(servers[1].pttl("name"), -1);
    assert_eq!(servers[1].get("name").as_deref(), Some(STRANGER));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_even_split_of_two_nodes_is_taken_at_once() {
    let servers = servers(2);
    let redsync = connect(&servers).await;
    servers[1].set("name", STRANGER, Some(STRANGERS_MILLIS));

    let (took, locked) = timed(redsync.mutex("name").tries(1).lock()).await;

    let error = locked.unwrap_err();
    assert!(matches!(error, Error::Taken { .. }), "{error}");
    // Far below the 8 s of a lease, far above what two answers take.
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rivals_who_hold_one_of_two_nodes_each_both_give_way() {
    let servers = servers(2);
    let (first, second) = (&servers[0], &servers[1]);
    let both = Arc::new(Barrier::new(2));
    let over = |nodes: [Arc<dyn Node>; 2]| {
        let builder = Redsync::builder().restart_guard(false);
        nodes.into_iter().fold(builder, redsync::Builder::node).build().unwrap()
    };
    let ann = over([free_for_all(first), after_the_rival(second, &both)]);
    let bob = over([after_the_rival(first, &both), free_for_all(second)]);
    let (ann, bob) = (ann.mutex("name"), bob.mutex("name"));

    let (took, (ann, bob)) = timed(async { tokio::join!(ann.try_lock(), bob.try_lock()) }).await;

    assert!(ann.unwrap().is_none() && bob.unwrap().is_none());
    assert!(took < Duration::from_secs(2), "{took:?}");
    wait_until("both have given back what they had", DEADLINE, || keys_on(&servers).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn rivals_for_two_nodes_get_in_one_after_the_other_whether_they_wait_or_poll() {
    let servers = servers(2);
    let (ann, bob) = (connect(&servers).await, connect(&servers).await);
    for round in 0..20 {
        let name = format!("round {round}");
        let turn = async |redsync: &Redsync| {
            let mutex = redsync.mutex(&name);
            let mutex = if round % 2 == 0 { mutex } else { mutex.tries(LockOptions::DEFAULT_TRIES) };
            mutex.lock().await.unwrap().unlock().await.unwrap();
        };

        let (took, _) = timed(async { tokio::join!(turn(&ann), turn(&bob)) }).await;

        assert!(took < DEADLINE, "round {round} took {took:?}");
    }
    assert_eq!(keys_on(&servers), []);
}

fn free_for_all(server: &RedisServer) -> Arc<dyn Node> {
    Arc::new(RedisNode::open(&server.url()).unwrap())
}

fn after_the_rival(server: &RedisServer, both_are_refused: &Arc<Barrier>) -> Arc<dyn Node> {
    let node = RedisNode::open(&server.url()).unwrap();
    Arc::new(AfterTheRival { node, both_are_refused: Arc::clone(both_are_refused) })
}

/// A node that a rival is the first to ask, and which answers when the rival has got its refusal elsewhere too.
#[derive(Debug)]
struct AfterTheRival {
    node: RedisNode,
    both_are_refused: Arc<Barrier>,
}

impl Node for AfterTheRival {
    delegate!(node: identity, uptime, health_warnings, extend, enter, yield_lease, release, inspect, list, listen);

    fn acquire<'a>(&'a self, claim: &'a Claim) -> Answer<'a, Acquired> {
        Box::pin(async move {
            loop {
                if let Some(rival) = self.node.inspect(&claim.name).await?.holder {
                    // Until both have met their rival, neither may give way.
                    self.both_are_refused.wait().await;
                    return Ok(Acquired::Taken(rival));
                }
            }
        })
    }
}

impl fmt::Display for AfterTheRival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.node.fmt(f)
    }
}
