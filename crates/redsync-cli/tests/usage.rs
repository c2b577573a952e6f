//! What is refused, what is helped with, and what is never shown.

mod support;

use redsync_testkit::RedisServer;
use support::{Machine, finish};

#[test]
fn what_cannot_be_right_is_64_and_says_what_would_be() {
    let machine = Machine::new();
    for (arguments, said) in [
        ("run --expiry 8 backup -- true", "8 has no unit; write 8s"),
        ("run --expiry 0s backup -- true", "zero"),
        ("run --expiry 1ms backup -- true", "invalid expiry"),
        ("run --wait soon backup -- true", "write 500ms, 8s"),
        ("run --try --wait 1s backup -- true", "--wait"),
        ("run", "<NAME>"),
        ("run", " (redsync run --help tells more)"),
        ("run backup", " (redsync run --help tells more)"),
        ("rum backup -- true", " (redsync --help tells more)"),
        ("run -c true", "<NAME>"),
        ("run -- true", "there is no lock name before `--`; write `redsync run NAME -- true …`"),
        ("run --try -- true -f x", "there is no lock name before `--`"),
        ("run backup", "there is no command to run under lock 'backup'; write `redsync run backup COMMAND`"),
        ("run backup --", "there is no command to run under lock 'backup'"),
        ("run backup -c", "a value is required for '--command <TEXT>'"),
        ("run backup -c true false", "'false' follows the lock's name, but -c TEXT is the whole command"),
        ("run -c true backup -- false", "-c TEXT is the whole command"),
        ("run --tyr backup -- true", "unexpected argument '--tyr'"),
        ("run --tyr backup true", "unexpected argument '--tyr'"),
        ("run backup --tyr true", "unexpected argument '--tyr' found (redsync run --help tells more)"),
        (
            "run backup --exipry 1s true",
            "argument '--exipry' found; tip: a similar argument exists: '--expiry' (",
        ),
        ("status --nod x backup", "tip: a similar argument exists: '--node' ("),
        ("run backup -f true", "unexpected argument '-f'"),
        ("run -E 256 backup true", "256 is not in 0..=255"),
        ("lock -E -1 backup", "unexpected argument '-1'"),
        ("lock --conflict-exit-code=taken backup", "'taken'"),
        ("run -q -v backup true", "--quiet and --verbose cannot be used together"),
        ("-q run backup --verbose true", "--quiet and --verbose cannot be used together"),
        ("run --owner= backup -- true", "invalid owner"),
        ("run {x}:redsync:line -- true", "invalid name: it contains \"}:redsync:\""),
        ("lock --no-fence {x}:redsync:fence", "invalid name: it contains \"}:redsync:\""),
        ("status {a}:1:redsync:tagged:line", "invalid name: it contains \":redsync:tagged:\""),
        ("unlock redsync:8000:%7Bx%7D%3Aredsync%3Afence:17", "invalid name: it contains \"}:redsync:\""),
        ("rum backup -- true", "'rum'"),
        ("lock", "<NAME>"),
        ("completions tcsh", "tcsh"),
        ("extend garbage", "invalid lease"),
        ("unlock redsync:8000:backup", "cut off"),
        ("unlock ", "the lease is empty; did `redsync lock` fail?"),
        ("extend ", "the lease is empty; did `redsync lock` fail?"),
        ("status --node 127.0.0.1:6379 backup", "it has no scheme"),
        (
            "status --node http://127.0.0.1 backup",
            "http:// is no kind of node; use redis://HOST, rediss://HOST, valkey://HOST, redis+unix:///PATH or sqlite:///PATH\n",
        ),
        ("status --node memory: backup", "would be gone with it"),
        ("status --node Memory:x backup", "would be gone with it"),
        ("status --node redis://127.0.0.1:1 --node redis://127.0.0.1:1 backup", "listed twice"),
    ] {
        let outcome = machine.redsync(arguments.split(' '));
        assert_eq!(outcome.code, Some(64), "{arguments}: {outcome}");
        assert!(outcome.stderr.contains(said), "{arguments}: {outcome}");
        assert!(outcome.stderr.starts_with("redsync: "), "{arguments}: {outcome}");
        assert_eq!(outcome.stdout, "", "{arguments}: {outcome}");
        let lines = outcome.stderr.lines().filter(|line| !line.contains("this machine only")).count();
        assert_eq!(lines, 1, "{arguments}: {outcome}");
    }
    let nameless = machine.redsync(["run", "", "--", "true"]);
    assert_eq!(nameless.code, Some(64), "{nameless}");
    assert!(nameless.stderr.contains("invalid name: it is empty"), "{nameless}");
}

