//! Waiting for a lock: how long, what for, and how it ends.

mod support;

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use redsync_testkit::{RedisServer, servers, wait_until};
use rustix::process::Signal;
use support::{Machine, SOON, locks_on};

#[test]
fn try_gives_up_at_once_and_says_who_has_it() {
    let machine = Machine::new();
    let _holder = machine.start_sh("--owner web-2:311 backup", "echo held > held; exec sleep 60");
    machine.wait_for_file("held");
    let outcome = machine.run_sh("--try backup", "echo in");
    assert_eq!(outcome.code, Some(75), "{outcome}");
    assert_eq!(outcome.stdout, "", "{outcome}");
    assert!(outcome.stderr.contains("redsync: lock \"backup\" is taken"), "{outcome}");
    assert!(outcome.stderr.contains("held by web-2:311"), "{outcome}");
    assert!(outcome.took < Duration::from_secs(3), "{outcome}");
}

#[test]
fn wait_gives_up_at_its_end_roughly() {
    let server = RedisServer::start();
    for machine in [Machine::new(), Machine::with_nodes([&server])] {
        let _holder = machine.hold("backup");
        let outcome = machine.run_sh("--wait 1.2s backup", "echo in");
        assert_eq!(outcome.code, Some(75), "{outcome}");
        assert!(outcome.stderr.contains("(waited 1."), "{outcome}");
        let range = Duration::from_millis(1200)..Duration::from_secs(4);
        assert!(range.contains(&outcome.took), "{outcome}");
    }
}

#[test]
fn without_options_it_waits_until_the_lock_is_free() {
    let machine = Machine::new();
    let holder = machine.hold("backup");
    let mut waiter = machine.start_sh("-v backup", "echo in > in; exit 5");
    wait_until("the waiter has started", SOON, || waiter.stderr().contains("this machine only"));
    assert!(waiter.is_running());
    assert!(!machine.path("in").exists());
    holder.signal(Signal::TERM);
    let outcome = waiter.outcome();
    assert_eq!(outcome.code, Some(5), "{outcome}");
}

#[test]
fn nodes_out_of_reach_are_69_and_not_75() {
    let machine = Machine::with_urls("redis://127.0.0.1:1");
    for options in ["--try backup", "--wait 700ms backup"] {
        let outcome = machine.run_sh(options, "echo in");
        assert_eq!(outcome.code, Some(69), "{options}: {outcome}");
        assert_eq!(outcome.stdout, "", "{outcome}");
        assert!(outcome.stderr.contains("no quorum to take lock \"backup\""), "{outcome}");
        assert!(outcome.stderr.contains("redis://127.0.0.1:1: cannot connect"), "{outcome}");
        assert_eq!(outcome.stderr.lines().count(), 1, "{outcome}");
        assert!(outcome.took < Duration::from_secs(4), "{outcome}");
    }
}

#[test]
fn a_minority_of_nodes_out_of_reach_is_no_hindrance() {
    let servers = servers(3);
    let machine = Machine::with_nodes(&servers);
    servers[1].kill();
    let outcome = machine.run_sh("--try --expiry 40s backup", "exit 6");
    assert_eq!(outcome.code, Some(6), "{outcome}");
    servers[2].kill();
    let outcome = machine.run_sh("--try --expiry 40s backup", "exit 6");
    assert_eq!(outcome.code, Some(69), "{outcome}");
    assert!(outcome.stderr.contains("2 of 3 nodes failed, 2 must answer"), "{outcome}");
}

#[test]
fn a_signal_ends_the_wait_at_once_and_nothing_stays_behind() {
    let servers = servers(3);
    let machine = Machine::with_nodes(&servers);
    let mut holder = machine.hold("backup");
    let token = servers[0].get("backup").unwrap();
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129), (Signal::QUIT, 131)] {
        for command in ["run", "lock"] {
            let command =
                if command == "run" { vec!["run", "backup", "--", "true"] } else { vec!["lock", "backup"] };
            let sets = servers[0].command_count("set");
            let waiter = machine.start(command);
            wait_until("the waiter has tried", SOON, || servers[0].command_count("set") > sets);
            waiter.signal(signal);
            let outcome = waiter.outcome();
            assert_eq!(outcome.code, Some(code), "{outcome}");
            assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("", ""), "{outcome}");
        }
    }
    assert!(holder.is_running());
    for server in &servers {
        // It was sent before the end of each process, and need not have been read by then.
        wait_until("nothing stays behind", SOON, || locks_on(server) == ["backup"]);
        assert_eq!(server.get("backup").as_ref(), Some(&token));
    }
}

