//! Waiting in the queue: who is next, what is told of it, and who leaves.

mod support;

use std::fs;
use std::time::Duration;

use redsync_testkit::{RedisServer, servers, wait_until};
use rustix::process::Signal;
use serde_json::Value;
use support::{Machine, Running, SOON, ended_by, is_stopped, locks_on};

/// A lock whose leases outlast the test: whoever gets it was given it.
const LONG: &str = "--expiry 1h backup";

#[test]
fn who_came_first_is_first() {
    let servers = servers(3);
    for machine in [Machine::new(), Machine::with_nodes([&servers[0]]), Machine::with_nodes(&servers)] {
        let holder = hold(&machine);
        let waiters: Vec<Running> =
            (1..=3).map(|n| queue(&machine, &format!("w{n}"), &format!("echo {n} >> order"))).collect();
        holder.signal(Signal::TERM);
        for waiter in waiters {
            let outcome = waiter.outcome();
            assert_eq!(outcome.code, Some(0), "{outcome}");
        }
        assert_eq!(machine.read("order"), "1\n2\n3\n");
        assert_eq!(machine.redsync(["status", "-q", "backup"]).stdout.lines().next(), Some("backup is free"));
    }
    assert!(servers.iter().all(|server| locks_on(server).is_empty()));
}

#[test]
fn who_polls_with_try_is_not_served_before_those_who_wait() {
    let server = RedisServer::start();
    for machine in [Machine::new(), Machine::with_nodes([&server])] {
        let holder = hold(&machine);
        let waiter = queue(&machine, "w1", "true");
        stop(&waiter);
        holder.signal(Signal::TERM);
        assert_eq!(holder.outcome().code, Some(143));
        // The one in the queue has it already, though it does not know yet.
        let rival = machine.run_sh(&format!("--try {LONG}"), "true");
        assert_eq!(rival.code, Some(75), "{rival}");
        assert!(rival.stderr.contains("held by w1"), "{rival}");
        waiter.signal(Signal::CONT);
        let outcome = waiter.outcome();
        assert_eq!(outcome.code, Some(0), "{outcome}");
    }
}

#[test]
fn barging_lets_whoever_asks_first_have_the_lock() {
    let server = RedisServer::start();
    for machine in [Machine::new(), Machine::with_nodes([&server])] {
        let holder = machine.start_sh(&format!("--barging {LONG}"), "echo held > held; exec sleep 60");
        machine.wait_for_file("held");
        let waiter = queue(&machine, "w1", "true");
        stop(&waiter);
        holder.signal(Signal::TERM);
        assert_eq!(holder.outcome().code, Some(143));
        let rival = machine.run_sh(&format!("--try {LONG}"), "true");
        assert_eq!(rival.code, Some(0), "{rival}");
        waiter.signal(Signal::CONT);
        let outcome = waiter.outcome();
        assert_eq!(outcome.code, Some(0), "{outcome}");
    }
}

#[test]
fn barging_is_for_unlock_to_say_where_lock_took_the_lock() {
    let server = RedisServer::start();
    for machine in [Machine::new(), Machine::with_nodes([&server])] {
        for (options, code) in [("", Some(75)), ("--barging", Some(0))] {
            let lease = machine.lock(&format!("-q {LONG}"));
            let waiter = queue(&machine, "w1", "true");
            stop(&waiter);
            let unlocked =
                machine.redsync(["unlock"].into_iter().chain(options.split_whitespace()).chain([&*lease]));
            assert_eq!(unlocked.code, Some(0), "{unlocked}");
            let rival = machine.run_sh(&format!("--try {LONG}"), "true");
            assert_eq!(rival.code, code, "{options:?}: {rival}");
            waiter.signal(Signal::CONT);
            let outcome = waiter.outcome();
            assert_eq!(outcome.code, Some(0), "{outcome}");
        }
    }
}

#[test]
fn status_names_those_who_wait_the_next_first() {
    let servers = servers(3);
    for machine in [Machine::new(), Machine::with_nodes([&servers[0]]), Machine::with_nodes(&servers)] {
        let _holder = hold(&machine);
        let _first = queue(&machine, "web-1:20", "true");
        let alone = machine.redsync(["status", "-q", "backup"]);
        let line = first_line(&alone.stdout);
        assert!(line.starts_with("backup is held by web-2:311, renewing (free in 59 min "), "{alone}");
        assert!(line.ends_with("; 1 waits in the queue: web-1:20"), "{alone}");

        let _second = queue(&machine, "web-3:7", "true");
        let _third = queue(&machine, "db-1:99", "true");
        let all = machine.redsync(["status", "-q", "backup"]);
        assert_eq!(all.code, Some(0), "{all}");
        assert!(
            first_line(&all.stdout).ends_with("; 3 wait in the queue: web-1:20, web-3:7, db-1:99"),
            "{all}"
        );
        assert_eq!(all.stdout.matches("wait").count(), 1, "no node says otherwise: {all}");
    }
}