#[test]
fn without_arguments_it_helps_on_stderr_and_with_help_on_stdout() {
    let machine = Machine::new();
    let bare = machine.redsync::<&str>([]);
    assert_eq!((bare.code, bare.stdout.as_str()), (Some(64), ""), "{bare}");
    let help = machine.redsync(["--help"]);
    assert_eq!((help.code, help.stderr.as_str()), (Some(0), ""), "{help}");
    for text in [&bare.stderr, &help.stdout] {
        for part in [
            "run",
            "redsync run backup pg_dump",
            "Exit codes:",
            "\n  75 ",
            "Environment:",
            "REDSYNC_NODES",
            "REDSYNC_RESTART_GUARD",
            "REDSYNC_NAME, REDSYNC_TOKEN, REDSYNC_FENCE",
        ] {
            assert!(text.contains(part), "no {part:?} in {text}");
        }
    }
    let version = machine.redsync(["--version"]);
    assert_eq!(version.code, Some(0), "{version}");
    assert!(version.stdout.starts_with("redsync 0."), "{version}");
}

#[test]
fn completions_and_the_manual_page_know_the_commands() {
    let machine = Machine::new();
    for arguments in ["completions bash", "completions zsh", "completions fish", "man"] {
        let outcome = machine.redsync(arguments.split(' '));
        assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""), "{arguments}: {outcome}");
        for word in ["run", "unlock", "expiry", "barging", "fence"] {
            assert!(outcome.stdout.contains(word), "{arguments}: no {word} in {outcome}");
        }
    }
}

#[test]
fn the_help_says_what_a_fence_is_and_what_is_to_be_said_for_doing_without() {
    let machine = Machine::new();
    for command in ["run", "lock"] {
        let outcome = machine.redsync([command, "--help"]);
        let text = outcome.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
        for part in ["--no-fence", "A fence is a number that grows", "one small key, kept for 30 days"] {
            assert!(text.contains(part), "{command}: no {part:?} in {outcome}");
        }
    }
}

#[test]
fn how_a_command_is_begun_is_nobodys_business() {
    let machine = Machine::new();
    for arguments in
        ["--help", "run --help", "man", "completions bash", "completions zsh", "completions fish", "__exe"]
    {
        let outcome = machine.redsync(arguments.split(' '));
        let said = format!("{}{}", outcome.stdout, outcome.stderr);
        assert!(!said.contains("__exec"), "{arguments}: {outcome}");
    }
}

#[test]
fn whether_grants_are_confirmed_is_said_in_the_environment() {
    let machine = Machine::new();
    for (value, code) in [("maybe", 64), ("on", 0), ("off", 0), ("", 0)] {
        let mut command = machine.command(["run", "-q", "backup", "--", "true"]);
        let outcome = finish(command.env("REDSYNC_CONFIRM_GRANTS", value));
        assert_eq!(outcome.code, Some(code), "{value}: {outcome}");
        let said = "redsync: REDSYNC_CONFIRM_GRANTS is \"maybe\"; it can be on or off\n";
        assert_eq!(outcome.stderr, if code == 64 { said } else { "" }, "{value}: {outcome}");
    }
}

#[test]
fn a_bad_switch_in_the_environment_is_64_and_says_what_it_can_be() {
    let machine = Machine::new();
    for value in ["maybe", "1", "ON"] {
        let mut command = machine.command(["run", "backup", "--", "true"]);
        let outcome = finish(command.env("REDSYNC_RESTART_GUARD", value));
        assert_eq!(outcome.code, Some(64), "{outcome}");
        let said = format!("redsync: REDSYNC_RESTART_GUARD is {value:?}; it can be on or off\n");
        assert_eq!(outcome.stderr, said, "{outcome}");
        // Who says it on the command line is not asked for it in the environment.
        let mut command = machine.command(["run", "-q", "--restart-guard", "on", "backup", "--", "true"]);
        let outcome = finish(command.env("REDSYNC_RESTART_GUARD", value));
        assert_eq!(outcome.code, Some(0), "{outcome}");
    }
    let option = machine.redsync(["status", "--restart-guard", "maybe", "backup"]);
    assert_eq!(option.code, Some(64), "{option}");
    assert!(option.stderr.contains("[possible values: on, off]"), "{option}");
}

