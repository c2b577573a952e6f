//! Connections that break in all the ways there are: they are replaced soon, by one at a time, and nobody waits for them
//! longer than for an answer.

#[path = "support/route.rs"]
mod route;
mod support;

use std::fs;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use redsync::{Error, FaultKind, NodeError, Redsync};
use redsync_testkit::{RedisServer, wait_until};
use route::Route;
use rustix::net::{getpeername, sockopt};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use support::{DEADLINE, connect_to, timed};

/// An expiry of 8 s, the default, gives each node a twentieth of it.
const REQUEST_DEADLINE: Duration = Duration::from_millis(400);

/// What a busy machine may add to a time that is measured; less than one more request would take.
const TOLERANCE: Duration = Duration::from_millis(300);

/// What a caller takes at most that does not wait for an answer: it hopes for some 30 ms, and machines are busy.
const FAST: Duration = Duration::from_millis(100);

/// How soon a server that is back is used again.
const RECOVERY: Duration = Duration::from_secs(1);

/// While connecting is silent, it is begun anew this often at most.
const DIAL_INTERVAL: Duration = Duration::from_millis(500);

/// The pause between two tries of a caller that waits: the least of the default delay.
const PAUSE: Duration = Duration::from_millis(50);

/// Asks once, and says how long that took and what came of it. A lock that was free is released in the background.
async fn ask(redsync: &Redsync) -> (Duration, Result<(), Error>) {
    let (took, locked) = timed(redsync.mutex("name").try_lock()).await;
    (took, locked.map(drop))
}

/// Asks for `time`, as a caller that waits does.
async fn ask_for(redsync: &Redsync, time: Duration) {
    let began = Instant::now();
    while began.elapsed() < time {
        let _ = ask(redsync).await;
        tokio::time::sleep(PAUSE).await;
    }
}

/// Asks as a caller that waits does, until there is an answer, and says how long that took.
async fn time_until_answered(redsync: &Redsync) -> Duration {
    let began = Instant::now();
    while ask(redsync).await.1.is_err() {
        assert!(began.elapsed() < DEADLINE, "the server is never used again");
        tokio::time::sleep(PAUSE).await;
    }
    began.elapsed()
}

/// Asks until it is known that no connection can be made.
async fn wait_until_known(redsync: &Redsync) {
    let began = Instant::now();
    while !ask(redsync).await.1.is_err_and(|error| is_unreachable(&error)) {
        assert!(began.elapsed() < DEADLINE, "it is never known that the server is down");
    }
}

