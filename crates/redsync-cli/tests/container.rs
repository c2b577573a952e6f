//! `redsync run` as the first process of a container, which inherits all that lose their parent.

mod support;

use std::fs;
use std::path::Path;

use redsync_testkit::{RedisServer, wait_until};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use support::{Machine, Running, SOON};

/// `run` as the first process of a PID namespace.
#[track_caller]
fn start_as_first(machine: &Machine, script: &str) -> Running {
    assert!(geteuid().is_root(), "these tests make PID namespaces: run them as root, as CI does");
    let script = format!(
        "exec unshare --pid --fork --mount-proc --kill-child $redsync run -q backup -- sh -c '{script}'"
    );
    Running::start(&mut machine.shell(&script))
}

/// The first process of the namespace, as this one sees it.
fn first_of(running: &Running) -> Pid {
    let unshare = running.pid().as_raw_nonzero();
    let children = fs::read_to_string(format!("/proc/{unshare}/task/{unshare}/children")).unwrap();
    Pid::from_raw(children.trim().parse().unwrap()).unwrap()
}

#[test]
fn it_reaps_orphans() {
    let machine = Machine::new();
    // A zombie stays in /proc until it is reaped.
    let script = r#"sh -c "sleep 0.1 & echo \$! > orphan"
        tries=0
        while [ -e /proc/$(cat orphan) ]; do
            tries=$((tries + 1)); [ $tries -lt 400 ] || exit 9
            sleep 0.02
        done
        [ $$ -lt 20 ] || exit 8
        exit 3"#;
    let outcome = start_as_first(&machine, script).outcome();
    assert_eq!(outcome.code, Some(3), "{outcome}");
}

#[test]
fn it_reaps_orphans_without_proc() {
    assert!(geteuid().is_root(), "this test makes PID namespaces: run it as root, as CI does");
    // The local store needs /proc.
    let server = RedisServer::start();
    let machine = Machine::with_nodes([&server]);
    let go = machine.fifo("go");
    // The shell's own mount namespace: nobody else loses /proc.
    let script = r#"exec unshare --pid --fork --mount --kill-child sh -c '
        mount -t tmpfs none /proc || exit 9
        exec $redsync run -q backup -- sh -c "(sleep 0.1 & sleep 0.1 & echo \$\$ > pid); read line < go; exit 3"'"#;
    let running = Running::start(&mut machine.shell(script));
    machine.wait_for_file("pid");
    let first = first_of(&running).as_raw_nonzero();
    // The command only: where /proc is not there, no watcher starts.
    wait_until("the orphans are reaped", SOON, || {
        let children = fs::read_to_string(format!("/proc/{first}/task/{first}/children")).unwrap();
        children.split_whitespace().count() == 1
    });
    fs::write(go, "go\n").unwrap();
    let outcome = running.outcome();
    assert_eq!(outcome.code, Some(3), "{outcome}");
}

#[test]
fn the_commands_own_status_is_kept_among_many_orphans() {
    let machine = Machine::new();
    let script = "n=0; while [ $n -lt 150 ]; do (sh -c : &); n=$((n + 1)); done; exit 5";
    let outcome = start_as_first(&machine, script).outcome();
    assert_eq!(outcome.code, Some(5), "{outcome}");
}

#[test]
fn it_sends_signals_on() {
    for (signal, name) in [(Signal::TERM, "TERM"), (Signal::INT, "INT"), (Signal::HUP, "HUP")] {
        let machine = Machine::new();
        let script = format!(r#"trap "exit 7" {name}; echo $$ > pid; while :; do sleep 0.02; done"#);
        let running = start_as_first(&machine, &script);
        machine.wait_for_file("pid");
        kill_process(first_of(&running), signal).unwrap();
        let outcome = running.outcome();
        assert_eq!(outcome.code, Some(7), "{name}: {outcome}");
    }
}

#[test]
fn a_signal_ends_its_wait() {
    let machine = Machine::new();
    let _holder = machine.hold("backup");
    let running = start_as_first(&machine, "true");
    wait_until("it waits in the queue", SOON, || {
        let status = machine.redsync(["status", "--quiet", "--json", "backup"]);
        status.stdout.contains("\"waiting\":1")
    });
    kill_process(first_of(&running), Signal::TERM).unwrap();
    let outcome = running.outcome();
    assert_eq!(outcome.code, Some(143), "{outcome}");
}

#[test]
fn children_that_it_inherited_are_reaped_while_it_waits() {
    let machine = Machine::new();
    let _holder = machine.hold("backup");
    let script = "sleep 0.3 & echo $! > inherited; exec $redsync run -q backup -- true";
    let running = Running::start(&mut machine.shell(script));
    let inherited = machine.wait_for_file("inherited");
    wait_until("it is reaped", SOON, || !Path::new("/proc").join(&inherited).exists());
    running.signal(Signal::TERM);
    let outcome = running.outcome();
    assert_eq!(outcome.code, Some(143), "{outcome}");
}
