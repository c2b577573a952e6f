//! The rules that the design marks SAFETY, one by one, on nodes whose timing is scripted to the nanosecond.
//!
//! Each test goes red when its rule is broken; which one, `docs/safety.md` lists.

#[path = "support/delegate.rs"]
mod delegate;

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use delegate::delegate;
use redsync::{
    Acquired, Answer, Claim, ClientId, Clock, DrivenClock, Entered, ErrorKind, Extended, Guard, Holder,
    IfFree, LockName, Look, MemoryNode, Node, NodeError, NodeFault, Place, Redsync, Released, Succession,
    SystemClock, Token, Uptime,
};

const MILLIS: Duration = Duration::from_millis(1);
const EXPIRY: Duration = Duration::from_secs(8);
const DRIFT: Duration = Duration::from_millis(82);

/// A memory node whose requests take their time, on a clock that this test drives: `going` until the node applies one,
/// and `coming` until the answer is back.
#[derive(Debug)]
struct Timed {
    node: MemoryNode,
    clock: DrivenClock,
    script: Mutex<Script>,
    uptime: Mutex<Uptime>,
    extensions: AtomicUsize,
    releases: AtomicUsize,
    tokens: Mutex<Vec<String>>,
    /// Acquisitions pass one at a time through here before they are applied.
    gate: tokio::sync::Semaphore,
}

#[derive(Clone, Copy, Debug, Default)]
struct Script {
    going: Duration,
    coming: Duration,
    fails: bool,
    hangs: bool,
}

impl Timed {
    fn new(clock: &DrivenClock) -> Arc<Self> {
        Arc::new(Self {
            node: MemoryNode::with_clock(clock.clone()),
            clock: clock.clone(),
            script: Mutex::default(),
            uptime: Mutex::new(Uptime::Unbroken),
            extensions: AtomicUsize::new(0),
            releases: AtomicUsize::new(0),
            tokens: Mutex::default(),
            gate: tokio::sync::Semaphore::new(1_000),
        })
    }

    fn script(&self, script: Script) {
        *self.script.lock().unwrap() = script;
    }

    fn around<'a, T: Send + 'a>(&'a self, request: Answer<'a, T>) -> Answer<'a, T> {
        Box::pin(async move {
            let script = *self.script.lock().unwrap();
            self.clock.advance(script.going);
            if script.hangs {
                std::future::pending::<()>().await;
            }
            if script.fails {
                return Err(NodeFault::disconnected("the script says so"));
            }
            let answer = request.await;
            self.clock.advance(script.coming);
            answer
        })
    }

    fn lease_is_held(&self) -> bool {
        self.node_holder().is_some()
    }

    fn node_holder(&self) -> Option<Holder> {
        let name = LockName::new("name").unwrap();
        let looking = async { self.node.inspect(&name).await };
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(looking).unwrap().holder
    }
}

impl fmt::Display for Timed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.node.fmt(f)
    }
}

impl Node for Timed {
    delegate!(node: identity, health_warnings, inspect, list, listen);

    fn uptime(&self) -> Answer<'_, Uptime> {
        Box::pin(std::future::ready(Ok(*self.uptime.lock().unwrap())))
    }

    fn acquire<'a>(&'a self, claim: &'a Claim) -> Answer<'a, Acquired> {
        self.tokens.lock().unwrap().push(claim.token.to_string());
        Box::pin(async move {
            self.gate.acquire().await.unwrap().forget();
            self.around(self.node.acquire(claim)).await
        })
    }

    fn extend<'a>(&'a self, claim: &'a Claim, if_free: IfFree) -> Answer<'a, Extended> {
        self.extensions.fetch_add(1, Ordering::SeqCst);
        self.around(self.node.extend(claim, if_free))
    }

    fn enter<'a>(&'a self, client: &'a ClientId, places: &'a [Place]) -> Answer<'a, Entered> {
        self.tokens.lock().unwrap().extend(places.iter().map(|place| place.claim.token.to_string()));
        Box::pin(async move {
            self.gate.acquire().await.unwrap().forget();
            self.around(self.node.enter(client, places)).await
        })
    }

    fn yield_lease<'a>(&'a self, client: &'a ClientId, place: &'a Place) -> Answer<'a, Entered> {
        self.around(self.node.yield_lease(client, place))
    }

    fn release<'a>(
        &'a self,
        name: &'a LockName,
        token: &'a Token,
        succession: Succession,
    ) -> Answer<'a, Released> {
        self.releases.fetch_add(1, Ordering::SeqCst);
        self.around(self.node.release(name, token, succession))
    }
}

