//! When redsync itself is gone: the kernel tells its command, and the watcher ends all that is left in time.

mod support;

use std::fs;
use std::process;
use std::time::Duration;

use redsync_testkit::{RedisServer, wait_until};
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
fn what_the_command_started_is_told_too() {
    let machine = Machine::new();
    let script =
        "(trap 'echo told > told; exit 0' TERM; echo ready > ready; while :; do sleep 0.02; done) & wait";
    let running = machine.start_sh("--expiry 1h backup", script);
    machine.wait_for_file("ready");
    kill_outright(running);
    wait_until("the grandchild is told", SOON, || machine.read("told") == "told\n");
}

#[test]
fn the_command_is_told_once() {
    let machine = Machine::new();
    let script = "trap 'echo told >> told' TERM; echo $$ > pid; while :; do sleep 0.02; done";
    let running = machine.start_sh("--expiry 1m backup", script);
    let pid = machine.wait_for_file("pid");
    let watcher = watcher_of(&running);
    kill_outright(running);
    wait_until("the command is told", SOON, || machine.read("told") == "told\n");
    kill(&pid);
    wait_until("the watcher is done", SOON, || !is_alive(&watcher));
    assert_eq!(machine.read("told"), "told\n");
}

#[test]
fn what_will_not_end_is_gone_before_the_next_can_hold() {
    let server = RedisServer::start();
    let machine = Machine::with_nodes([&server]);
    let script = "trap '' TERM; sleep 60 & echo $! > grandchild; echo $$ > pid; while :; do sleep 0.02; done";
    let running = machine.start_sh("--expiry 2s backup", script);
    let (grandchild, pid) = (machine.wait_for_file("grandchild"), machine.wait_for_file("pid"));
    kill_outright(running);
    assert!(is_alive(&grandchild), "it has time to end by itself");
    // A zombie is gone, whenever it is reaped.
    let beside = format!(
        "for pid in {pid} {grandchild}; do grep -qs '^State:.[^ZX]' /proc/$pid/status && echo beside > beside; done; :"
    );
    let next = machine.run_sh("backup", &beside);
    assert_eq!(next.code, Some(0), "{next}");
    assert!(!machine.path("beside").exists(), "the next held beside what the last one left");
}

#[test]
fn what_is_stopped_is_ended_too() {
    let machine = Machine::new();
    let running =
        machine.start_sh("--expiry 1s backup", "sleep 60 & echo $! > grandchild; echo $$ > pid; wait");
    let (grandchild, pid) = (machine.wait_for_file("grandchild"), machine.wait_for_file("pid"));
    for process in [&grandchild, &pid] {
        kill_process(Pid::from_raw(process.parse().unwrap()).unwrap(), Signal::STOP).unwrap();
    }
    kill_outright(running);
    wait_until("both are gone", SOON, || !is_alive(&grandchild) && !is_alive(&pid));
}

#[test]
fn what_left_the_group_is_ended_though_its_parent_is_gone() {
    let server = RedisServer::start();
    let machine = Machine::with_nodes([&server]);
    let script =
        "(setsid sh -c 'trap : TERM; echo $$ > outside; while :; do sleep 0.02; done' &); exec sleep 60";
    let running = machine.start_sh("--expiry 2s backup", script);
    let outside = machine.wait_for_file("outside");
    kill_outright(running);
    wait_until("it is gone", SOON, || !is_alive(&outside));
}

#[test]
fn what_left_the_group_without_the_commands_environment_is_ended_if_it_was_there_at_a_renewal() {
    let server = RedisServer::start();
    let machine = Machine::with_nodes([&server]);
    let script = "(setsid env -i sh -c 'echo $$ > outside; exec sleep 60' &); exec sleep 60";
    let running = machine.start_sh("--expiry 1s backup", script);
    let outside = machine.wait_for_file("outside");
    // Two renewals, or three: the time of the lock grows again.
    for _ in 0..2 {
        wait_until("it is about to be renewed", SOON, || server.pttl("backup") < 750);
        wait_until("it is renewed", SOON, || server.pttl("backup") > 850);
    }
    kill_outright(running);
    wait_until("it is gone", SOON, || !is_alive(&outside));
}