#[test]
fn no_password_is_ever_shown() {
    const PASSWORD: &str = "hunter2";
    let server = RedisServer::builder().password("another").start();
    let wrong = format!("redis://:{PASSWORD}@127.0.0.1:{}", server.port());
    let lease = "redsync:8000:backup:5f1c@web-2%3A311";
    for url in [
        wrong.as_str(),
        "redis://:hunter2@127.0.0.1:1",
        "redis://:hunter2@127.0.0.1:notaport",
        "redis://user:hun@ter2hunter2@127.0.0.1:1",
        "rediss://:hunter2@127.0.0.1:1",
        "redis+unix:///no/such.sock?password=hunter2",
        "http://:hunter2@127.0.0.1",
        ":hunter2@127.0.0.1",
        "memory:hunter2@x",
    ] {
        let by_environment = Machine::with_urls(url);
        let by_option = Machine::new();
        for arguments in [
            vec!["run", "--try", "backup", "--", "true"],
            vec!["lock", "--wait", "200ms", "backup"],
            vec!["status", "backup"],
            vec!["status", "--json", "backup"],
            vec!["unlock", "--json", lease],
            vec!["--help"],
            vec!["run", "--help"],
        ] {
            let mut with_option = vec!["--node", url];
            with_option.extend(&arguments);
            for outcome in [by_environment.redsync(&arguments), by_option.redsync(&with_option)] {
                let said = format!("{}{}", outcome.stdout, outcome.stderr);
                assert!(!said.contains(PASSWORD), "{url}, {arguments:?}: {outcome}");
                assert!(!said.is_empty() && !said.contains("panic"), "{url}, {arguments:?}: {outcome}");
            }
        }
    }
}

#[test]
fn a_password_in_the_wrong_place_is_not_shown_either() {
    let machine = Machine::new();
    for url in [
        "redis://:hunter2@127.0.0.1",
        "redis+unix:///s?password=hunter2",
        "password=hunter2",
        "redis://:an  hunter2@x",
    ] {
        let option = format!("--nod={url}");
        for arguments in [
            vec![url],
            vec!["run", url],
            vec!["run", "backup", "-c", "true", url],
            vec!["run", "backup", "--tyr", url, "true"],
            vec!["run", &option, "backup", "--", "true"],
            vec!["run", "--expiry", url, "backup", "--", "true"],
            vec!["completions", url],
            vec!["unlock", url],
            vec!["--json", url],
        ] {
            let outcome = machine.redsync(&arguments);
            assert_eq!(outcome.code, Some(64), "{outcome}");
            assert!(!outcome.stderr.contains("hunter2"), "{arguments:?}: {outcome}");
        }
    }
}

#[test]
fn a_url_that_was_to_be_a_node_is_shown_without_its_password_as_a_command_too() {
    let outcome = Machine::new().redsync(["run", "-q", "backup", "redis://:hunter2@127.0.0.1", "true"]);
    assert_eq!(outcome.code, Some(127), "{outcome}");
    assert!(outcome.stderr.contains("not found") && !outcome.stderr.contains("hunter2"), "{outcome}");
}

#[test]
fn a_comma_in_a_password_is_percent_encoded() {
    let server = RedisServer::builder().password("a,b@c").start();
    assert!(server.url().contains(":a%2Cb%40c@"), "{}", server.url());
    let outcome = Machine::with_nodes([&server]).run_sh("--try backup", "exit 3");
    assert_eq!(outcome.code, Some(3), "{outcome}");
    let help = Machine::new().redsync(["--help"]);
    assert_eq!(help.stdout.matches("%2C").count(), 2, "{help}");
}

#[test]
fn the_help_and_the_manual_say_what_a_run_cannot_do() {
    let machine = Machine::new();
    for arguments in [vec!["run", "--help"], vec!["man"]] {
        let outcome = machine.redsync(&arguments);
        // Wherever the lines break.
        let text = outcome.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
        for part in [
            "SIGKILL follows SIGTERM at once",
            "When redsync itself is killed by SIGKILL, the command and all that it started get SIGTERM (on Linux;",
            "that includes what is in a session of its own (su, setsid, a daemon)",
            "what the command leaves running in the background when it ends by itself, or has another service start (docker, at,",
            "has lost its parent, it does not find",
            "If both processes of redsync are killed, or redsync stands still (SIGSTOP, a debugger), nobody ends the command",
            "(sudo, setuid) cannot be signalled by an ordinary user",
        ] {
            assert!(text.contains(part), "{arguments:?}: no {part:?} in {outcome}");
        }
    }
}

#[test]
fn local_locks_are_kept_where_xdg_says_or_nowhere() {
    let machine = Machine::new();
    let mut command = machine.command(["lock", "backup"]);
    let outcome = finish(command.env("XDG_STATE_HOME", "relative"));
    assert_eq!(outcome.code, Some(0), "{outcome}");
    assert!(machine.path(".local/state/redsync/locks.db").exists());
    assert!(!machine.path("relative").exists());

    let mut command = machine.command(["lock", "backup"]);
    let outcome = finish(command.env_remove("HOME").env_remove("XDG_STATE_HOME"));
    assert_eq!(outcome.code, Some(73), "{outcome}");
    assert!(outcome.stderr.contains("neither HOME nor XDG_STATE_HOME"), "{outcome}");

    let mut command = machine.command(["lock", "backup"]);
    let outcome = finish(command.env("XDG_STATE_HOME", "/proc/no/such"));
    assert_eq!(outcome.code, Some(73), "{outcome}");
    assert!(outcome.stderr.contains("cannot create /proc/no/such/redsync"), "{outcome}");
}
