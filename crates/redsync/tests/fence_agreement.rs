//! Fences where nodes are slow to say what is needed, or silent.

#[path = "support/delegate.rs"]
mod delegate;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use redsync::{
    Acquired, Answer, Claim, ClientId, Clock, Entered, Expiry, Extended, Fence, IfFree, LockName, MemoryNode,
    Node, Place, Proposal, Redsync, Released, Succession, SystemClock, Token, Uptime,
};

use self::delegate::delegate;

/// A node in whose answers something is wrong.
#[derive(Debug)]
struct Odd {
    node: MemoryNode,
    /// It has to ask before it says since when it is up.
    asks_for_its_uptime: bool,
    never_extends: AtomicBool,
    /// How many times it was asked to.
    extensions: AtomicUsize,
    never_releases: AtomicBool,
    /// How long it takes to acquire, to extend, and to enter, in milliseconds.
    takes: [AtomicU64; 3],
}

impl Odd {
    fn new(asks_for_its_uptime: bool, never_extends: bool) -> Arc<Self> {
        Arc::new(Self {
            node: MemoryNode::new(),
            asks_for_its_uptime,
            never_extends: AtomicBool::new(never_extends),
            extensions: AtomicUsize::new(0),
            never_releases: AtomicBool::new(false),
            takes: Default::default(),
        })
    }

    async fn pause(&self, of: usize) {
        let millis = self.takes[of].load(Ordering::SeqCst);
        if millis > 0 {
            tokio::time::sleep(Duration::from_millis(millis)).await;
        }
    }
}

impl Node for Odd {
    delegate!(node: identity, health_warnings, yield_lease, inspect, list, listen);

    fn uptime(&self) -> Answer<'_, Uptime> {
        Box::pin(async move {
            if self.asks_for_its_uptime {
                tokio::task::yield_now().await;
            }
            Ok(Uptime::AtLeast(Duration::from_secs(3_600)))
        })
    }

    fn extend<'a>(&'a self, claim: &'a Claim, if_free: IfFree) -> Answer<'a, Extended> {
        self.extensions.fetch_add(1, Ordering::SeqCst);
        match self.never_extends.load(Ordering::SeqCst) {
            true => Box::pin(std::future::pending()),
            false => Box::pin(async move {
                self.pause(1).await;
                self.node.extend(claim, if_free).await
            }),
        }
    }

    fn acquire<'a>(&'a self, claim: &'a Claim) -> Answer<'a, Acquired> {
        Box::pin(async move {
            self.pause(0).await;
            self.node.acquire(claim).await
        })
    }

    fn enter<'a>(&'a self, client: &'a ClientId, places: &'a [Place]) -> Answer<'a, Entered> {
        Box::pin(async move {
            self.pause(2).await;
            self.node.enter(client, places).await
        })
    }

    fn release<'a>(
        &'a self,
        name: &'a LockName,
        token: &'a Token,
        succession: Succession,
    ) -> Answer<'a, Released> {
        match self.never_releases.load(Ordering::SeqCst) {
            true => Box::pin(std::future::pending()),
            false => self.node.release(name, token, succession),
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
    let nodes = [0; 3].map(|_| Odd::new(true, false));
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
    let nodes = [true, false, false].map(|is_silent| Odd::new(false, is_silent));
    count(&nodes[1], Duration::from_millis(500)).await;
    count(&nodes[2], Duration::from_millis(900)).await;
    let began = Instant::now();

    let guard = over(&nodes).mutex("name").fenced().try_lock().await.unwrap().expect("it is free");

    // The silent one's time, 400 ms, is not awaited.
    assert!(began.elapsed() < Duration::from_millis(350), "{:?}", began.elapsed());
    let highest = nodes[2].inspect(guard.name()).await.unwrap().fence;
    assert_eq!(Some(guard.fence()), highest);
}

