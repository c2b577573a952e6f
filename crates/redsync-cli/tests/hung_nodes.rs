//! Nodes that hang delay nobody, and a node that is only slow gets its release.

mod support;

use std::net::TcpListener;
use std::time::{Duration, Instant};

use redsync_testkit::{Proxy, servers, wait_until};
use support::{Machine, SOON};

/// A busy machine may be slow; waiting for a hung node would take longer than this even on an idle one.
const TOLERANCE: Duration = Duration::from_millis(350);

/// How long `run`, and then `lock` and `unlock` take, at best of some: what other processes add is no matter here.
fn best_times(machine: &Machine) -> [Duration; 3] {
    let mut best = [Duration::MAX; 3];
    for _ in 0..5 {
        let began = Instant::now();
        let outcome = machine.redsync(["run", "name", "--", "true"]);
        assert_eq!(outcome.code, Some(0), "{outcome}");
        let ran = began.elapsed();
        let began = Instant::now();
        let lease = machine.lock("name");
        let locked = began.elapsed();
        let began = Instant::now();
        let outcome = machine.redsync(["unlock", &lease]);
        assert_eq!(outcome.code, Some(0), "{outcome}");
        for (best, took) in best.iter_mut().zip([ran, locked, began.elapsed()]) {
            *best = took.min(*best);
        }
    }
    best
}

#[track_caller]
fn assert_not_delayed(machine: &Machine) {
    let took = best_times(machine);
    assert!(took.iter().all(|took| *took < TOLERANCE), "run, lock, unlock took {took:?}");
}

#[test]
fn one_stopped_server_of_three_delays_no_command() {
    let servers = servers(3);
    servers[2].pause();
    assert_not_delayed(&Machine::with_nodes(&servers));
}

#[test]
fn two_stopped_servers_of_five_delay_no_command() {
    let servers = servers(5);
    servers[1].pause();
    servers[4].pause();
    assert_not_delayed(&Machine::with_nodes(&servers));
}

#[test]
fn a_listener_that_never_answers_delays_no_command() {
    let (servers, silent) = (servers(2), TcpListener::bind("127.0.0.1:0").unwrap());
    let address = silent.local_addr().unwrap();
    let urls = format!("redis://{address},{},{}", servers[0].url(), servers[1].url());
    assert_not_delayed(&Machine::with_urls(&urls));
}

#[test]
fn a_slow_node_that_was_connected_to_is_released_though_nobody_waits_for_its_answer() {
    let servers = servers(3);
    let proxy = Proxy::before(&servers[2]);
    proxy.delay(Duration::from_millis(100));
    let urls = format!("{},{},{}", servers[0].url(), servers[1].url(), proxy.url());
    let machine = Machine::with_urls(&urls);
    machine.fifo("go");
    let running = machine.start_sh("name", "read line < go");
    wait_until("the slow node grants the lock, too", SOON, || servers[2].get("name").is_some());
    std::fs::write(machine.path("go"), "\n").unwrap();
    let outcome = running.outcome();
    assert_eq!(outcome.code, Some(0), "{outcome}");
    wait_until("all nodes are released", Duration::from_secs(2), || {
        servers.iter().all(|server| server.get("name").is_none())
    });
}

#[test]
fn a_server_that_is_listed_twice_and_answers_late_does_not_vote_and_is_told_of() {
    let servers = servers(2);
    let proxy = Proxy::before(&servers[0]);
    proxy.delay(Duration::from_millis(150));
    let urls = format!("{},{},{}", servers[0].url(), servers[1].url(), proxy.url());
    let machine = Machine::with_urls(&urls);
    machine.fifo("go");
    let running = machine.start_sh("name", "read line < go");
    wait_until("the duplicate is told of", SOON, || {
        running.stderr().contains("is the same server as another")
    });
    std::fs::write(machine.path("go"), "\n").unwrap();
    let outcome = running.outcome();
    assert_eq!(outcome.code, Some(0), "{outcome}");
    // With one of the two gone, the other would be a majority if it voted twice.
    servers[1].pause();
    let outcome = machine.redsync(["run", "--try", "name", "--", "true"]);
    assert!(matches!(outcome.code, Some(64 | 69)), "{outcome}");
    servers[1].resume();
}

#[test]
fn a_server_that_is_listed_twice_and_answers_at_once_is_refused() {
    let servers = servers(2);
    let by_name = servers[0].url().replace("127.0.0.1", "localhost");
    let machine = Machine::with_urls(&format!("{},{},{by_name}", servers[0].url(), servers[1].url()));
    let refused = |_: u32| machine.redsync(["run", "name", "--", "true"]).code == Some(64);
    // It may answer late on a busy machine, and is not waited for then.
    assert!((0..10).any(refused));
}
