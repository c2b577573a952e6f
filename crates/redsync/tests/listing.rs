//! Which locks are held: by majority, whatever a minority says, does or hides; and taking one away from its holder.

#[path = "support/delegate.rs"]
mod delegate;
mod support;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use delegate::delegate;
use redsync::{
    Acquired, Answer, Claim, ErrorKind, Extended, Fence, Holder, IfFree, Listed, LockName, LockState,
    MemoryNode, Node, NodeError, NodeFault, Page, Redsync, Search, TimeLeft, Token,
};
use redsync_testkit::{RedisServer, servers};
use tokio::time::timeout;

use self::support::{DEADLINE, connect, over};

#[tokio::test(flavor = "multi_thread")]
async fn held_locks_are_listed_in_the_order_of_their_names() {
    let servers = servers(3);
    let redsync = connect(&servers).await;
    let mut guards = Vec::new();
    for name in ["orders:2", "orders:1", "report"] {
        guards.push(redsync.mutex(name).owner("web-1").fenced().lock().await.unwrap());
    }
    let waiter = {
        let mutex = redsync.mutex("orders:1");
        tokio::spawn(async move { mutex.lock().await })
    };
    while redsync.inspect("orders:1").await.unwrap().waiting() == 0 {
        tokio::task::yield_now().await;
    }

    let listing = redsync.list(&Search::matching("orders:*").unwrap()).await.unwrap();

    let found: Vec<_> = listing
        .held()
        .map(|(lock, holder)| (lock.name.as_str(), holder.owner(), lock.waiting, lock.fence))
        .collect();
    let expected = [
        ("orders:1", Some("web-1"), 1, Some(guards[1].fence())),
        ("orders:2", Some("web-1"), 0, Some(guards[0].fence())),
    ];
    assert_eq!(found, expected);
    assert!(listing.failures.is_empty() && !listing.is_cut);
    waiter.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_minority_that_hangs_or_is_down_hides_nothing() {
    let servers = servers(3);
    let redsync = connect(&servers).await;
    let guard = redsync.mutex("name").lock().await.unwrap();
    servers[0].pause();

    let listing = redsync.list(&Search::everything()).await.unwrap();

    assert_eq!(listing.held().map(|(lock, _)| &lock.name).collect::<Vec<_>>(), [guard.name()]);
    let [error] = listing.failures.as_slice() else { panic!("{listing:?}") };
    assert!(
        matches!(error, NodeError::Timeout { .. }) && error.node().contains(&servers[0].address()),
        "{error}"
    );
    servers[0].resume();
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_majority_answers_no_lock_is_known_to_be_held() {
    let servers = servers(3);
    let redsync = connect(&servers).await;
    let _guard = redsync.mutex("name").lock().await.unwrap();
    servers[0].kill();
    servers[1].kill();

    let listing = redsync.list(&Search::everything()).await.unwrap();

    assert_eq!((listing.held().count(), listing.failures.len()), (0, 2), "{listing:?}");
    assert_eq!(listing.locks[0].state, LockState::Unknown);
}

/// A node whose passes are slow: what it lists is what was so before.
#[derive(Debug)]
struct Behind {
    node: MemoryNode,
    lists: Listed,
    fails_to_count: AtomicBool,
}

impl Node for Behind {
    delegate!(node: identity, uptime, health_warnings, enter, yield_lease, release, inspect, listen);

    fn acquire<'a>(&'a self, claim: &'a Claim) -> Answer<'a, Acquired> {
        self.node.acquire(claim)
    }

    fn extend<'a>(&'a self, claim: &'a Claim, if_free: IfFree) -> Answer<'a, Extended> {
        match self.fails_to_count.load(Ordering::SeqCst) && claim.fence.is_some() {
            true => Box::pin(async { Err(NodeFault::refused("FENCE", "the counter is no number")) }),
            false => self.node.extend(claim, if_free),
        }
    }

    fn list<'a>(&'a self, _: &'a Search, _: &'a str) -> Answer<'a, Page> {
        Box::pin(async { Ok(Page::new(vec![self.lists.clone()], None)) })
    }
}

impl fmt::Display for Behind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.node.fmt(f)
    }
}

/// Each lists a former holder of its own.
fn behind() -> (Redsync, Vec<Arc<Behind>>) {
    let nodes: Vec<Arc<Behind>> = ["ann", "bob", "cem"]
        .map(|former| {
            let holder = Holder::new(former, TimeLeft::For(Duration::from_secs(5)));
            let lists = Listed::new(LockName::new("name").unwrap(), holder, 0);
            Arc::new(Behind { node: MemoryNode::new(), lists, fails_to_count: AtomicBool::new(false) })
        })
        .into();
    let redsync = Redsync::new(nodes.iter().map(|node| Arc::clone(node) as Arc<dyn Node>)).unwrap();
    (redsync, nodes)
}