fn over(nodes: usize) -> (DrivenClock, Vec<Arc<Timed>>, Redsync) {
    let clock = DrivenClock::new();
    clock.advance(1000 * MILLIS);
    let nodes: Vec<Arc<Timed>> = (0..nodes).map(|_| Timed::new(&clock)).collect();
    let builder = Redsync::builder().clock(clock.clone());
    let builder = nodes.iter().fold(builder, |builder, node| builder.node(Arc::clone(node) as Arc<dyn Node>));
    (clock, nodes, builder.build().unwrap())
}

/// Has the runtime finish what runs in the background without time going on.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

// Design §3.

#[test]
fn the_clock_counts_suspended_time() {
    // A time namespace shifts the boot time clock and leaves the monotonic one as it is: to this process the machine
    // looks as if it had been suspended for a day.
    const INSIDE: &str = "REDSYNC_TEST_INSIDE_TIME_NAMESPACE";
    const DAY: u64 = 86_400;
    let now = SystemClock.now().as_nanos() / 1_000_000_000;
    if let Ok(outside) = std::env::var(INSIDE) {
        let outside: u64 = outside.parse().unwrap();
        assert!(
            now >= outside + DAY,
            "{now} s inside, {outside} s outside: the suspended day is not counted"
        );
        return;
    }
    let test = std::env::current_exe().unwrap();
    let run = std::process::Command::new("unshare")
        .args(["--user", "--map-root-user", "--time", "--boottime", &DAY.to_string()])
        .arg(test)
        .args(["--exact", "the_clock_counts_suspended_time"])
        .env(INSIDE, now.to_string())
        .output();
    let output = run.expect("unshare(1) runs; install it with: apt-get install util-linux");
    let error = String::from_utf8_lossy(&output.stderr);
    if error.contains("unshare") && !output.status.success() {
        // Not everybody may make namespaces, and the rule's own unit test has run in any case.
        eprintln!("a suspended day could not be staged here: {error}");
        return;
    }
    assert!(output.status.success(), "{}{error}", String::from_utf8_lossy(&output.stdout));
}

#[tokio::test]
async fn validity_is_counted_from_before_the_first_byte_however_long_the_answer_takes() {
    let (clock, nodes, redsync) = over(1);
    let sent = clock.now();
    nodes[0].script(Script { going: 30 * MILLIS, coming: 50 * MILLIS, ..Script::default() });

    let guard = redsync.mutex("name").lock().await.unwrap();

    assert_eq!(clock.now(), sent + 80 * MILLIS);
    assert_eq!(guard.valid_until(), sent + EXPIRY - DRIFT);

    let sent = clock.now();
    guard.extend().await.unwrap();
    assert_eq!(guard.valid_until(), sent + EXPIRY - DRIFT, "extending is counted from before it too");
}

#[tokio::test]
async fn a_majority_that_granted_too_late_is_no_lock_and_is_given_back() {
    let (_, nodes, redsync) = over(1);
    let mutex = redsync.mutex("name").expiry(100 * MILLIS).tries(1);
    nodes[0].script(Script { going: Duration::ZERO, coming: 98 * MILLIS, ..Script::default() });

    let error = mutex.lock().await.unwrap_err();

    assert_eq!(error.kind(), ErrorKind::ValidityExhausted);
    assert!(error.to_string().contains("granted too late"), "{error}");
}

// Design §4.

#[tokio::test]
async fn one_lease_too_few_is_no_lock() {
    for (nodes_in_all, blocked) in [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3)] {
        let (_, nodes, redsync) = over(nodes_in_all);
        for node in &nodes[..blocked] {
            node.script(Script { fails: true, ..Script::default() });
        }
        assert!(redsync.mutex("name").try_lock().await.is_err(), "{blocked} of {nodes_in_all} failed");
    }
}

