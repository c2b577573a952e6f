//! Fences where nodes are slow to say what is needed, or silent.

#[path = "support/delegate.rs"]
mod delegate;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use redsync::{
    Answer, Claim, Clock, Expiry, Extended, Fence, IfFree, LockName, MemoryNode, Node, Proposal, Redsync,
    Succession, SystemClock, Token, Uptime,
};

use self::delegate::delegate;

/// A node in whose answers something is wrong.
#[derive(Debug)]
struct Odd {
    node: MemoryNode,
    /// It has to ask before it says since when it is up.
    asks_for_its_uptime: bool,
    never_extends: bool,
}

impl Node for Odd {
    delegate!(node: identity, concerns, acquire, enter, yield_lease, release, inspect, listen);

    fn uptime(&self) -> Answer<'_, Uptime> {
        Box::pin(async move {
            if self.asks_for_its_uptime {
                tokio::task::yield_now().await;
            }
            Ok(Uptime::AtLeast(Duration::from_secs(3_600)))
        })
    }

    fn extend<'a>(&'a self, claim: &'a Claim, if_free: IfFree) -> Answer<'a, Extended> {
        match self.never_extends {
            true => Box::pin(std::future::pending()),
            false => self.node.extend(claim, if_free),
        }
    }
}

impl fmt::Display for Odd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.node.fmt(f)
    }
}

fn over(nodes: &[Arc<Odd>]) -> Redsync {
    let builder = Redsync::builder().restart_guard(true);
    let nodes = nodes.iter().map(|node| Arc::clone(node) as Arc<dyn Node>);
    nodes.fold(builder, |builder, node| builder.node(node)).build().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_have_to_ask_for_their_uptime_hand_over_with_a_fence() {
    let odd = || Arc::new(Odd { node: MemoryNode::new(), asks_for_its_uptime: true, never_extends: false });
    let nodes = [odd(), odd(), odd()];
    let (until, last) = (Instant::now() + Duration::from_secs(2), Arc::new(AtomicUsize::new(0)));
    let callers: Vec<_> = (0..8)
        .map(|_| {
            // Short, since it is for so long that it is tried in vain before anybody hears of it.
            let mutex = over(&nodes).mutex("name").expiry(Duration::from_millis(500)).fenced();
            let last = Arc::clone(&last);
            tokio::spawn(async move {
                while Instant::now() < until {
                    let guard = mutex.lock().await.unwrap_or_else(|error| panic!("{error}"));
                    let mine = usize::try_from(guard.fence().as_u64()).unwrap();
                    assert!(last.swap(mine, Ordering::SeqCst) < mine);
                    guard.unlock().await.unwrap();
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
}

/// Has `node` count up to `ahead` of its clock.
async fn count(node: &Odd, ahead: Duration) {
    let (name, token) = (LockName::new("name").unwrap(), Token::from_text("before").unwrap());
    let fence = SystemClock.wall_micros() + u64::try_from(ahead.as_micros()).unwrap();
    let mut claim = Claim::new(name, token, Expiry::new(Duration::from_secs(8)).unwrap());
    claim.fence = Some(Proposal::new(Fence::new(fence).unwrap(), Duration::from_secs(60)));
    node.acquire(&claim).await.unwrap();
    node.release(&claim.name, &claim.token, Succession::HandOver).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_lowest_counter_is_a_silent_nodes_the_others_agree_without_it() {
    let nodes: Vec<Arc<Odd>> = (0..3)
        .map(|index| {
            Arc::new(Odd { node: MemoryNode::new(), asks_for_its_uptime: false, never_extends: index == 0 })
        })
        .collect();
    count(&nodes[1], Duration::from_millis(500)).await;
    count(&nodes[2], Duration::from_millis(900)).await;
    let began = Instant::now();

    let guard = over(&nodes).mutex("name").fenced().try_lock().await.unwrap().expect("it is free");

    // The silent one's time, 400 ms, is not awaited.
    assert!(began.elapsed() < Duration::from_millis(350), "{:?}", began.elapsed());
    let highest = nodes[2].inspect(guard.name()).await.unwrap().fence;
    assert_eq!(Some(guard.fence()), highest);
}