#[test]
fn a_signal_ends_the_wait_for_servers_that_hang_and_the_lock_is_not_left_behind() {
    let server = RedisServer::start();
    let machine = Machine::with_nodes([&server]);
    let (stranger_holds, began) = (Duration::from_secs(3), Instant::now());
    server.set("backup", "a stranger's token", Some(3000));
    let sets = server.command_count("set");
    let waiter = machine.start_sh("--expiry 1h backup", "true");
    wait_until("the waiter has tried", SOON, || server.command_count("set") > sets);
    server.pause();
    wait_until("the next attempt is in the paused server's queue", SOON, || queued_at(server.port()) > 0);
    waiter.signal(Signal::TERM);
    let outcome = waiter.outcome();
    assert_eq!(outcome.code, Some(143), "{outcome}");
    // From now on it will be granted, for an hour. The server stands still, so no event tells of it.
    thread::sleep((stranger_holds + Duration::from_millis(100)).saturating_sub(began.elapsed()));
    server.resume();
    wait_until("the server has read what was sent", SOON, || queued_at(server.port()) == 0);
    wait_until("the attempt is undone", SOON, || locks_on(&server).is_empty());
}

/// The bytes that the server at this port has been sent and has not read, as the kernel says.
fn queued_at(port: u16) -> u64 {
    const LISTENING: &str = "0A";
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let local = format!(":{port:04X}");
    let queues = table.lines().filter_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let is_connection =
            columns.get(1)?.ends_with(&local) && columns.get(3).is_some_and(|state| *state != LISTENING);
        let (_, received) = columns.get(4)?.split_once(':')?;
        is_connection.then(|| u64::from_str_radix(received, 16).unwrap())
    });
    queues.sum()
}

#[test]
fn a_signal_is_obeyed_at_once_while_it_is_asked_who_the_servers_are() {
    let servers = servers(2);
    servers.iter().for_each(RedisServer::pause);
    let limit = Duration::from_millis(250);
    let took = time_to_end_at_term(&Machine::with_nodes(&servers), servers[0].port(), limit);
    assert!(took < limit, "it took {took:?}");
}

#[test]
fn a_signal_is_obeyed_at_once_while_an_attempt_hangs() {
    let server = RedisServer::start();
    server.pause();
    let limit = Duration::from_millis(300);
    let took = time_to_end_at_term(&Machine::with_nodes([&server]), server.port(), limit);
    assert!(took < limit, "it took {took:?}");
}

/// From TERM to the end, in the best of some tries: a machine that is busy only adds to it.
fn time_to_end_at_term(machine: &Machine, port: u16, good_enough: Duration) -> Duration {
    let mut best = Duration::MAX;
    for _ in 0..5 {
        let queued = queued_at(port);
        let waiter = machine.start_sh("--expiry 1h backup", "true");
        wait_until("the waiter has asked", SOON, || queued_at(port) > queued);
        let asked = Instant::now();
        waiter.signal(Signal::TERM);
        let outcome = waiter.outcome();
        best = best.min(asked.elapsed());
        assert_eq!(outcome.code, Some(143), "{outcome}");
        if best < good_enough {
            break;
        }
    }
    best
}

#[test]
fn a_server_that_is_named_twice_is_refused() {
    let server = RedisServer::start();
    let twice = format!(
        "{},{},{}",
        server.url(),
        server.url().replace("127.0.0.1", "localhost"),
        "redis://127.0.0.1:1"
    );
    let outcome = Machine::with_urls(&twice).run_sh("--try backup", "true");
    assert_eq!(outcome.code, Some(64), "{outcome}");
    assert!(outcome.stderr.contains("are the same server"), "{outcome}");
    assert_eq!(locks_on(&server), Vec::<String>::new());
}