#[tokio::test]
async fn valid_until_is_the_end_of_the_lease_that_makes_the_majority() {
    let (clock, nodes, redsync) = over(3);
    let guard = redsync.mutex("name").lock().await.unwrap();
    let first = guard.valid_until();

    // Extended on one node only: two of three leases end when they did.
    clock.advance(1000 * MILLIS);
    nodes[0].script(Script { fails: true, ..Script::default() });
    nodes[1].script(Script { fails: true, ..Script::default() });
    assert_eq!(guard.extend().await.unwrap_err().kind(), ErrorKind::NoQuorum);
    settle().await;
    assert_eq!(guard.valid_until(), first);

    // On one more: now two of three last longer.
    nodes[1].script(Script::default());
    guard.extend().await.unwrap();
    assert_eq!(guard.valid_until(), clock.now() + EXPIRY - DRIFT);
}

#[tokio::test]
async fn a_node_that_said_taken_is_never_sent_a_release() {
    let (_, nodes, redsync) = over(3);
    let stranger = Redsync::new([Arc::new(nodes[0].node.clone()) as Arc<dyn Node>]).unwrap();
    let lease = stranger.mutex("name").lock().await.unwrap().into_lease();

    let guard = redsync.mutex("name").lock().await.unwrap();
    settle().await;
    guard.unlock().await.unwrap();
    settle().await;

    let releases: Vec<usize> = nodes.iter().map(|node| node.releases.load(Ordering::SeqCst)).collect();
    assert_eq!(releases, [0, 1, 1]);
    stranger.mutex("name").release(&lease).await.expect("the stranger's lease is as it was");
}

#[tokio::test]
async fn a_node_that_said_released_is_not_asked_again() {
    let (clock, nodes, redsync) = over(3);
    let guard = redsync.mutex("name").lock().await.unwrap();
    settle().await;

    guard.unlock().await.unwrap();

    for _ in 0..20 {
        clock.advance(100 * MILLIS);
        settle().await;
    }
    let releases: Vec<usize> = nodes.iter().map(|node| node.releases.load(Ordering::SeqCst)).collect();
    assert_eq!(releases, [1, 1, 1]);
}

#[tokio::test]
async fn a_refused_attempt_is_undone_wherever_it_was_granted() {
    let (_, nodes, redsync) = over(3);
    for node in &nodes[..2] {
        let stranger = Redsync::new([Arc::new(node.node.clone()) as Arc<dyn Node>]).unwrap();
        let _lease = stranger.mutex("name").lock().await.unwrap().into_lease();
    }

    assert!(redsync.mutex("name").try_lock().await.unwrap().is_none());
    settle().await;

    let node = Arc::clone(&nodes[2]);
    let held = std::thread::spawn(move || node.lease_is_held()).join().unwrap();
    assert!(!held, "the third node's lease was left behind");
}

#[tokio::test]
async fn what_is_granted_after_the_release_is_released_at_once() {
    let (clock, nodes, redsync) = over(3);
    let slow = &nodes[2];
    slow.gate.forget_permits(1_000);
    let guard = redsync.mutex("name").lock().await.unwrap();
    guard.unlock().await.unwrap();
    clock.advance(5 * MILLIS);
    settle().await;
    assert_eq!(slow.releases.load(Ordering::SeqCst), 1, "it was asked, and had nothing yet");

    slow.gate.add_permits(1);
    settle().await;

    let node = Arc::clone(slow);
    let held = std::thread::spawn(move || node.lease_is_held()).join().unwrap();
    assert!(!held, "the late lease was left behind");
}

#[tokio::test]
async fn a_failed_extension_releases_nothing() {
    let (_, nodes, redsync) = over(3);
    let guard = redsync.mutex("name").lock().await.unwrap();
    for node in &nodes[..2] {
        node.script(Script { fails: true, ..Script::default() });
    }

    assert_eq!(guard.extend().await.unwrap_err().kind(), ErrorKind::NoQuorum);
    settle().await;

    assert!(guard.is_valid());
    assert!(nodes.iter().all(|node| node.releases.load(Ordering::SeqCst) == 0));
    for node in &nodes[..2] {
        node.script(Script::default());
    }
    guard.extend().await.expect("trying again works");
}