/// Three nodes that counted differently; of these, two do not answer when they are to agree.
async fn that_cannot_agree() -> [Arc<Odd>; 3] {
    let nodes = [true, true, false].map(|is_silent| Odd::new(false, is_silent));
    count(&nodes[1], Duration::from_millis(500)).await;
    count(&nodes[2], Duration::from_millis(900)).await;
    nodes
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_cannot_agree_keep_nobody_for_longer_than_it_would_wait() {
    // Each node may take two seconds for each answer.
    let mutex = |nodes: &[Arc<Odd>]| over(nodes).mutex("name").expiry(Duration::from_secs(60)).fenced();
    let (ends, most) = (Duration::from_millis(300), Duration::from_millis(1_500));

    for polling in [true, false] {
        let nodes = that_cannot_agree().await;
        // Nor do they answer when what they granted is given back.
        nodes[..2].iter().for_each(|node| node.never_releases.store(true, Ordering::SeqCst));
        let mutex = mutex(&nodes).wait_up_to(ends);
        let mutex = if polling { mutex.retry_delay(Duration::from_millis(10)) } else { mutex };
        let began = Instant::now();

        let error = mutex.lock().await.unwrap_err();

        assert!(began.elapsed() >= ends, "polling: {polling}, {:?}: {error}", began.elapsed());
        assert!(began.elapsed() < most, "polling: {polling}, {:?}: {error}", began.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_could_not_agree_before_a_long_wait_begins_anew_after_it() {
    let nodes = that_cannot_agree().await;
    let until_asked = async |more: usize| {
        let least = nodes[0].extensions.load(Ordering::SeqCst) + more;
        while nodes[0].extensions.load(Ordering::SeqCst) < least {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let mutex = over(&nodes).mutex("name").expiry(Duration::from_millis(600)).fenced();
    let caller = tokio::spawn(async move { mutex.lock().await });
    until_asked(1).await;
    let holder = over(&nodes).mutex("name").lock().await.unwrap();
    // Longer than the caller would go on trying.
    tokio::time::sleep(Duration::from_millis(1_500)).await;

    holder.unlock().await.unwrap();

    // It could not agree for a second time, and has a third.
    until_asked(2).await;
    for node in &nodes {
        node.never_extends.store(false, Ordering::SeqCst);
    }
    let _guard = caller.await.unwrap().unwrap_or_else(|error| panic!("{error}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_is_adopted_though_others_were_counted_since() {
    let node = Odd::new(false, false);
    let mutex = over(std::slice::from_ref(&node)).mutex("name").fenced();
    let guard = mutex.lock().await.unwrap();
    let (fence, lease) = (guard.fence(), guard.into_lease());
    // The node loses the lease, another is granted one and gives it back, and the first is taken again.
    node.release(lease.name(), lease.token(), Succession::HandOver).await.unwrap();
    count(&node, Duration::from_millis(1)).await;
    let expiry = Expiry::new(Duration::from_secs(8)).unwrap();
    let again = Claim::new(lease.name().clone(), lease.token().clone(), expiry);
    node.acquire(&again).await.unwrap();
    assert!(node.inspect(lease.name()).await.unwrap().fence > Some(fence));

    let adopted = mutex.adopt(&lease).await.unwrap();

    assert_eq!(adopted.fence(), fence);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_far_ahead_takes_nobody_along_where_another_is_only_slow() {
    // Slow to grant the lock, to be raised, or to give a place to one who asks for that since others waited a moment ago.
    for slow in [0, 1, 2] {
        let nodes = [0; 3].map(|_| Odd::new(false, false));
        count(&nodes[1], Duration::from_millis(500)).await;
        raise(&nodes[2], Fence::MAX.as_u64() - 1).await;
        let redsync = over(&nodes);
        if slow == 2 {
            let held = redsync.mutex("name").lock().await.unwrap();
            let second = redsync.mutex("name");
            let waits = tokio::spawn(async move { second.lock().await.unwrap().unlock().await });
            while nodes[0].inspect(held.name()).await.unwrap().waiting == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            held.unlock().await.unwrap();
            waits.await.unwrap().unwrap();
        }
        nodes[0].takes[slow].store(60, Ordering::SeqCst);
        let (mutex, began) = (redsync.mutex("name").fenced(), Instant::now());

        let guard = mutex.lock().await.unwrap();

        let ahead = guard.fence().as_u64().saturating_sub(SystemClock.wall_micros());
        assert!(ahead < 2_000_000, "slow {slow}: the fence is {ahead} us ahead");
        assert!(began.elapsed() < Duration::from_millis(350), "slow {slow}: {:?}", began.elapsed());
        guard.unlock().await.unwrap();
        let _guard = mutex.lock().await.unwrap_or_else(|error| panic!("slow {slow}: {error}"));
    }
}

/// Has `node` count up to `fence`, which no clock allows.
async fn raise(node: &Odd, fence: u64) {
    let (name, token) = (LockName::new("name").unwrap(), Token::from_text("before").unwrap());
    let mut claim = Claim::new(name, token, Expiry::new(Duration::from_secs(8)).unwrap());
    claim.fence = Some(Proposal::new(Fence::MIN, Duration::from_secs(60)));
    node.acquire(&claim).await.unwrap();
    claim.fence = Some(Proposal::new(Fence::new(fence).unwrap(), Duration::from_secs(60)));
    node.extend(&claim, IfFree::Leave).await.unwrap();
    node.release(&claim.name, &claim.token, Succession::HandOver).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_hangs_when_a_place_is_left_keeps_nobody_for_longer_than_it_would_wait() {
    let nodes = [0; 3].map(|_| Odd::new(false, false));
    let expiry = Duration::from_secs(60);
    let _held = over(&nodes).mutex("name").expiry(expiry).lock().await.unwrap();
    nodes[0].never_releases.store(true, Ordering::SeqCst);
    let began = Instant::now();

    let waiting = over(&nodes).mutex("name").expiry(expiry).wait_up_to(Duration::from_millis(300));
    waiting.lock().await.unwrap_err();

    // It may take two seconds to answer.
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}
