//! `redsync run` when its lock is lost: the command ends, in time where that is possible, and the exit code says so.

mod support;

use std::time::{Duration, Instant};

use redsync_testkit::{RedisServer, servers, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use support::{Machine, Running, SOON, is_alive};

#[test]
fn a_command_whose_lock_a_stranger_took_is_ended_and_the_stranger_keeps_it() {
    let server = RedisServer::start();
    let machine = Machine::with_nodes([&server]);
    let running = machine.start_sh("--expiry 1s backup", "echo $$ > pid; exec sleep 60");
    machine.wait_for_file("pid");
    server.set("backup", "a stranger's token", None);
    let outcome = running.outcome();
    assert_eq!(outcome.code, Some(74), "{outcome}");
    assert!(
        outcome.stderr.contains("redsync: lock \"backup\" was lost, so the command was ended"),
        "{outcome}"
    );
    assert_eq!(server.get("backup").as_deref(), Some("a stranger's token"));
}

#[test]
fn a_command_that_will_not_end_gets_no_more_time_while_a_stranger_holds() {
    let server = RedisServer::start();
    let machine = Machine::with_nodes([&server]);
    let script = "trap '' TERM; echo $$ > pid; while :; do sleep 0.02; done";
    let running = machine.start_sh("--expiry 1h backup", script);
    let pid = machine.wait_for_file("pid");
    server.set("backup", "a stranger's token", None);
    // Who is continued looks at once whether the lock is still held.
    let looked = Instant::now();
    running.signal(Signal::CONT);
    wait_until("the command is gone", SOON, || !is_alive(&pid));
    let took = looked.elapsed();
    assert!(took < Duration::from_secs(1), "the command lived for {took:?}; {}", running.stderr());
    let outcome = running.outcome();
    assert_eq!(outcome.code, Some(74), "{outcome}");
}

#[test]
fn a_command_that_can_still_be_in_time_is_asked_to_end_first() {
    let server = RedisServer::start();
    let machine = Machine::with_nodes([&server]);
    let script = "trap 'echo term > term; exit 0' TERM; echo $$ > pid; while :; do sleep 0.02; done";
    let running = machine.start_sh("--expiry 6s backup", script);
    machine.wait_for_file("pid");
    server.pause();
    assert_eq!(machine.wait_for_file("term"), "term");
    let outcome = running.outcome();
    assert_eq!(outcome.code, Some(74), "{outcome}");
}

#[test]
fn a_command_that_is_told_to_end_is_ended_though_its_lock_is_renewed_after_all() {
    let server = RedisServer::start();
    let machine = Machine::with_nodes([&server]);
    let script = "trap 'echo term > term' TERM; echo $$ > pid; while :; do sleep 0.02; done";
    let running = machine.start_sh("--expiry 6s backup", script);
    machine.wait_for_file("pid");
    server.pause();
    machine.wait_for_file("term");
    let told = Instant::now();
    server.resume();
    // More than the second that was left when the command was told.
    wait_until("the lock is renewed", SOON, || server.pttl("backup") > 3000);
    let outcome = running.outcome();
    // A sixth of the expiry, in which a busy machine may be late.
    assert!(told.elapsed() < Duration::from_secs(4), "the command lived on; {outcome}");
    assert_eq!(outcome.code, Some(74), "{outcome}");
    assert!(outcome.stderr.contains("could not be renewed in time, so the command was ended"), "{outcome}");
}

#[test]
fn a_command_that_may_outlive_its_lock_is_told_of_nothing_and_the_operator_once() {
    for (own, code) in [(0, 74), (5, 5)] {
        let server = RedisServer::start();
        let machine = Machine::with_nodes([&server]);
        let go = machine.fifo("go");
        let script = format!(
            "trap 'echo term > term' TERM; echo $$ > pid; read line < go; echo done > done; exit {own}"
        );
        let running = machine.start_sh("--on-lost warn --expiry 1s backup", &script);
        let pid = machine.wait_for_file("pid");
        server.set("backup", "a stranger's token", None);
        wait_until("it warns", SOON, || running.stderr().contains("and the command goes on without it: "));
        assert!(is_alive(&pid));
        std::fs::write(go, "go\n").unwrap();
        let outcome = running.outcome();
        assert_eq!(outcome.code, Some(code), "{outcome}");
        assert_eq!(outcome.stderr.lines().count(), 1, "{outcome}");
        assert!(outcome.stderr.contains("another has it"), "{outcome}");
        assert_eq!(machine.read("done"), "done\n", "{outcome}");
        assert!(!machine.path("term").exists(), "{outcome}");
        assert_eq!(server.get("backup").as_deref(), Some("a stranger's token"));
    }
}

#[test]
fn a_command_that_may_outlive_its_lock_outlives_servers_that_hang() {
    let servers = servers(3);
    let machine = Machine::with_nodes(&servers);
    let go = machine.fifo("go");
    let running = machine.start_sh("--on-lost warn --expiry 3s backup", "echo $$ > pid; read line < go");
    machine.wait_for_file("pid");
    servers.iter().for_each(RedisServer::pause);
    wait_until("it warns", SOON, || running.stderr().contains("was lost, and the command goes on"));
    assert!(running.stderr().contains("did not answer within"), "{}", running.stderr());
    std::fs::write(go, "go\n").unwrap();
    let outcome = running.outcome();
    assert_eq!(outcome.code, Some(74), "{outcome}");
    assert_eq!(outcome.stderr.lines().count(), 1, "{outcome}");
}

#[test]
fn a_command_that_will_not_end_is_killed_with_all_it_started() {
    let server = RedisServer::start();
    let machine = Machine::with_nodes([&server]);
    let script = "trap '' TERM; sleep 60 & echo $! > grandchild; while :; do sleep 0.02; done";
    let running = machine.start_sh("--expiry 1s backup", script);
    let grandchild = machine.wait_for_file("grandchild");
    server.flushall();
    let outcome = running.outcome();
    assert_eq!(outcome.code, Some(74), "{outcome}");
    wait_until("the grandchild is gone", SOON, || !is_alive(&grandchild));
}

#[test]
fn what_outlives_its_command_is_killed_too_when_the_lock_is_lost() {
    let server = RedisServer::start();
    let machine = Machine::with_nodes([&server]);
    // The shell ends at TERM, what it started does not.
    let script = "(trap '' TERM; exec sleep 60) & echo $! > grandchild; wait";
    let running = machine.start_sh("--expiry 1s backup", script);
    let grandchild = machine.wait_for_file("grandchild");
    server.flushall();
    let outcome = running.outcome();
    assert_eq!(outcome.code, Some(74), "{outcome}");
    wait_until("the grandchild is gone", SOON, || !is_alive(&grandchild));
}

#[test]
fn what_left_the_group_and_lost_its_parent_is_ended_with_the_lock() {
    let server = RedisServer::start();
    let machine = Machine::with_nodes([&server]);
    let script =
        "(setsid sh -c 'trap : TERM; echo $$ > outside; while :; do sleep 0.02; done' &); exec sleep 60";
    let running = machine.start_sh("--expiry 1s backup", script);
    let outside = machine.wait_for_file("outside");
    server.flushall();
    let outcome = running.outcome();
    let is_left = is_alive(&outside);
    assert_eq!(outcome.code, Some(74), "{outcome}");
    assert!(!is_left && outcome.stderr.contains("so the command was ended"), "{outcome}");
}

#[test]
fn what_ran_before_the_command_is_not_ended_with_it() {
    let server = RedisServer::start();
    let machine = Machine::with_nodes([&server]);
    let script = "sleep 60 & echo $! > before; exec $redsync run --expiry 1s backup sh -c 'echo $$ > pid; exec sleep 60'";
    let running = Running::start(&mut machine.shell(script));
    let before = machine.wait_for_file("before");
    machine.wait_for_file("pid");
    server.flushall();
    let outcome = running.outcome();
    let is_left = is_alive(&before);
    kill_process(Pid::from_raw(before.parse().unwrap()).unwrap(), Signal::KILL).unwrap();
    assert_eq!(outcome.code, Some(74), "{outcome}");
    assert!(is_left, "{outcome}");
}

#[test]
fn when_every_server_hangs_the_command_is_gone_before_its_lock_can_expire() {
    let servers = servers(3);
    let machine = Machine::with_nodes(&servers);
    let expiry = Duration::from_secs(2);
    // It would not end by itself.
    let script = "trap '' TERM; echo $$ > pid; while :; do sleep 0.02; done";
    let running = machine.start_sh("--expiry 2s backup", script);
    let pid = machine.wait_for_file("pid");
    // The lock was granted or extended before this, and is not after.
    servers.iter().for_each(RedisServer::pause);
    let last_extension = Instant::now();
    wait_until("the command is gone", SOON, || !is_alive(&pid));
    let took = last_extension.elapsed();
    assert!(took < expiry, "the command lived for {took:?}; {}", running.stderr());
    let outcome = running.outcome();
    assert_eq!(outcome.code, Some(74), "{outcome}");
    assert!(
        outcome.stderr.contains("could not be renewed in time, so the command was ended: no quorum"),
        "{outcome}"
    );
    assert!(outcome.stderr.contains("did not answer within"), "{outcome}");
}

#[test]
fn a_short_outage_of_every_server_is_bridged() {
    let servers = servers(3);
    let machine = Machine::with_nodes(&servers);
    let go = machine.fifo("go");
    let running = machine.start_sh("--expiry 6s backup", "echo $$ > pid; read line < go; exit 3");
    machine.wait_for_file("pid");
    let before = servers[0].pttl("backup");
    servers.iter().for_each(RedisServer::pause);
    // Longer than the time between two extensions, shorter than the expiry.
    std::thread::sleep(Duration::from_millis(2500));
    servers.iter().for_each(RedisServer::resume);
    wait_until("the lock is extended again", SOON, || servers[0].pttl("backup") > before - 1000);
    std::fs::write(go, "go\n").unwrap();
    let outcome = running.outcome();
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(3), ""), "{outcome}");
}