#[tokio::test]
async fn every_try_draws_a_token_of_its_own() {
    let (clock, nodes, redsync) = over(1);
    let held = redsync.mutex("name").lock().await.unwrap();
    let rival = redsync.mutex("name").tries(3);
    let trying = tokio::spawn(async move { rival.lock().await });
    while !trying.is_finished() {
        settle().await;
        clock.advance(300 * MILLIS);
    }

    assert!(trying.await.unwrap().is_err());
    let mut tokens = nodes[0].tokens.lock().unwrap().clone();
    assert_eq!(tokens.len(), 4);
    tokens.sort_unstable();
    tokens.dedup();
    assert_eq!(tokens.len(), 4, "a token was used twice");
    drop(held);
}

// Design §9.

#[tokio::test]
async fn an_extension_that_is_answered_after_the_guards_time_does_not_revive_it() {
    let (clock, nodes, redsync) = over(1);
    let guard = redsync.mutex("name").lock().await.unwrap();
    clock.advance(EXPIRY - DRIFT - MILLIS);
    // Sent while valid and granted by the node; back when the time is over.
    nodes[0].script(Script { going: Duration::ZERO, coming: 2 * MILLIS, ..Script::default() });

    assert_eq!(guard.extend().await.unwrap_err().kind(), ErrorKind::Lost);

    assert!(!guard.is_valid());
    assert_eq!(guard.remaining(), Duration::ZERO);
}

#[tokio::test]
async fn a_loss_is_fired_by_the_clock_though_no_node_answers() {
    let (clock, nodes, redsync) = over(3);
    let guard = redsync.mutex("name").lock().await.unwrap();
    nodes.iter().for_each(|node| node.script(Script { hangs: true, ..Script::default() }));
    let lost = tokio::spawn(guard.lost());
    // In steps, so that renewals are begun and hang meanwhile.
    while guard.remaining() > MILLIS {
        clock.advance(MILLIS * 100.min(guard.remaining().as_millis().saturating_sub(1).max(1) as u32));
        settle().await;
    }
    assert!(!lost.is_finished(), "it is fired early");
    assert!(nodes.iter().all(|node| node.extensions.load(Ordering::SeqCst) > 1), "renewal was tried");

    clock.advance(guard.remaining());
    settle().await;

    assert!(lost.is_finished(), "it is fired late");
    assert!(!guard.is_valid());
}

#[tokio::test]
async fn what_is_lost_stays_lost_when_the_nodes_answer_again() {
    let (clock, nodes, redsync) = over(3);
    let guard = redsync.mutex("name").lock().await.unwrap();
    nodes.iter().for_each(|node| node.script(Script { fails: true, ..Script::default() }));
    clock.advance(EXPIRY - DRIFT);
    settle().await;
    nodes.iter().for_each(|node| node.script(Script::default()));
    let asked: Vec<usize> = nodes.iter().map(|node| node.extensions.load(Ordering::SeqCst)).collect();

    assert_eq!(guard.extend().await.unwrap_err().kind(), ErrorKind::Lost);
    clock.advance(EXPIRY);
    settle().await;

    assert!(!guard.is_valid());
    let asked_since: Vec<usize> = nodes.iter().map(|node| node.extensions.load(Ordering::SeqCst)).collect();
    assert_eq!(asked, asked_since, "no node was asked");
}

#[tokio::test]
async fn a_guard_that_stood_still_for_too_long_is_not_renewed() {
    let (clock, nodes, redsync) = over(3);
    let guard = redsync.mutex("name").lock().await.unwrap();
    // Renewal and loss come due at once, as after a suspend.
    clock.advance(EXPIRY - DRIFT);
    settle().await;

    assert!(nodes.iter().all(|node| node.extensions.load(Ordering::SeqCst) == 0));
    assert!(!guard.is_valid());
}

