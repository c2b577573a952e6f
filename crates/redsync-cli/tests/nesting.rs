//! `redsync` under a lock that it would wait for: refused, where it would wait for ever.

mod support;

use redsync_testkit::RedisServer;
use support::{Machine, Running, finish, is_alive};

#[test]
fn a_lock_that_an_enclosing_run_holds_is_refused_in_words() {
    let server = RedisServer::start();
    for machine in [Machine::new(), Machine::with_nodes([&server])] {
        for script in [
            "$redsync run -q backup -- $redsync run -q backup -- true",
            "$redsync run -q backup -- $redsync lock -q backup",
            "$redsync run -q backup -- sh -c '$redsync run -q other -- $redsync run -q backup -- true'",
            "$redsync run -q 'a \"b]' -- sh -c '$redsync run -q other -- $redsync run -q \"a \\\"b]\" -- true'",
        ] {
            let outcome = finish(&mut machine.shell(script));
            assert_eq!(outcome.code, Some(64), "{script}: {outcome}");
            assert!(
                outcome
                    .stderr
                    .contains("is held by the redsync that runs this command: waiting for it would deadlock"),
                "{script}: {outcome}"
            );
            assert_eq!(outcome.stderr.lines().count(), 1, "{script}: {outcome}");
        }
    }
}

#[test]
fn other_names_and_other_nodes_are_other_locks() {
    let server = RedisServer::start();
    let machine = Machine::with_nodes([&server]);
    for script in [
        "$redsync run -q backup -- $redsync run -q other -- true",
        "env -u REDSYNC_NODES $redsync run -q backup -- env REDSYNC_NODES=$REDSYNC_NODES $redsync run -q backup -- true",
    ] {
        let outcome = finish(&mut machine.shell(script));
        assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""), "{script}: {outcome}");
    }
}

#[test]
fn who_does_not_wait_is_told_that_the_lock_is_taken() {
    let machine = Machine::new();
    let outcome =
        finish(&mut machine.shell("$redsync run -q backup -- $redsync run -q --try backup -- true"));
    assert_eq!(outcome.code, Some(75), "{outcome}");
}

#[test]
fn a_wait_that_ends_by_itself_is_no_deadlock() {
    let machine = Machine::new();
    let script = "$redsync run -q backup -- $redsync run --wait 200ms backup -- true";
    let outcome = finish(&mut machine.shell(script));
    assert_eq!(outcome.code, Some(75), "{outcome}");
    assert!(outcome.stderr.contains("lock \"backup\" is taken: "), "{outcome}");
}

#[test]
fn a_process_that_outlived_its_lock_waits_like_any_other() {
    let machine = Machine::new();
    let _holder = machine.hold("backup");
    let mut command = machine.command(["run", "-q", "--wait", "300ms", "backup", "--", "true"]);
    command.env("REDSYNC_HELD", "[[\"backup\",\"an older token\"]]");
    command.env("REDSYNC_NAME", "backup").env("REDSYNC_TOKEN", "an older token");
    let outcome = finish(&mut command);
    assert_eq!(outcome.code, Some(75), "{outcome}");
}

#[test]
fn the_innermost_lock_suffices_where_only_that_is_told() {
    let machine = Machine::new();
    let script = "$redsync run -q backup -- env -u REDSYNC_HELD $redsync run -q backup -- true";
    let outcome = finish(&mut machine.shell(script));
    assert_eq!(outcome.code, Some(64), "{outcome}");
    let unset = "$redsync run -q backup -- env -u REDSYNC_HELD -u REDSYNC_TOKEN $redsync run -q --wait 100ms backup -- true";
    let outcome = finish(&mut machine.shell(unset));
    assert_eq!(outcome.code, Some(75), "{outcome}");
}

#[test]
fn the_command_of_an_inner_run_ends_with_the_outer_lock() {
    let server = RedisServer::start();
    let machine = Machine::with_nodes([&server]);
    let script = "exec $redsync run -q --expiry 1s backup -- env -u REDSYNC_NODES $redsync run -q --expiry 1h other -- \
                  sh -c 'trap : TERM; echo $$ > pid; while :; do sleep 0.02; done'";
    let running = Running::start(&mut machine.shell(script));
    let pid = machine.wait_for_file("pid");
    server.flushall();
    let outcome = running.outcome();
    let is_left = is_alive(&pid);
    assert_eq!(outcome.code, Some(74), "{outcome}");
    assert!(!is_left && outcome.stderr.contains("so the command was ended"), "{outcome}");
}