#[test]
fn a_server_that_hangs_does_not_hide_that_another_is_named_twice() {
    let servers = servers(2);
    servers[1].pause();
    let twice = format!(
        "{},{},{}",
        servers[0].url(),
        servers[0].url().replace("127.0.0.1", "localhost"),
        servers[1].url()
    );
    let outcome = Machine::with_urls(&twice).run_sh("--try backup", "true");
    assert_eq!(outcome.code, Some(64), "{outcome}");
    assert!(outcome.stderr.contains("are the same server"), "{outcome}");
    assert_eq!(locks_on(&servers[0]), Vec::<String>::new());
}

#[test]
fn a_server_that_is_slow_to_say_who_it_is_is_waited_for() {
    let server = RedisServer::start();
    server.pause();
    let twice = format!("{},{}", server.url(), server.url().replace("127.0.0.1", "localhost"));
    let running = Machine::with_urls(&twice).start_sh("--try backup", "true");
    wait_until("the server is asked", SOON, || queued_at(server.port()) > 0);
    // Well within the second that a server has for it.
    thread::sleep(Duration::from_millis(550));
    server.resume();
    let outcome = running.outcome();
    assert_eq!(outcome.code, Some(64), "{outcome}");
    assert!(outcome.stderr.contains("are the same server"), "{outcome}");
}

#[test]
fn a_long_wait_is_noted_for_who_reads_the_log() {
    let server = RedisServer::start();
    let machine = Machine::with_nodes([&server]);
    let _holder = machine.start_sh("--owner web-1:20 backup", "echo held > held; exec sleep 60");
    machine.wait_for_file("held");
    server.set("foreign", "q1Zx+/b4u0r3o0B3m9nD3A==", None);
    // All at once, since each takes the five seconds.
    let waiters = ["backup", "--quiet backup", "foreign"].map(|options| machine.start_sh(options, "true"));
    let json = machine.start(["run", "--json", "backup", "--", "true"]);
    wait_until("the last of them has said something", SOON, || json.stderr().contains('\n'));
    wait_until("all have said something", SOON, || {
        [&waiters[0], &waiters[2]].iter().all(|waiter| waiter.stderr().contains('\n'))
    });
    let plain = waiters[0].stderr();
    let (begin, end) = ("redsync: has waited 5", " s left)\n");
    assert!(plain.starts_with(begin) && plain.ends_with(end), "{plain}");
    assert!(plain.contains(" s for lock \"backup\": "), "{plain}");
    assert!(plain.contains(" in queue; held by web-1:20, renewing ("), "{plain}");
    assert_eq!(plain.lines().count(), 1, "{plain}");
    assert_eq!(waiters[1].stderr(), "");
    let foreign = waiters[2].stderr();
    let end = "1st in queue; held by token q1Zx+/b4u0r3o0B3…, no expiry: it never ends by itself\n";
    assert!(foreign.ends_with(end), "{foreign}");
    let said: serde_json::Value = serde_json::from_str(&json.stderr()).unwrap();
    assert_eq!((&said["warning"], &said["name"]), (&"waiting".into(), &"backup".into()), "{said}");
    assert!(said["waited_ms"].as_u64().unwrap() >= 5_000 && said["place"].is_u64(), "{said}");
    assert_eq!((&said["owner"], &said["renews"]), (&"web-1:20".into(), &true.into()), "{said}");
}

#[test]
fn verbose_says_what_is_waited_for_from_the_start_on() {
    let machine = Machine::new();
    let _holder = machine.start_sh("--owner web-1:20 backup", "echo held > held; exec sleep 60");
    machine.wait_for_file("held");
    let waiter = machine.run_sh("--verbose --wait 2s backup", "true");
    assert_eq!(waiter.code, Some(75), "{waiter}");
    assert!(waiter.stderr.contains("1st in queue; held by web-1:20, renewing ("), "{waiter}");
    let without = machine.run_sh("--wait 2s backup", "true");
    assert!(!without.stderr.contains(" in queue"), "{without}");
}
