//! Which words are redsync's, and which are the command's.

mod support;

use redsync_testkit::RedisServer;
use support::{Machine, finish};

#[test]
fn the_first_word_after_the_name_that_is_no_option_begins_the_command() {
    let machine = Machine::new();
    for arguments in [
        "run -q job printf %s. --try -q -f x --node y -- z -h",
        "run job -q printf %s. --try -q -f x --node y -- z -h",
        "run -q job --expiry 9s --owner me printf %s. --try -q -f x --node y -- z -h",
        "-q run job -- printf %s. --try -q -f x --node y -- z -h",
        "run --try job -q -- printf %s. --try -q -f x --node y -- z -h",
    ] {
        let outcome = machine.redsync(arguments.split(' '));
        assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""), "{arguments}: {outcome}");
        assert_eq!(outcome.stdout, "--try.-q.-f.x.--node.y.--.z.-h.", "{arguments}: {outcome}");
    }
}

#[test]
fn after_two_dashes_the_command_may_begin_with_a_dash() {
    let outcome = Machine::new().redsync(["run", "-q", "job", "--", "--try"]);
    assert_eq!(
        (outcome.code, outcome.stderr.as_str()),
        (Some(127), "redsync: command \"--try\" not found\n")
    );
}

#[test]
fn the_commands_own_help_is_asked_of_the_command() {
    let machine = Machine::new();
    let outcome = machine.redsync(["run", "-q", "job", "echo", "--help", "me"]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(0), "--help me\n"), "{outcome}");
    let outcome = machine.redsync(["run", "-q", "job", "--help"]);
    assert!(outcome.stdout.contains("Usage: redsync run [OPTIONS] NAME [--] COMMAND [ARGS]..."), "{outcome}");
}

#[test]
fn a_text_is_run_by_sh_before_or_after_the_name() {
    let machine = Machine::new();
    let text = "echo \"$REDSYNC_NAME $#\"; exit 3";
    for arguments in [
        vec!["run", "-q", "job", "-c", text],
        vec!["run", "-c", text, "-q", "job"],
        vec!["run", "-q", "job", "--command", text],
    ] {
        let outcome = machine.redsync(&arguments);
        assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(3), "job 0\n"), "{arguments:?}: {outcome}");
    }
}

#[test]
fn waiting_for_no_time_is_trying() {
    let server = RedisServer::start();
    let machine = Machine::with_nodes([&server]);
    let held = machine.lock("--owner web-2 job");
    for wait in ["0s", "0ms", "0m0s"] {
        let outcome = machine.redsync(["run", "--wait", wait, "job", "true"]);
        assert_eq!(outcome.code, Some(75), "{outcome}");
        assert!(outcome.took.as_secs() < 5, "{outcome}");
    }
    assert_eq!(machine.redsync(["unlock", &held]).code, Some(0));
    assert_eq!(machine.redsync(["run", "--wait", "0s", "job", "true"]).code, Some(0));
}

#[test]
fn the_code_of_a_taken_lock_can_be_chosen() {
    let server = RedisServer::start();
    let machine = Machine::with_nodes([&server]);
    machine.lock("--owner web-2 job");
    for (arguments, code) in [
        ("run --try -E 9 job true", 9),
        ("run -E 255 --wait 50ms job true", 255),
        ("lock --conflict-exit-code 0 --try job", 0),
        ("run --try job true", 75),
    ] {
        let outcome = machine.redsync(arguments.split(' '));
        assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(code), ""), "{arguments}: {outcome}");
        assert!(outcome.stderr.contains("is held by web-2"), "{arguments}: {outcome}");
    }
    // Only where the lock is taken.
    server.kill();
    let outcome = machine.redsync(["run", "--try", "-E", "9", "job", "true"]);
    assert_eq!(outcome.code, Some(69), "{outcome}");
}

#[test]
fn quiet_leaves_a_taken_lock_to_the_exit_code() {
    let server = RedisServer::start();
    let machine = Machine::with_nodes([&server]);
    machine.lock("job");
    for (arguments, code) in [
        ("run -q --try job true", 75),
        ("run -q --wait 50ms -E 9 job true", 9),
        ("lock --json -q --try job", 75),
    ] {
        let outcome = machine.redsync(arguments.split(' '));
        assert_eq!(outcome.code, Some(code), "{arguments}: {outcome}");
        assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("", ""), "{arguments}: {outcome}");
    }
    server.kill();
    let outcome = machine.redsync(["run", "-q", "--try", "job", "true"]);
    assert!(outcome.stderr.contains("cannot connect"), "{outcome}");
}

#[test]
fn verbose_says_which_nodes_are_used() {
    let server = RedisServer::start();
    let machine = Machine::with_nodes([&server]);
    let outcome = machine.redsync(["run", "-v", "job", "true"]);
    let said = format!("redsync: locking on 1 nodes, 1 must agree: {}\n", server.url());
    assert_eq!((outcome.code, outcome.stderr), (Some(0), said));
}

#[test]
fn help_is_a_command_too() {
    let machine = Machine::new();
    let all = finish(&mut machine.command(["help"]));
    assert_eq!((all.code, &all.stdout), (Some(0), &machine.redsync(["--help"]).stdout), "{all}");
    let run = machine.redsync(["help", "run"]);
    assert_eq!((run.code, &run.stdout), (Some(0), &machine.redsync(["run", "--help"]).stdout), "{run}");
}