#[tokio::test]
async fn work_is_not_polled_once_the_time_is_over() {
    let (clock, _, redsync) = over(1);
    let guard = redsync.mutex("name").renew(false).lock().await.unwrap();
    let polls = Arc::new(AtomicUsize::new(0));
    let ours = Arc::clone(&polls);
    let work = std::future::poll_fn(move |_| {
        ours.fetch_add(1, Ordering::SeqCst);
        std::task::Poll::<()>::Pending
    });
    let mut running = std::pin::pin!(guard.run(work));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(running.as_mut().poll(&mut context).is_pending());
    assert_eq!(polls.load(Ordering::SeqCst), 1);

    clock.advance(EXPIRY);

    let ended = running.as_mut().poll(&mut context);
    assert!(matches!(ended, std::task::Poll::Ready(Err(_))), "{ended:?}");
    assert_eq!(polls.load(Ordering::SeqCst), 1, "a line of it ran after the lock's time");
}

#[tokio::test]
async fn work_that_ends_after_the_locks_time_does_not_count_as_done() {
    let (clock, _, redsync) = over(1);
    let guard = redsync.mutex("name").renew(false).lock().await.unwrap();

    // Without an await, nothing can interrupt it; what it says at its end is too late.
    let done = guard.run(async { clock.advance(EXPIRY) }).await;

    assert!(done.is_err());
}

#[tokio::test]
async fn a_majority_that_lost_its_leases_is_a_lost_lock_though_the_leases_are_free() {
    let (_, nodes, redsync) = over(3);
    let guard = redsync.mutex("name").fail_fast(false).lock().await.unwrap();
    for node in &nodes[..2] {
        node.node.release(guard.name(), guard.token(), Succession::HandOver).await.unwrap();
    }

    assert_eq!(guard.extend().await.unwrap_err().kind(), ErrorKind::AlreadyExpired);
    settle().await;

    assert!(!guard.is_valid());
    for node in &nodes[..2] {
        assert_eq!(node.node.inspect(guard.name()).await.unwrap().holder, None, "it was taken again");
    }
}

#[tokio::test]
async fn a_lease_is_taken_again_where_a_majority_still_stands() {
    let (_, nodes, redsync) = over(3);
    let guard = redsync.mutex("name").fail_fast(false).lock().await.unwrap();
    nodes[2].node.release(guard.name(), guard.token(), Succession::HandOver).await.unwrap();

    guard.extend().await.unwrap();
    settle().await;

    assert!(nodes[2].node.inspect(guard.name()).await.unwrap().holder.is_some());
}

#[tokio::test]
async fn a_loss_that_nothing_has_told_before_the_unlock_is_told_once() {
    assert_eq!(losses_told(async |guard| _ = guard.unlock().await.unwrap_err()).await, 1);
}

#[tokio::test]
async fn a_loss_that_nothing_has_told_before_the_drop_is_told_once() {
    assert_eq!(losses_told(async |guard| drop(guard)).await, 1);
}

/// How often `on_lost` is called for a guard whose time passes while nothing runs, and that `ends` then.
async fn losses_told(ends: impl AsyncFnOnce(Guard)) -> usize {
    let (clock, _, redsync) = over(1);
    let told = Arc::new(AtomicUsize::new(0));
    let ours = Arc::clone(&told);
    let mutex = redsync.mutex("name").on_lost(move |_| _ = ours.fetch_add(1, Ordering::SeqCst));
    let guard = mutex.lock().await.unwrap();
    settle().await;

    clock.advance(EXPIRY);
    ends(guard).await;

    settle().await;
    told.load(Ordering::SeqCst)
}

#[tokio::test]
async fn unlocking_what_was_lost_while_nothing_ran_says_so() {
    let (clock, _, redsync) = over(1);
    let guard = redsync.mutex("name").lock().await.unwrap();
    clock.advance(EXPIRY);
    assert_eq!(guard.unlock().await.unwrap_err().kind(), ErrorKind::Lost);
}

#[tokio::test]
async fn what_was_handed_on_in_time_was_released_however_late_its_signal_is_looked_at() {
    let (clock, _, redsync) = over(1);
    let guard = redsync.mutex("name").lock().await.unwrap();
    let signal = guard.lost();
    let _lease = guard.into_lease();

    clock.advance(EXPIRY);

    assert!(signal.await.was_released());
}

