//! `redsync run`: the command's output, environment, exit code and signals.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use redsync_testkit::{RedisServer, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use support::{Machine, Running, SOON, finish, is_alive, locks_on};

#[test]
fn the_commands_output_and_exit_code_are_those_of_run() {
    let machine = Machine::new();
    let outcome = machine.run_sh("--quiet backup", "echo out; echo err >&2; exit 3");
    assert_eq!(outcome.code, Some(3), "{outcome}");
    assert_eq!(outcome.stdout, "out\n", "{outcome}");
    assert_eq!(outcome.stderr, "err\n", "{outcome}");
}

#[test]
fn without_nodes_it_locks_on_this_machine() {
    let machine = Machine::new();
    let outcome = machine.run_sh("backup", "true");
    assert_eq!(outcome.code, Some(0), "{outcome}");
    assert!(outcome.stderr.contains("on this machine only"), "{outcome}");
    let directory = machine.path("state/redsync");
    assert_eq!(fs::metadata(&directory).unwrap().permissions().mode() & 0o777, 0o700);
    assert!(directory.join("locks.db").exists());
}

#[test]
fn with_nodes_it_says_nothing() {
    let server = RedisServer::start();
    let outcome = Machine::with_nodes([&server]).run_sh("backup", "true");
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""), "{outcome}");
    assert_eq!(locks_on(&server), Vec::<String>::new());
}

#[test]
fn a_command_that_is_not_there_is_127_and_leaves_no_lock() {
    let machine = Machine::new();
    let outcome = machine.redsync(["run", "backup", "--", "no-such-command-anywhere"]);
    assert_eq!(outcome.code, Some(127), "{outcome}");
    assert!(outcome.stderr.contains("redsync: command \"no-such-command-anywhere\" not found"), "{outcome}");
    let next = machine.run_sh("--try backup", "true");
    assert_eq!(next.code, Some(0), "{next}");
}

#[test]
fn a_command_that_cannot_be_executed_is_126_and_leaves_no_lock() {
    let machine = Machine::new();
    fs::write(machine.path("script"), "#!/bin/sh\n").unwrap();
    for command in ["./script", "/"] {
        let outcome = machine.redsync(["run", "backup", "--", command]);
        assert_eq!(outcome.code, Some(126), "{outcome}");
        assert!(outcome.stderr.contains("cannot execute"), "{outcome}");
    }
    let next = machine.run_sh("--try backup", "true");
    assert_eq!(next.code, Some(0), "{next}");
}

#[test]
fn what_cannot_be_executed_is_told_once_and_as_json_where_that_is_asked_for() {
    let machine = Machine::new();
    fs::write(machine.path("script"), "#!/bin/sh\n").unwrap();
    for on_lost in ["terminate", "warn"] {
        for (command, code, kind) in
            [("no-such-command", 127, "command_not_found"), ("./script", 126, "command_not_executable")]
        {
            let text = machine.redsync(["run", "-q", "--on-lost", on_lost, "backup", "--", command]);
            assert_eq!(text.code, Some(code), "{text}");
            assert_eq!(text.stderr.lines().count(), 1, "{text}");
            assert!(text.stderr.starts_with("redsync: c") && text.stderr.contains(command), "{text}");
            let json =
                machine.redsync(["run", "-q", "--json", "--on-lost", on_lost, "backup", "--", command]);
            assert_eq!(json.code, Some(code), "{json}");
            let said: serde_json::Value = serde_json::from_str(&json.stderr).expect("one object");
            assert_eq!((&said["error"], &said["nodes"]), (&kind.into(), &serde_json::json!([])), "{json}");
        }
    }
}

#[test]
fn the_command_has_the_signals_that_it_would_have_without_redsync() {
    let machine = Machine::new();
    let signals = ["grep", "-E", "^Sig(Blk|Ign|Cgt)", "/proc/self/status"];
    let mut plain = Command::new("env");
    plain.arg("--default-signal=INT,QUIT,HUP,TERM,USR1,USR2,TSTP,TTIN,TTOU,CONT").args(signals);
    let plain = finish(&mut plain);
    for on_lost in ["terminate", "warn"] {
        let arguments = ["run", "-q", "--on-lost", on_lost, "backup", "--"].into_iter().chain(signals);
        let outcome = machine.redsync(arguments);
        assert_eq!((outcome.code, &outcome.stdout), (Some(0), &plain.stdout), "{outcome}");
    }
}