fn is_unreachable(error: &Error) -> bool {
    let unreachable = |node: &NodeError| matches!(node, NodeError::Failed { source, .. } if source.kind() == FaultKind::Unreachable);
    error.nodes().iter().all(unreachable)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_open_connection_costs_two_requests() {
    let route = Route::open().await;
    route.proxy.half_open();

    let (took, third) = timed(async {
        let _ = ask(&route.redsync).await;
        let _ = ask(&route.redsync).await;
        ask(&route.redsync).await.1
    })
    .await;

    println!("a half-open connection cost {took:?}");
    third.expect("the third request has a new connection");
    assert!(took < 2 * REQUEST_DEADLINE + TOLERANCE, "{took:?}");
}

/// How long callers that ask one after the other take until the connection that was broken is made anew. The best of three: what else this machine does can only make it longer.
async fn time_until_replaced(break_it: fn(&Route)) -> Duration {
    let mut best = Duration::MAX;
    for _ in 0..3 {
        let route = Route::open().await;
        break_it(&route);
        let (before, began) = (route.proxy.connections(), Instant::now());
        let redsync = route.redsync.clone();
        let asking = tokio::spawn(async move { ask_for(&redsync, DEADLINE).await });
        wait_until("the connection is replaced", DEADLINE, || route.proxy.connections() > before);
        asking.abort();
        best = best.min(began.elapsed());
    }
    best
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_swallows_replies_is_replaced_within_two_request_deadlines() {
    let took = time_until_replaced(|route| route.proxy.drop_replies()).await;

    println!("a connection that swallows replies was replaced after {took:?}");
    assert!(took < 2 * REQUEST_DEADLINE + TOLERANCE, "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_swallows_requests_is_replaced_within_two_request_deadlines() {
    let took = time_until_replaced(|route| route.proxy.drop_requests()).await;

    println!("a connection that swallows requests was replaced after {took:?}");
    assert!(took < 2 * REQUEST_DEADLINE + TOLERANCE, "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_whose_end_is_told_late_costs_one_request() {
    let route = Route::open().await;
    route.proxy.slow_close(REQUEST_DEADLINE / 2);
    route.server.command(&["CLIENT", "KILL", "TYPE", "normal"]);

    let (took, first) = ask(&route.redsync).await;
    let (_, second) = ask(&route.redsync).await;

    println!("the request that met the late end took {took:?}: {first:?}");
    second.expect("it is known by now that the connection has ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_connection_is_told_to_those_who_wait_on_it() {
    let route = Route::open().await;
    route.proxy.slow_close(REQUEST_DEADLINE / 4);
    route.server.command(&["CLIENT", "KILL", "TYPE", "normal"]);

    let (took, asked) = ask(&route.redsync).await;

    asked.expect_err("the server did not get it");
    assert!(took < REQUEST_DEADLINE, "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_broken_try_may_have_left_is_looked_after_until_its_expiry_and_no_longer() {
    // Pauses between requests are doubled: the last one would go on for 1.2 s after it.
    const EXPIRY: Duration = Duration::from_millis(1_900);
    let route = Route::open().await;
    route.proxy.reset_on_request();
    let tried = route.redsync.mutex("name").expiry(EXPIRY).try_lock().await;
    tried.expect_err("the connection is reset");
    route.proxy.pass();

    let (took, is_done) = timed(route.redsync.drain(DEADLINE)).await;

    assert!(is_done);
    assert!(took < EXPIRY + TOLERANCE, "{took:?}");
}

/// Fails when one of some callers, the first among them, waits longer than for an answer.
async fn assert_nobody_waits_longer_than_for_an_answer(redsync: &Redsync) {
    for number in 1..=8 {
        let (took, asked) = ask(redsync).await;
        println!("caller {number} took {took:?}");
        asked.expect_err("the server is down");
        assert!(took < REQUEST_DEADLINE + TOLERANCE, "caller {number} took {took:?}");
    }
}

/// Fails when callers that ask in turn wait for the network, but for a few that this machine delayed.
async fn assert_callers_fail_fast(redsync: &Redsync) {
    let mut times = Vec::new();
    for _ in 0..30 {
        let (took, asked) = ask(redsync).await;
        asked.expect_err("the server is down");
        times.push(took);
        // Apart, so that they meet the link in all its states.
        tokio::time::sleep(PAUSE / 2).await;
    }
    times.sort_unstable();
    println!("callers took {:?} in the middle, {:?} at most", times[15], times[29]);
    assert!(times[26] < FAST, "{times:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_of_a_server_that_refuses_wait_no_longer_than_for_an_answer() {
    let route = Route::open().await;
    route.proxy.refuse();

    assert_nobody_waits_longer_than_for_an_answer(&route.redsync).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_of_a_server_that_resets_wait_no_longer_than_for_an_answer() {
    let route = Route::open().await;
    route.proxy.reset_each_new();
    route.proxy.reset();

    assert_nobody_waits_longer_than_for_an_answer(&route.redsync).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_of_a_server_in_a_black_hole_wait_no_longer_than_for_an_answer() {
    let route = Route::open().await;
    route.proxy.black_hole();

    assert_nobody_waits_longer_than_for_an_answer(&route.redsync).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_of_a_server_that_was_never_there_wait_no_longer_than_for_an_answer() {
    let route = Route::open().await;
    route.proxy.black_hole();
    let redsync = support::over([route.proxy.url()]);

    assert_nobody_waits_longer_than_for_an_answer(&redsync).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_of_a_server_that_is_known_to_refuse_fail_fast() {
    let route = Route::open().await;
    route.proxy.refuse();
    wait_until_known(&route.redsync).await;

    assert_callers_fail_fast(&route.redsync).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_of_a_server_that_is_known_to_reset_fail_fast() {
    let route = Route::open().await;
    route.proxy.reset_each_new();
    route.proxy.reset();
    wait_until_known(&route.redsync).await;

    assert_callers_fail_fast(&route.redsync).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_of_a_server_that_is_known_to_be_in_a_black_hole_fail_fast() {
    let route = Route::open().await;
    route.proxy.black_hole();
    wait_until_known(&route.redsync).await;

    assert_callers_fail_fast(&route.redsync).await;
}

/// Breaks a route, mends it after `outage`, and fails when it is not used again soon.
async fn assert_used_again_after(outage: Duration, break_it: fn(&Route), mend_it: fn(&Route)) {
    let route = Route::open().await;
    break_it(&route);
    ask_for(&route.redsync, outage).await;

    mend_it(&route);
    let took = time_until_answered(&route.redsync).await;

    println!("used again after {took:?}");
    assert!(took < RECOVERY, "{took:?}");
}

/// Long enough for the pauses between connects to have grown to their longest, and for connecting that is not answered to
/// have been given up.
const OUTAGE: Duration = Duration::from_secs(4);

/// Long enough for a silent connection to have been given up, and no more.
const SHORT_OUTAGE: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_killed_is_used_again_within_a_second_of_its_restart() {
    assert_used_again_after(OUTAGE, |route| route.server.kill(), |route| route.server.restart()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_refused_is_used_again_within_a_second() {
    assert_used_again_after(OUTAGE, |route| route.proxy.refuse(), |route| route.proxy.pass()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_in_a_black_hole_is_used_again_within_a_second() {
    assert_used_again_after(SHORT_OUTAGE, |route| route.proxy.black_hole(), |route| route.proxy.pass()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_in_a_black_hole_for_long_is_used_again_within_a_second() {
    assert_used_again_after(OUTAGE, |route| route.proxy.black_hole(), |route| route.proxy.pass()).await;
}

/// Has a thousand callers ask at once, for a lock each, and waits for all of them.
async fn a_thousand_callers(redsync: &Redsync) {
    let callers: Vec<_> = (0..1000)
        .map(|number| {
            let mutex = redsync.mutex(format!("name {number}"));
            tokio::spawn(async move { mutex.try_lock().await.map(drop) })
        })
        .collect();
    for caller in callers {
        let _ = caller.await.expect("no caller panics");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_callers_of_a_broken_link_make_one_connection() {
    let route = Route::open().await;
    let before = route.proxy.connections();
    route.proxy.reset();

    a_thousand_callers(&route.redsync).await;
    ask(&route.redsync).await.1.expect("the link is whole again");

    assert_eq!(route.proxy.connections() - before, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_callers_of_a_new_link_make_one_connection() {
    let route = Route::open().await;
    let before = route.proxy.connections();

    a_thousand_callers(&support::over([route.proxy.url()])).await;

    assert_eq!(route.proxy.connections() - before, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_callers_of_a_silent_server_make_one_connection_each_half_second() {
    let route = Route::open().await;
    let before = route.proxy.connections();
    let began = Instant::now();
    route.proxy.black_hole();

    // Longer than connecting is tried before it counts as failed, and is begun anew.
    while began.elapsed() < OUTAGE {
        a_thousand_callers(&route.redsync).await;
    }

    let (made, took) = (route.proxy.connections() - before, began.elapsed());
    let most = 1 + took.as_millis() / DIAL_INTERVAL.as_millis();
    println!("{made} connections in {took:?}");
    assert!((1..=most).contains(&(made as u128)), "{made} connections in {took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_of_a_server_that_resets_do_not_make_it_a_storm_of_connections() {
    let route = Route::open().await;
    let before = route.proxy.connections();
    route.proxy.reset_each_new();
    route.proxy.reset();

    let began = Instant::now();
    while began.elapsed() < OUTAGE {
        a_thousand_callers(&route.redsync).await;
    }

    let (made, took) = (route.proxy.connections() - before, began.elapsed());
    // The pauses grow to half a second, less up to half of it for jitter; five are shorter.
    let most = 6 + took.as_millis() / (DIAL_INTERVAL / 2).as_millis();
    println!("{made} connections in {took:?}");
    assert!((1..=most).contains(&(made as u128)), "{made} connections in {took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kernel_is_told_to_ask_whether_an_idle_peer_is_still_there() {
    let server = RedisServer::start();
    let _redsync = connect_to(&server).await;

    let socket = socket_connected_to(server.port());

    assert!(sockopt::socket_keepalive(&socket).unwrap());
    let (idle, interval) =
        (sockopt::tcp_keepidle(&socket).unwrap(), sockopt::tcp_keepintvl(&socket).unwrap());
    let noticed_after = idle + interval * sockopt::tcp_keepcnt(&socket).unwrap();
    assert!(
        noticed_after <= Duration::from_secs(15),
        "a peer that vanished is noticed after {noticed_after:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kernel_is_told_for_how_long_data_may_stay_unacknowledged() {
    let server = RedisServer::start();
    let _redsync = connect_to(&server).await;

    let socket = socket_connected_to(server.port());

    // Zero stands for the kernel's own limit, of some fifteen minutes.
    let millis = sockopt::tcp_user_timeout(&socket).unwrap();
    assert!((1..=10_000).contains(&millis), "{millis} ms");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kernel_is_told_to_send_small_packets_at_once() {
    let server = RedisServer::start();
    let _redsync = connect_to(&server).await;

    let socket = socket_connected_to(server.port());

    assert!(sockopt::tcp_nodelay(&socket).unwrap());
}

/// A second descriptor of this process's only socket that is connected to `port`.
fn socket_connected_to(port: u16) -> OwnedFd {
    let this_process = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
    let numbers = fs::read_dir("/proc/self/fd").unwrap().map(|entry| {
        let name = entry.unwrap().file_name();
        name.to_str().unwrap().parse().unwrap()
    });
    let is_wanted = |socket: &OwnedFd| {
        let peer = getpeername(socket).ok().flatten();
        peer.and_then(|peer| SocketAddr::try_from(peer).ok()).is_some_and(|peer| peer.port() == port)
    };
    // Descriptors that other threads close meanwhile are errors.
    let opened =
        numbers.filter_map(|number| pidfd_getfd(&this_process, number, PidfdGetfdFlags::empty()).ok());
    let mut sockets: Vec<OwnedFd> = opened.filter(is_wanted).collect();
    assert_eq!(sockets.len(), 1, "connections to port {port}");
    sockets.remove(0)
}