#[tokio::test]
async fn a_lock_that_is_granted_after_a_shutdown_is_none_and_is_given_back() {
    let (_, nodes, redsync) = over(1);
    nodes[0].gate.forget_permits(1_000);
    let mutex = redsync.mutex("name");
    let locking = tokio::spawn(async move { mutex.lock().await });
    settle().await;

    redsync.shutdown().await;
    nodes[0].gate.add_permits(1);
    let locked = locking.await.unwrap();
    settle().await;

    assert_eq!(locked.unwrap_err().kind(), ErrorKind::ShutDown);
    let name = LockName::new("name").unwrap();
    assert_eq!(nodes[0].node.inspect(&name).await.unwrap(), Look::default(), "it was left behind");
}

// Design §11.

/// Three nodes, of which two have been up for `uptime`, and a redsync that withholds votes.
fn restarted(uptime: Uptime) -> (DrivenClock, Vec<Arc<Timed>>, Redsync) {
    let (clock, nodes, redsync) = over(3);
    nodes[..2].iter().for_each(|node| *node.uptime.lock().unwrap() = uptime);
    (clock, nodes, redsync)
}

#[tokio::test]
async fn a_restarted_node_votes_from_the_expiry_and_drift_on_and_not_before() {
    let (_, _, redsync) = restarted(Uptime::AtLeast(EXPIRY + DRIFT - Duration::from_nanos(1)));
    let error = redsync.mutex("name").try_lock().await.unwrap_err();
    let withheld = |error: &&NodeError| matches!(error, NodeError::Withheld { .. });
    assert_eq!(error.nodes().iter().filter(withheld).count(), 2, "{error}");

    let (_, _, redsync) = restarted(Uptime::AtLeast(EXPIRY + DRIFT));
    assert!(redsync.mutex("name").try_lock().await.unwrap().is_some());
}

#[tokio::test]
async fn a_node_that_does_not_say_its_uptime_does_not_vote() {
    let (_, _, redsync) = restarted(Uptime::Unknown);
    assert!(redsync.mutex("name").try_lock().await.is_err());
    assert!(redsync.mutex("name").restart_guard(false).try_lock().await.unwrap().is_some());
}

#[tokio::test]
async fn an_attempt_that_began_before_the_end_of_the_quarantine_does_not_count_the_vote() {
    // When the answer is there, the quarantine is over; when the attempt began, it was not.
    let (_, nodes, redsync) = restarted(Uptime::AtLeast(EXPIRY + DRIFT));
    nodes.iter().for_each(|node| node.script(Script { coming: MILLIS, ..Script::default() }));

    assert!(redsync.mutex("name").try_lock().await.is_err());
}

#[tokio::test]
async fn what_a_withheld_vote_granted_is_given_back() {
    let (_, nodes, redsync) = restarted(Uptime::AtLeast(Duration::ZERO));

    redsync.mutex("name").try_lock().await.unwrap_err();
    settle().await;

    for node in &nodes {
        assert_eq!(node.node.inspect(&LockName::new("name").unwrap()).await.unwrap(), Look::default());
    }
}

#[tokio::test]
async fn a_valid_guard_is_extended_on_restarted_nodes() {
    let (_, nodes, redsync) = over(3);
    let guard = redsync.mutex("name").lock().await.unwrap();
    nodes.iter().for_each(|node| *node.uptime.lock().unwrap() = Uptime::AtLeast(Duration::ZERO));

    guard.extend().await.expect("its leases stand");
}

#[tokio::test]
async fn waiting_for_nodes_that_never_get_older_ends_with_the_tries() {
    let (clock, nodes, redsync) = over(3);
    nodes.iter().for_each(|node| *node.uptime.lock().unwrap() = Uptime::AtLeast(Duration::ZERO));
    let mutex = redsync.mutex("name").tries(2);
    let locking = tokio::spawn(async move { mutex.lock().await });

    for _ in 0..10 {
        settle().await;
        clock.advance(2 * EXPIRY);
    }

    assert!(locking.is_finished(), "it waits for ever");
    let error = locking.await.unwrap().unwrap_err();
    assert!(matches!(error.nodes(), [NodeError::Withheld { .. }, ..]), "{error}");
}