#[test]
fn the_command_finds_the_lock_in_its_environment() {
    let server = RedisServer::start();
    let machine = Machine::with_nodes([&server]);
    let go = machine.fifo("go");
    let script = "echo \"$REDSYNC_NAME $REDSYNC_TOKEN\" > seen; read line < go";
    let running = machine.start_sh("--owner nightly orders:42", script);
    let seen = machine.wait_for_file("seen");
    let token = server.get("orders:42").expect("the key is there");
    assert_eq!(seen, format!("orders:42 {token}"));
    assert!(token.ends_with("@nightly"), "{token}");
    fs::write(go, "go\n").unwrap();
    let outcome = running.outcome();
    assert_eq!(outcome.code, Some(0), "{outcome}");
}

#[test]
fn a_signal_reaches_the_command_whose_answer_counts() {
    let machine = Machine::new();
    for (signal, name) in [
        (Signal::TERM, "TERM"),
        (Signal::INT, "INT"),
        (Signal::HUP, "HUP"),
        (Signal::QUIT, "QUIT"),
        (Signal::USR1, "USR1"),
        (Signal::USR2, "USR2"),
    ] {
        let ready = format!("ready-{name}");
        let script = format!("trap 'exit 7' {name}; echo ready > {ready}; while :; do sleep 0.02; done");
        let running = machine.start_sh("backup", &script);
        machine.wait_for_file(&ready);
        running.signal(signal);
        let outcome = running.outcome();
        assert_eq!(outcome.code, Some(7), "{name}: {outcome}");
    }
}

#[test]
fn a_command_that_is_killed_gives_128_and_the_signal() {
    let machine = Machine::new();
    let killed = machine.run_sh("backup", "kill -KILL $$");
    assert_eq!(killed.code, Some(137), "{killed}");
    let running = machine.start_sh("backup", "echo ready > ready; exec sleep 60");
    machine.wait_for_file("ready");
    running.signal(Signal::TERM);
    let terminated = running.outcome();
    assert_eq!(terminated.code, Some(143), "{terminated}");
}

#[test]
fn what_the_command_started_gets_the_signal_too() {
    let machine = Machine::new();
    let running = machine.start_sh("backup", "sleep 60 & echo $! > grandchild; wait");
    let grandchild = machine.wait_for_file("grandchild");
    assert!(is_alive(&grandchild));
    running.signal(Signal::TERM);
    let outcome = running.outcome();
    assert_eq!(outcome.code, Some(143), "{outcome}");
    wait_until("the grandchild is gone", SOON, || !is_alive(&grandchild));
}

#[test]
fn a_signal_that_was_ignored_from_the_start_stays_so_as_nohup_asks_for() {
    let machine = Machine::new();
    let go = machine.fifo("go");
    let script = "trap '' HUP; exec $redsync run backup -- sh -c 'echo $$ > pid; read line < go; exit 5'";
    let mut running = Running::start(&mut machine.shell(script));
    let command = machine.wait_for_file("pid");
    running.signal(Signal::HUP);
    kill_process(Pid::from_raw(command.parse().unwrap()).unwrap(), Signal::HUP).unwrap();
    assert!(running.is_running());
    fs::write(go, "go\n").unwrap();
    let outcome = running.outcome();
    assert_eq!(outcome.code, Some(5), "{outcome}");
}

#[test]
fn the_lock_is_extended_while_a_command_outlives_its_expiry() {
    let server = RedisServer::start();
    for machine in [Machine::new(), Machine::with_nodes([&server])] {
        let script = "echo held > held; sleep 7; echo over > over";
        let mut running = machine.start_sh("--expiry 3s backup", script);
        machine.wait_for_file("held");
        let mut refused = 0;
        while running.is_running() {
            let rival = machine.run_sh("--try --expiry 40s backup", "test -e over || echo early > early");
            match rival.code {
                Some(75) => refused += 1,
                _ => assert_eq!(rival.code, Some(0), "{rival}"),
            }
        }
        let outcome = running.outcome();
        assert_eq!(outcome.code, Some(0), "{outcome}");
        assert!(refused >= 5, "only {refused} rivals came");
        assert!(!machine.path("early").exists(), "a rival got in while the command ran: {outcome}");
    }
}
