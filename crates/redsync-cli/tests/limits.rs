//! How long a lock may be held, and how long a node may take to answer.

mod support;

use std::fs;
use std::time::{Duration, Instant};

use redsync_testkit::{RedisServer, wait_until};
use rustix::process::Signal;
use support::{Machine, SOON, is_alive, locks_on};

#[test]
fn a_command_that_reaches_the_maximum_hold_is_ended_and_the_last_line_says_so() {
    let server = RedisServer::start();
    for machine in [Machine::new(), Machine::with_nodes([&server])] {
        let running = machine.start_sh("-q --expiry 1s --max-hold 3s backup", "echo $$ > pid; exec sleep 60");
        let pid = machine.wait_for_file("pid");
        let outcome = running.outcome();
        assert_eq!(outcome.code, Some(74), "{outcome}");
        let line =
            "redsync: lock \"backup\" reached its maximum hold (--max-hold 3s), so the command was ended\n";
        assert_eq!(outcome.stderr, line, "{outcome}");
        assert!(!is_alive(&pid));
        assert!(outcome.took >= Duration::from_millis(2500), "{outcome}");
        assert_eq!(locks_on(&server), Vec::<String>::new());
    }
}

#[test]
fn a_command_that_ignores_the_end_of_the_maximum_hold_is_killed_before_another_holds() {
    let server = RedisServer::start();
    let machine = Machine::with_nodes([&server]);
    let script = "trap '' TERM; echo $$ > pid; while :; do sleep 0.02; done";
    let running = machine.start_sh("--expiry 1s --max-hold 1s backup", script);
    let pid = machine.wait_for_file("pid");
    let next = machine.run_sh("backup", &format!("! kill -0 {pid}"));
    assert_eq!(next.code, Some(0), "{next}");
    assert_eq!(running.outcome().code, Some(74));
}

#[test]
fn a_command_that_may_outlive_its_lock_outlives_the_maximum_hold() {
    let server = RedisServer::start();
    let machine = Machine::with_nodes([&server]);
    let go = machine.fifo("go");
    let options = "--on-lost warn --expiry 1s --max-hold 1s backup";
    let running = machine.start_sh(options, "echo $$ > pid; read line < go; exit 5");
    machine.wait_for_file("pid");
    let line = "redsync: lock \"backup\" reached its maximum hold (--max-hold 1s), and the command goes on without it\n";
    wait_until("it says so", SOON, || running.stderr() == line);
    fs::write(go, "go\n").unwrap();
    let outcome = running.outcome();
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(5), line), "{outcome}");
}

#[test]
fn a_command_that_is_continued_gets_no_time_beyond_the_maximum_hold() {
    let server = RedisServer::start();
    let machine = Machine::with_nodes([&server]);
    let running = machine.start_sh("--expiry 2s --max-hold 2s backup", "echo $$ > pid; exec sleep 60");
    machine.wait_for_file("pid");
    // Not since the process was started: a busy machine takes its time for that.
    let held_since = Instant::now();
    // Who is continued asks for the lock to be extended, which would bring its end to three seconds.
    wait_until("half of it has passed", SOON, || server.pttl("backup") < 1000);
    running.signal(Signal::CONT);
    let outcome = running.outcome();
    assert_eq!(outcome.code, Some(74), "{outcome}");
    // An extension would end it no earlier than 2.6 s after the lock was taken.
    let took = held_since.elapsed();
    assert!(took < Duration::from_millis(2400), "it took {took:?}: {outcome}");
    assert!(outcome.stderr.contains("reached its maximum hold"), "{outcome}");
}

#[test]
fn a_loss_before_the_maximum_hold_is_a_loss() {
    let server = RedisServer::start();
    let machine = Machine::with_nodes([&server]);
    let running = machine.start_sh("--expiry 1s --max-hold 1h backup", "echo $$ > pid; exec sleep 60");
    machine.wait_for_file("pid");
    server.set("backup", "a stranger's token", None);
    let outcome = running.outcome();
    assert_eq!(outcome.code, Some(74), "{outcome}");
    assert!(outcome.stderr.contains("was lost, so the command was ended: "), "{outcome}");
}

#[test]
fn a_maximum_hold_that_is_shorter_than_the_expiry_is_refused() {
    let machine = Machine::new();
    for (options, message) in [
        (
            "--max-hold 5s backup",
            "--max-hold 5s is shorter than the expiry, 8s: the first lease lasts as long as that",
        ),
        ("--expiry 1m --max-hold 10s backup", "--max-hold 10s is shorter than the expiry, 60s"),
        ("--max-hold 5 backup", "5 has no unit"),
    ] {
        let outcome = machine.run_sh(options, "echo ran > ran");
        assert_eq!(outcome.code, Some(64), "{outcome}");
        assert!(outcome.stderr.contains(message), "{outcome}");
        assert!(!machine.path("ran").exists());
    }
}

#[test]
fn a_node_may_take_its_share_of_the_expiry_to_answer() {
    let server = RedisServer::start();
    let machine = Machine::with_nodes([&server]);
    server.pause();
    for (factor, words) in [("0.4", "did not answer within 400ms"), ("0.1", "did not answer within 100ms")] {
        for command in [
            &["run", "--try", "--expiry", "1s", "--timeout-factor", factor, "backup", "--", "true"][..],
            &["lock", "--try", "--expiry", "1s", "--timeout-factor", factor, "backup"][..],
        ] {
            let outcome = machine.redsync(command);
            assert_eq!(outcome.code, Some(69), "{outcome}");
            assert!(outcome.stderr.contains(words), "{outcome}");
        }
    }
}

#[test]
fn a_share_that_is_none_is_refused() {
    let machine = Machine::new();
    for (factor, message) in [
        ("0", "0 is not between 0 and 1"),
        ("1", "1 is not between 0 and 1"),
        ("-1", "-1"),
        ("NaN", "NaN is not between 0 and 1"),
        ("5%", "it is no number; write 0.05 for a twentieth"),
    ] {
        for arguments in [["run", "backup", "--", "true"], ["lock", "backup", "--quiet", "--json"]] {
            let (command, rest) = arguments.split_first().unwrap();
            let option = format!("--timeout-factor={factor}");
            let outcome = machine.redsync([*command, &option].into_iter().chain(rest.iter().copied()));
            assert_eq!(outcome.code, Some(64), "{outcome}");
            assert!(
                outcome.stderr.contains(message) && outcome.stderr.contains("--timeout-factor"),
                "{outcome}"
            );
        }
    }
}
