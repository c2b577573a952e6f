//! When redsync itself is gone: the kernel tells its command, and nobody else.

mod support;

use std::fs;
use std::process;
use std::time::Duration;

use redsync_testkit::wait_until;
use rustix::process::{Pid, Signal, kill_process};
use support::{Machine, Running, SOON, ended_by, is_alive};

/// What the kernel does takes no time. The rest is for a busy machine.
const AT_ONCE: Duration = Duration::from_secs(1);

#[track_caller]
fn kill_outright(running: Running) {
    running.signal(Signal::KILL);
    let outcome = running.outcome();
    assert_eq!(ended_by(&outcome), Some(9), "{outcome}");
}

#[test]
fn the_command_of_a_redsync_that_is_killed_gets_term_from_the_kernel() {
    let machine = Machine::new();
    let script = "trap 'echo told > told; exit 0' TERM; echo $$ > pid; while :; do sleep 0.02; done";
    let running = machine.start_sh("--expiry 1h backup", script);
    let pid = machine.wait_for_file("pid");
    kill_outright(running);
    wait_until("the command is told", AT_ONCE, || machine.read("told") == "told\n");
    wait_until("the command is gone", SOON, || !is_alive(&pid));
}

#[test]
fn the_command_is_told_whatever_program_it_becomes() {
    let machine = Machine::new();
    let running = machine.start_sh("--expiry 1h backup", "echo $$ > pid; exec sleep 60");
    let pid = machine.wait_for_file("pid");
    kill_outright(running);
    wait_until("the command is gone", AT_ONCE, || !is_alive(&pid));
}

#[test]
fn what_the_command_started_is_not_told() {
    let machine = Machine::new();
    let running =
        machine.start_sh("--expiry 1h backup", "sleep 60 & echo $! > grandchild; echo $$ > pid; wait");
    let (grandchild, pid) = (machine.wait_for_file("grandchild"), machine.wait_for_file("pid"));
    kill_outright(running);
    wait_until("the command is gone", SOON, || !is_alive(&pid));
    assert!(is_alive(&grandchild), "the help says that it is not");
    kill_process(Pid::from_raw(grandchild.parse().unwrap()).unwrap(), Signal::KILL).unwrap();
}

#[test]
fn a_command_that_may_outlive_its_lock_is_not_told() {
    let machine = Machine::new();
    let go = machine.fifo("go");
    let script = "trap 'echo told > told' TERM; echo $$ > pid; read line < go; echo done > done";
    let running = machine.start_sh("--on-lost warn --expiry 1h backup", script);
    machine.wait_for_file("pid");
    kill_outright(running);
    fs::write(go, "go\n").unwrap();
    assert_eq!(machine.wait_for_file("done"), "done");
    assert!(!machine.path("told").exists());
}

#[test]
fn a_command_whose_redsync_is_gone_before_it_begins_does_not_begin() {
    let machine = Machine::new();
    let begin = |parent: u32| {
        let parent = format!("--parent={parent}");
        machine.redsync(["__exec", &parent, "--", "sh", "-c", "echo began"])
    };
    let orphan = begin(u32::try_from(i32::MAX).unwrap());
    assert_eq!(orphan.code, Some(143), "{orphan}");
    assert_eq!((orphan.stdout.as_str(), orphan.stderr.as_str()), ("", ""), "{orphan}");
    let child = begin(process::id());
    assert_eq!((child.code, child.stdout.as_str()), (Some(0), "began\n"), "{child}");
}

#[test]
fn a_redsync_whose_file_was_replaced_meanwhile_still_begins_its_command() {
    let machine = Machine::new();
    let copy = machine.path("redsync");
    fs::copy(env!("CARGO_BIN_EXE_redsync"), &copy).unwrap();
    let holder = machine.hold("backup");
    let mut command = machine.shell("exec ./redsync run -v backup -- echo mine > mine");
    let waiter = Running::start(&mut command);
    wait_until("the waiter has started", SOON, || waiter.stderr().contains("this machine only"));
    fs::remove_file(&copy).unwrap();
    drop(holder);
    let outcome = waiter.outcome();
    assert_eq!(outcome.code, Some(0), "{outcome}");
    assert_eq!(machine.read("mine"), "mine\n");
}