#[test]
fn status_tells_who_waits_as_json() {
    let servers = servers(3);
    for machine in [Machine::new(), Machine::with_nodes(&servers)] {
        let free = status(&machine);
        assert_eq!((&free["waiting"], &free["queue"]), (&0.into(), &serde_json::json!([])), "{free}");

        let _holder = hold(&machine);
        let _waiters = ["web-1:20", "web-3:7"].map(|owner| queue(&machine, owner, "true"));
        let told = status(&machine);
        assert_eq!((&told["state"], &told["owner"]), (&"held".into(), &"web-2:311".into()), "{told}");
        assert_eq!(told["waiting"], 2, "{told}");
        let queue = told["queue"].as_array().unwrap();
        let owners: Vec<&str> = queue.iter().map(|place| place["owner"].as_str().unwrap()).collect();
        assert_eq!(owners, ["web-1:20", "web-3:7"]);
        for (place, owner) in queue.iter().zip(owners) {
            assert!(place["token"].as_str().unwrap().ends_with(&format!("@{owner}")), "{told}");
        }
        let since: Vec<u64> = queue.iter().map(|place| place["since_ms"].as_u64().unwrap()).collect();
        // Milliseconds, in this century.
        let (from, to) = (1_000_000_000_000, 4_000_000_000_000);
        assert!(from < since[0] && since[0] <= since[1] && since[1] < to, "{told}");
        for node in told["nodes"].as_array().unwrap() {
            assert_eq!(node["waiting"], 2, "{told}");
        }
    }
}

#[test]
fn status_tells_which_node_knows_of_others_who_wait() {
    let servers = servers(3);
    let machine = Machine::with_nodes(&servers);
    let _holder = hold(&machine);
    let _waiters = ["web-1:20", "web-3:7"].map(|owner| queue(&machine, owner, "true"));
    servers[2].flushall();
    let text = machine.redsync(["status", "backup"]);
    assert!(first_line(&text.stdout).ends_with("; 2 wait in the queue: web-1:20, web-3:7"), "{text}");
    assert!(text.stdout.contains(&format!("\n  {}: free; nobody waits\n", servers[2].url())), "{text}");
    assert_eq!(text.stdout.matches("wait").count(), 2, "{text}");
    servers[2].kill();
    let nodes = &status(&machine)["nodes"];
    assert_eq!((&nodes[1]["waiting"], &nodes[2]["waiting"]), (&2.into(), &Value::Null), "{nodes}");
}

#[test]
fn a_waiter_that_is_killed_does_not_hold_the_next_one_up() {
    let servers = servers(3);
    for machine in [Machine::new(), Machine::with_nodes([&servers[0]]), Machine::with_nodes(&servers)] {
        let holder = hold(&machine);
        let doomed = queue(&machine, "doomed", "true");
        let next = queue(&machine, "next", "echo mine > mine");
        doomed.signal(Signal::KILL);
        let killed = doomed.outcome();
        assert_eq!(ended_by(&killed), Some(9), "{killed}");
        holder.signal(Signal::TERM);
        // Its place is good for an hour.
        assert_eq!(machine.wait_for_file("mine"), "mine");
        let outcome = next.outcome();
        assert_eq!(outcome.code, Some(0), "{outcome}");
    }
    assert!(servers.iter().all(|server| locks_on(server).is_empty()));
}

#[test]
fn a_waiter_that_is_interrupted_leaves_the_queue() {
    let servers = servers(3);
    for machine in [Machine::new(), Machine::with_nodes([&servers[0]]), Machine::with_nodes(&servers)] {
        let _holder = hold(&machine);
        let (first, _second) = (queue(&machine, "w1", "true"), queue(&machine, "w2", "true"));
        first.signal(Signal::INT);
        let outcome = first.outcome();
        assert_eq!(outcome.code, Some(130), "{outcome}");
        assert_eq!(owners_in_queue(&machine), ["w2"]);
    }
}

