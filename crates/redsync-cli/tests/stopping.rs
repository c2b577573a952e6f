//! What stops `redsync run` stops its command, and who is continued looks first whether the lock is still held.

mod support;

use std::fs;
use std::os::unix::process::CommandExt;

use redsync_testkit::{RedisServer, wait_until};
use rustix::process::Signal;
use support::{Machine, Running, SOON, is_stopped, locks_on, run_arguments};

/// In a group of its own, as a shell with job control has it: a group without a parent to continue it is not stopped.
fn start_as_job(machine: &Machine, options: &str, script: &str) -> Running {
    Running::start(machine.command(run_arguments(options, script)).process_group(0))
}

#[test]
fn both_stop_and_both_go_on() {
    let server = RedisServer::start();
    let machine = Machine::with_nodes([&server]);
    let go = machine.fifo("go");
    let running = start_as_job(&machine, "--expiry 1h backup", "echo $$ > pid; read line < go; exit 3");
    let (redsync, command) = (running.pid().to_string(), machine.wait_for_file("pid"));
    for _ in 0..3 {
        running.signal(Signal::TSTP);
        wait_until("both are stopped", SOON, || is_stopped(&redsync) && is_stopped(&command));
        let left = server.pttl("backup");
        running.signal(Signal::CONT);
        wait_until("both go on", SOON, || !is_stopped(&redsync) && !is_stopped(&command));
        wait_until("the lock is extended at once", SOON, || server.pttl("backup") > left);
    }
    fs::write(go, "go\n").unwrap();
    let outcome = running.outcome();
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(3), ""), "{outcome}");
}

#[test]
fn a_command_and_all_it_started_are_stopped_even_if_they_ignore_it() {
    let machine = Machine::new();
    let script = "trap '' TSTP; sleep 60 & echo $! > grandchild; echo $$ > pid; wait";
    let running = start_as_job(&machine, "--expiry 1m backup", script);
    let processes =
        [running.pid().to_string(), machine.wait_for_file("pid"), machine.wait_for_file("grandchild")];
    running.signal(Signal::TSTP);
    wait_until("all are stopped", SOON, || processes.iter().all(|pid| is_stopped(pid)));
    running.signal(Signal::CONT);
    wait_until("all go on", SOON, || !processes.iter().any(|pid| is_stopped(pid)));
    running.signal(Signal::TERM);
    let outcome = running.outcome();
    assert_eq!(outcome.code, Some(143), "{outcome}");
}

#[test]
fn a_command_whose_lock_expired_while_it_was_stopped_does_nothing_more() {
    let server = RedisServer::start();
    let machine = Machine::with_nodes([&server]);
    // Without children: a shell that is just starting one counts as stopped only when that has begun.
    let script = "for n in 1 2 3 4 5 6; do while :; do echo >> stamps; done & done; \
                  echo $$ > pid; while :; do echo >> stamps; done";
    let running = start_as_job(&machine, "--expiry 1s backup", script);
    let (redsync, command) = (running.pid().to_string(), machine.wait_for_file("pid"));
    machine.wait_for_file("stamps");
    running.signal(Signal::TSTP);
    wait_until("both are stopped", SOON, || is_stopped(&redsync) && is_stopped(&command));
    wait_until("the lock has expired", SOON, || locks_on(&server).is_empty());
    let stamps = machine.read("stamps");
    server.set("backup", "a stranger's token", None);
    running.signal(Signal::CONT);
    let outcome = running.outcome();
    assert_eq!(outcome.code, Some(74), "{outcome}");
    assert!(outcome.stderr.contains("lock \"backup\" was lost, so the command was ended"), "{outcome}");
    assert_eq!(machine.read("stamps"), stamps);
    assert_eq!(server.get("backup").as_deref(), Some("a stranger's token"));
}

#[test]
fn a_command_that_may_outlive_its_lock_goes_on_though_that_expired_while_it_was_stopped() {
    let server = RedisServer::start();
    let machine = Machine::with_nodes([&server]);
    let go = machine.fifo("go");
    let running =
        start_as_job(&machine, "--on-lost warn --expiry 1s backup", "echo $$ > pid; read line < go; exit 3");
    let (redsync, command) = (running.pid().to_string(), machine.wait_for_file("pid"));
    running.signal(Signal::TSTP);
    wait_until("both are stopped", SOON, || is_stopped(&redsync) && is_stopped(&command));
    wait_until("the lock has expired", SOON, || locks_on(&server).is_empty());
    running.signal(Signal::CONT);
    wait_until("it warns", SOON, || running.stderr().contains("and the command goes on without it"));
    fs::write(go, "go\n").unwrap();
    let outcome = running.outcome();
    assert_eq!(outcome.code, Some(3), "{outcome}");
    assert_eq!(outcome.stderr.lines().count(), 1, "{outcome}");
}

#[test]
fn a_command_that_ends_when_it_is_to_stop_has_ended() {
    let machine = Machine::new();
    let script = "trap 'kill -KILL $!; exit 4' TSTP; sleep 60 & echo ready > ready; wait";
    let running = start_as_job(&machine, "backup", script);
    machine.wait_for_file("ready");
    running.signal(Signal::TSTP);
    let outcome = running.outcome();
    assert_eq!(outcome.code, Some(4), "{outcome}");
}