#[tokio::test]
async fn a_lock_that_changed_hands_during_the_passes_is_looked_at_again() {
    let (redsync, _) = behind();
    let guard = redsync.mutex("name").lock().await.unwrap();

    let listing = redsync.list(&Search::everything()).await.unwrap();

    let held: Vec<_> = listing.held().map(|(_, holder)| holder.token().to_owned()).collect();
    assert_eq!(held, [guard.token().as_str()]);
}

#[tokio::test]
async fn a_lock_that_was_released_during_the_passes_is_not_listed() {
    let (redsync, _) = behind();
    let listing = redsync.list(&Search::everything()).await.unwrap();
    assert!(listing.locks.is_empty(), "{listing:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_only_use_some_keys_lists_those_by_a_pattern() {
    // With the rules of docs/operating.md for locks, and what it says that listing needs besides.
    let (_, page) =
        include_str!("../../../docs/operating.md").split_once("ACL SETUSER redsync on >PASSWORD").unwrap();
    let rules = page.split_once("```").unwrap().0.split_whitespace().collect::<Vec<_>>().join(" ");
    let rules = format!("{rules} +scan +getrange +exists");
    let server = RedisServer::builder().user("redsync", "secret", &rules).start();
    let redsync = over([format!("redis://redsync:secret@{}", server.address())]);
    server.set("session", "user=42", Some(60_000));
    let guard = redsync.mutex("lock:a").lock().await.unwrap();

    let listing = redsync.list(&Search::matching("lock:*").unwrap()).await.unwrap();
    assert_eq!(listing.held().map(|(lock, _)| &lock.name).collect::<Vec<_>>(), [guard.name()]);
    let refused = redsync.list(&Search::everything()).await.unwrap();
    assert!(refused.failures[0].to_string().contains("permission"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_whose_lock_is_taken_away_is_lost_by_its_next_renewal() {
    let servers = servers(3);
    let (redsync, operator) = (connect(&servers).await, connect(&servers).await);
    let expiry = Duration::from_secs(6);
    let guard = redsync.mutex("name").expiry(expiry).fenced().lock().await.unwrap();
    let holder = operator.inspect("name").await.unwrap().holder().unwrap();
    assert_eq!(holder.renews(), Some(true));
    assert!(holder.since().is_some());

    let stale_below = operator.mutex("name").force_unlock(&holder).await.unwrap().unwrap();

    assert_eq!(stale_below, Fence::new(guard.fence().as_u64() + 1).unwrap());
    let looked = operator.inspect("name").await.unwrap();
    assert!(looked.holder().is_none());
    let counters: Vec<_> = looked.nodes().iter().map(|node| node.fence).collect();
    assert_eq!(counters, [Some(stale_below); 3]);
    let next = operator.mutex("name").fenced().lock().await.unwrap();
    assert!(next.fence() > stale_below, "{} after {stale_below}", next.fence());
    let lost = timeout(expiry / 3 + Duration::from_secs(2), guard.lost()).await;
    assert!(lost.is_ok(), "it is lost with its next renewal, long before its expiry");
    next.unlock().await.unwrap();
}

#[tokio::test]
async fn a_lock_is_taken_away_from_the_holder_that_was_shown_and_nobody_else() {
    let redsync = Redsync::connect(["memory:"]).await.unwrap();
    let mutex = redsync.mutex("name");
    let former = mutex.lock().await.unwrap();
    let shown = redsync.inspect("name").await.unwrap().holder().unwrap();
    former.unlock().await.unwrap();
    assert_eq!(mutex.force_unlock(&shown).await.unwrap_err().kind(), ErrorKind::AlreadyExpired);

    let guard = mutex.fenced().lock().await.unwrap();
    let fence = redsync.inspect("name").await.unwrap().nodes()[0].fence;
    assert_eq!(redsync.mutex("name").force_unlock(&shown).await.unwrap_err().kind(), ErrorKind::Taken);
    let looked = redsync.inspect("name").await.unwrap();
    assert_eq!((looked.holder().unwrap().token(), looked.nodes()[0].fence), (guard.token().as_str(), fence));
    guard.unlock().await.unwrap();
}

#[tokio::test]
async fn nodes_that_cannot_count_do_not_keep_the_lock_with_its_holder() {
    let (redsync, nodes) = behind();
    let guard = redsync.mutex("name").fenced().lock().await.unwrap();
    nodes.iter().for_each(|node| node.fails_to_count.store(true, Ordering::SeqCst));
    let holder = redsync.inspect("name").await.unwrap().holder().unwrap();
    redsync.mutex("name").force_unlock(&holder).await.unwrap();
    assert!(redsync.inspect("name").await.unwrap().holder().is_none());
    timeout(DEADLINE, guard.lost()).await.expect("it is lost with its next renewal");
}

#[tokio::test]
async fn a_token_that_was_misread_is_not_released() {
    let redsync = Redsync::connect(["memory:"]).await.unwrap();
    for token in ["t".repeat(Token::MAX_BYTES + 1), "\u{fffd}".into(), String::new()] {
        let holder = Holder::new(token, TimeLeft::Forever);
        let error = redsync.mutex("name").force_unlock(&holder).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    }
}