#[test]
fn what_ran_before_the_command_is_not_ended_when_redsync_is_killed() {
    let machine = Machine::new();
    let script = "sleep 60 & echo $! > before; exec $redsync run --expiry 1s backup sh -c 'echo $$ > pid; exec sleep 60'";
    let running = Running::start(&mut machine.shell(script));
    let before = machine.wait_for_file("before");
    machine.wait_for_file("pid");
    let watcher = watcher_of(&running);
    kill_outright(running);
    wait_until("the watcher is gone", SOON, || !is_alive(&watcher));
    assert!(is_alive(&before));
    kill(&before);
}

#[test]
fn what_lost_its_parent_is_reaped_while_the_command_runs() {
    let machine = Machine::new();
    let go = machine.fifo("go");
    let script = "sh -c 'sleep 0.1 & echo $! > orphan'; read line < go";
    let running = machine.start_sh("backup", script);
    let orphan = machine.wait_for_file("orphan");
    wait_until("it is reaped", SOON, || !fs::exists(format!("/proc/{orphan}")).unwrap());
    fs::write(go, "go\n").unwrap();
    let outcome = running.outcome();
    assert_eq!(outcome.code, Some(0), "{outcome}");
}

#[test]
fn the_watcher_has_a_name_of_its_own() {
    let machine = Machine::new();
    let running = machine.hold("backup");
    let watcher = watcher_of(&running);
    let name = || fs::read_to_string(format!("/proc/{watcher}/comm")).unwrap_or_default();
    wait_until("it has its name", SOON, || name() == "redsync-watch\n");
}

#[test]
fn the_watcher_leaves_alone_what_the_command_left_running() {
    let machine = Machine::new();
    let go = machine.fifo("go");
    let running = machine.start_sh(
        "backup",
        "sleep 60 & echo $! > left; (setsid sh -c 'echo $$ > far; exec sleep 60' &); read line < go; exit 3",
    );
    let (left, far) = (machine.wait_for_file("left"), machine.wait_for_file("far"));
    let watcher = watcher_of(&running);
    fs::write(go, "go\n").unwrap();
    let outcome = running.outcome();
    assert_eq!(outcome.code, Some(3), "{outcome}");
    wait_until("the watcher is gone", SOON, || !is_alive(&watcher));
    for left in [left, far] {
        assert!(is_alive(&left), "the help says that it is outside the lock");
        kill(&left);
    }
}

#[test]
fn the_watcher_holds_nothing_that_the_caller_waits_for() {
    let machine = Machine::new();
    // `$(…)` ends when nobody has the pipe open any more.
    let script =
        "out=$($redsync run -q backup -- sh -c 'echo $$ > pid; echo out' 2>&1 3>&1); echo \"$out\" > seen";
    let outcome = Running::start(&mut machine.shell(script)).outcome();
    assert_eq!(outcome.code, Some(0), "{outcome}");
    assert_eq!(machine.read("seen"), "out\n");
}

#[test]
fn the_watcher_stays_when_its_name_or_group_is_signalled() {
    let machine = Machine::new();
    let running = machine.start_sh("--expiry 1h backup", "echo $$ > pid; exec sleep 60");
    let pid = machine.wait_for_file("pid");
    let watcher = watcher_of(&running);
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        kill_process(Pid::from_raw(watcher.parse().unwrap()).unwrap(), signal).unwrap();
    }
    kill_outright(running);
    wait_until("the command is gone", SOON, || !is_alive(&pid));
    wait_until("the watcher is gone", SOON, || !is_alive(&watcher));
}

/// The process that watches over the command of a redsync that runs.
#[track_caller]
fn watcher_of(redsync: &Running) -> String {
    let redsync = redsync.pid().as_raw_nonzero();
    let children = fs::read_to_string(format!("/proc/{redsync}/task/{redsync}/children")).unwrap();
    let line = |pid: &str| fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let watcher = children.split_whitespace().find(|pid| line(pid).split('\0').any(|word| word == "__watch"));
    watcher.expect("it has a watcher").to_owned()
}

fn kill(pid: &str) {
    kill_process(Pid::from_raw(pid.parse().unwrap()).unwrap(), Signal::KILL).unwrap();
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