#[test]
fn who_gives_up_leaves_the_queue() {
    let servers = servers(3);
    for machine in [Machine::new(), Machine::with_nodes([&servers[0]]), Machine::with_nodes(&servers)] {
        let _holder = hold(&machine);
        let outcome = machine.run_sh(&format!("--wait 500ms {LONG}"), "true");
        assert_eq!(outcome.code, Some(75), "{outcome}");
        assert!(outcome.stderr.contains("held by web-2:311"), "{outcome}");
        assert_eq!(owners_in_queue(&machine), Vec::<String>::new());
    }
    assert!(servers.iter().all(|server| locks_on(server).is_empty()));
}

#[test]
fn lock_waits_in_queue_too_and_unlock_hands_over() {
    let server = RedisServer::start();
    for machine in [Machine::new(), Machine::with_nodes([&server])] {
        let lease = machine.lock(&format!("-q {LONG}"));
        let waiter = machine.start(["lock", "--wait", "1m", "--owner", "w1", "--expiry", "1h", "backup"]);
        wait_until("it waits in the queue", SOON, || owners_in_queue(&machine) == ["w1"]);
        assert_eq!(machine.redsync(["unlock", &lease]).code, Some(0));
        let outcome = waiter.outcome();
        assert_eq!(outcome.code, Some(0), "{outcome}");
        let unlocked = machine.redsync(["unlock", outcome.stdout.trim()]);
        assert_eq!(unlocked.code, Some(0), "{unlocked}");
    }
}

#[test]
fn the_next_command_begins_at_once_when_one_has_ended() {
    let servers = servers(3);
    for machine in [Machine::new(), Machine::with_nodes([&servers[0]]), Machine::with_nodes(&servers)] {
        let took: Vec<Duration> = (0..9).map(|round| time_between_commands(&machine, round)).collect();
        // The next process included. Not each time, since a machine that is busy adds to it; but luck does not do, either.
        let prompt = took.iter().filter(|took| **took < Duration::from_millis(50)).count();
        assert!(prompt >= 7, "it took {took:?}");
    }
}

/// From the end of one command to the beginning of that which waits.
#[track_caller]
fn time_between_commands(machine: &Machine, round: usize) -> Duration {
    let [go, held, ended, began] = ["go", "held", "ended", "began"].map(|name| format!("{name}{round}"));
    let pipe = machine.fifo(&go);
    let script = format!("echo held > {held}; read line < {go}; date +%s%N > {ended}");
    let holder = machine.start_sh(LONG, &script);
    machine.wait_for_file(&held);
    let waiter = queue(machine, "w1", &format!("date +%s%N > {began}"));
    fs::write(pipe, "go\n").unwrap();
    for outcome in [holder.outcome(), waiter.outcome()] {
        assert_eq!(outcome.code, Some(0), "{outcome}");
    }
    let [ended, began] = [ended, began].map(|name| machine.read(&name).trim().parse::<u64>().unwrap());
    assert!(ended < began, "two at once");
    Duration::from_nanos(began - ended)
}

/// The lock is held by `web-2:311` until this is dropped.
#[track_caller]
fn hold(machine: &Machine) -> Running {
    let running = machine.start_sh(&format!("--owner web-2:311 {LONG}"), "echo held > held; exec sleep 60");
    machine.wait_for_file("held");
    running
}

/// One who waits in the queue behind all who do already.
#[track_caller]
fn queue(machine: &Machine, owner: &str, script: &str) -> Running {
    let running = machine.start_sh(&format!("--owner {owner} {LONG}"), script);
    let nodes = |told: &Value| told["nodes"].as_array().unwrap().clone();
    wait_until("it waits in the queue on all nodes", SOON, || {
        let told = status(machine);
        let last =
            told["queue"].as_array().and_then(|queue| queue.last()).map(|place| place["owner"].clone());
        last == Some(owner.into()) && nodes(&told).iter().all(|node| node["waiting"] == told["waiting"])
    });
    running
}

#[track_caller]
fn stop(running: &Running) {
    running.signal(Signal::STOP);
    wait_until("it is stopped", SOON, || is_stopped(&running.pid().to_string()));
}

#[track_caller]
fn owners_in_queue(machine: &Machine) -> Vec<String> {
    let told = status(machine);
    let queue = told["queue"].as_array().unwrap();
    assert_eq!(told["waiting"], queue.len(), "{told}");
    queue.iter().map(|place| place["owner"].as_str().unwrap().to_owned()).collect()
}

#[track_caller]
fn status(machine: &Machine) -> Value {
    let outcome = machine.redsync(["status", "--quiet", "--json", "backup"]);
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome}"))
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}