#[test]
fn a_rolling_restart_of_servers_that_forget_loses_nothing() {
    let servers = servers(3);
    let machine = Machine::with_nodes(&servers);
    let go = machine.fifo("go");
    let running = machine.start_sh("--expiry 3s backup", "echo $REDSYNC_TOKEN > token; read line < go");
    let token = machine.wait_for_file("token");
    for server in &servers {
        server.restart();
        wait_until("the lease is there again", SOON, || server.get("backup").as_ref() == Some(&token));
    }
    std::fs::write(go, "go\n").unwrap();
    let outcome = running.outcome();
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""), "{outcome}");
}

#[test]
fn a_loss_that_is_only_noticed_at_the_release_is_told() {
    let server = RedisServer::start();
    let machine = Machine::with_nodes([&server]);
    let go = machine.fifo("go");
    let running = machine.start_sh("--expiry 1h backup", "echo $$ > pid; read line < go");
    machine.wait_for_file("pid");
    server.flushall();
    std::fs::write(go, "go\n").unwrap();
    let outcome = running.outcome();
    assert_eq!(outcome.code, Some(74), "{outcome}");
    assert!(outcome.stderr.contains("was lost while the command ran"), "{outcome}");
}

#[test]
fn a_loss_that_is_only_noticed_at_the_release_does_not_hide_the_code_of_a_command_that_may_outlive_it() {
    for (own, code) in [(0, 74), (5, 5)] {
        let server = RedisServer::start();
        let machine = Machine::with_nodes([&server]);
        let go = machine.fifo("go");
        let script = format!("echo $$ > pid; read line < go; exit {own}");
        let running = machine.start_sh("--on-lost warn --expiry 1h backup", &script);
        machine.wait_for_file("pid");
        server.flushall();
        std::fs::write(go, "go\n").unwrap();
        let outcome = running.outcome();
        assert_eq!(outcome.code, Some(code), "{outcome}");
        assert_eq!(outcome.stderr.matches("was lost while the command ran").count(), 1, "{outcome}");
    }
}

#[test]
fn a_release_that_reaches_nobody_is_told_and_the_exit_code_is_the_commands() {
    let server = RedisServer::start();
    let machine = Machine::with_nodes([&server]);
    let go = machine.fifo("go");
    let running = machine.start_sh("--expiry 1h backup", "echo $$ > pid; read line < go; exit 4");
    machine.wait_for_file("pid");
    server.kill();
    std::fs::write(go, "go\n").unwrap();
    let outcome = running.outcome();
    assert_eq!(outcome.code, Some(4), "{outcome}");
    assert!(outcome.stderr.contains("its lock may stay until it expires"), "{outcome}");
}
