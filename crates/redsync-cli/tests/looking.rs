//! Looking at locks: `status`, `ls`, `--version`.

mod support;

use redsync::{Clock, SystemClock};
use redsync_testkit::{RedisServer, servers};
use serde_json::Value;
use support::{Machine, Outcome, finish};

#[test]
fn status_says_who_holds_since_when_and_whether_it_is_renewed() {
    let server = RedisServer::start();
    for machine in [Machine::new(), Machine::with_nodes([&server])] {
        let _holder = machine.start_sh("--owner web-1:20 backup", "echo held > held; exec sleep 60");
        machine.wait_for_file("held");
        let text = machine.redsync(["status", "backup"]);
        let begin = "backup is held by web-1:20, renewing (free in ";
        assert!(
            text.stdout.starts_with(begin) && text.stdout.contains(" unless renewed), asked for "),
            "{text}"
        );
        assert!(text.stdout.contains(" s ago (20") && text.stdout.contains("Z)"), "{text}");
        let json = object(&machine.redsync(["status", "--json", "backup"]));
        assert_eq!(
            (&json["state"], &json["renews"], &json["owner"]),
            (&"held".into(), &true.into(), &"web-1:20".into())
        );
        let (since, now) = (json["since_ms"].as_u64().unwrap(), SystemClock.wall_micros() / 1000);
        assert!(since <= now && now - since < 60_000, "{json}");
        assert!(json["since"].as_str().unwrap().ends_with('Z') && json["time_left_ms"].is_u64(), "{json}");

        machine.lock("--owner web-2:7 --expiry 1h report");
        let text = machine.redsync(["status", "report"]);
        assert!(text.stdout.starts_with("report is held by web-2:7 for another 59 min "), "{text}");
        assert!(text.stdout.contains(", not renewing, asked for "), "{text}");
        assert_eq!(object(&machine.redsync(["status", "--json", "report"]))["renews"], false);
    }
}

#[test]
fn status_of_another_librarys_lock_says_no_more_than_is_known() {
    let server = RedisServer::start();
    let machine = Machine::with_nodes([&server]);
    server.set("backup", "q1Zx+/b4u0r3o0B3m9nD3A==", Some(60_000));
    let text = machine.redsync(["status", "backup"]);
    assert!(text.stdout.starts_with("backup is held by token q1Zx+/b4u0r3o0B3… for another 5"), "{text}");
    assert!(!text.stdout.contains("renewing") && !text.stdout.contains("asked"), "{text}");
    let json = object(&machine.redsync(["status", "--json", "backup"]));
    for member in ["since_ms", "since", "renews", "owner"] {
        assert_eq!(json[member], Value::Null, "{member}");
    }
}

#[test]
fn status_answers_by_its_exit_code_where_it_is_asked_to() {
    let servers = servers(3);
    let machine = Machine::with_nodes(&servers);
    for (server, token) in servers.iter().zip(["ann", "bob", "cem"]) {
        server.set("contended", token, Some(600_000));
    }
    machine.lock("--expiry 1h held");
    for (name, code, state) in [("held", 0, "held"), ("free", 1, "free"), ("contended", 75, "contended")] {
        let plain = machine.redsync(["status", name]);
        assert_eq!(plain.code, Some(0), "{plain}");
        let json = machine.redsync(["status", "--exit-code", "--json", name]);
        assert_eq!((json.code, object(&json)["state"].clone()), (Some(code), state.into()), "{json}");
    }
    servers[0].kill();
    servers[1].kill();
    let unknown = machine.redsync(["status", "--exit-code", "held"]);
    assert_eq!(unknown.code, Some(69), "{unknown}");
}

#[test]
fn a_status_that_could_not_be_told_looks_like_no_answer() {
    let machine = Machine::new();
    machine.lock("--expiry 1h held");
    for (script, said) in [
        ("exec $redsync status --exit-code held > /dev/full", "cannot write to stdout: "),
        ("ulimit -n 8; exec $redsync status --exit-code held", "raise the limit (ulimit -n)"),
    ] {
        let outcome = finish(&mut machine.shell(script));
        assert_eq!(outcome.code, Some(71), "{script}: {outcome}");
        assert!(outcome.stderr.contains(said), "{script}: {outcome}");
        let plain = finish(&mut machine.shell(&script.replace(" --exit-code", "")));
        assert_eq!(plain.code, Some(1), "{script}: {plain}");
    }
}

#[test]
fn a_holder_whose_time_is_limited_to_its_first_lease_is_not_said_to_renew() {
    let machine = Machine::new();
    let _limited =
        machine.start_sh("--expiry 20s --max-hold 20s limited", "echo in > limited; exec sleep 60");
    let _longer = machine.start_sh("--expiry 20s --max-hold 40s longer", "echo in > longer; exec sleep 60");
    for (name, said) in [("limited", ", not renewing, "), ("longer", ", renewing (free in ")] {
        machine.wait_for_file(name);
        let text = machine.redsync(["status", "-q", name]);
        assert!(text.stdout.contains(said), "{text}");
        let json = object(&machine.redsync(["status", "-q", "--json", name]));
        assert_eq!(json["renews"], name == "longer", "{json}");
    }
}

#[test]
fn a_lock_that_cannot_be_taken_yet_is_free_for_nobody() {
    let servers = servers(3);
    let machine = Machine::with_nodes(&servers).with_restart_guard();
    let text = machine.redsync(["status", "--exit-code", "backup"]);
    assert!(text.stdout.starts_with("backup is free, but cannot be taken yet"), "{text}");
    assert_eq!(text.code, Some(75), "{text}");
    let json = machine.redsync(["status", "--json", "backup"]);
    assert_eq!((object(&json)["state"].clone(), json.code), ("withheld".into(), Some(0)), "{json}");
}

#[test]
fn ls_lists_what_is_held_with_one_line_for_each() {
    let nodes = servers(3);
    for machine in [Machine::new(), Machine::with_nodes(&nodes)] {
        let none = machine.redsync(["ls", "--quiet"]);
        assert_eq!((none.code, none.stdout.as_str(), none.stderr.as_str()), (Some(0), "", ""), "{none}");
        assert!(machine.redsync(["ls"]).stderr.contains("redsync: no lock is held\n"));
        let none = machine.redsync(["ls", "nightly-*"]);
        assert!(none.stderr.contains("redsync: no lock is held that matches\n"), "{none}");

        let _holder = machine.start_sh("--owner web-1:20 nightly-a", "echo held > held; exec sleep 60");
        machine.wait_for_file("held");
        machine.lock("--owner web-2:7 --expiry 1h --no-fence nightly-bb");
        machine.lock("--expiry 1h other");
        let released = machine.lock("--expiry 1h released");
        machine.redsync(["unlock", &released]);

        let text = machine.redsync(["ls", "nightly-*"]);
        let lines: Vec<&str> = text.stdout.lines().collect();
        assert_eq!((text.code, lines.len()), (Some(0), 2), "{text}");
        assert!(
            lines[0].starts_with("nightly-a   web-1:20  asked ")
                && lines[0].contains("  renewing (")
                && lines[0].contains(" s left)  fence "),
            "{text}"
        );
        assert!(lines[0].contains("  fence 1") && lines[0].ends_with("  nobody waits"), "{text}");
        assert!(
            lines[1].starts_with("nightly-bb  web-2:7   asked ") && lines[1].contains("  59 min "),
            "{text}"
        );
        assert!(lines[1].contains(" left  ") && lines[1].contains("  no fence "), "{text}");

        let json = object(&machine.redsync(["ls", "--json"]));
        let names: Vec<&str> =
            json["locks"].as_array().unwrap().iter().filter_map(|lock| lock["name"].as_str()).collect();
        assert_eq!(names, ["nightly-a", "nightly-bb", "other"], "{json}");
        assert_eq!((&json["complete"], &json["failed"]), (&true.into(), &Value::Array(Vec::new())), "{json}");
        let first = &json["locks"][0];
        assert_eq!(
            (&first["renews"], &first["state"], &first["waiting"]),
            (&true.into(), &"held".into(), &0.into())
        );
        assert!(first["fence"].is_u64() && json["locks"][1]["fence"].is_null(), "{json}");
    }
}

#[test]
fn ls_says_how_many_wait() {
    let server = RedisServer::start();
    let machine = Machine::with_nodes([&server]);
    let _holder = machine.hold("backup");
    let _waiters = [machine.start_sh("backup", "true"), machine.start_sh("backup", "true")];
    redsync_testkit::wait_until("both wait", support::SOON, || server.waiting("backup") == 2);
    let text = machine.redsync(["ls"]);
    assert!(text.stdout.trim_end().ends_with("  2 wait"), "{text}");
}

#[test]
fn ls_leaves_out_what_need_not_be_a_lock_and_shows_it_where_asked_to() {
    let server = RedisServer::start();
    let machine = Machine::with_nodes([&server]);
    machine.lock("--expiry 1h ours");
    server.set("session", "user=42", Some(600_000));
    server.set("setting", "on", None);
    server.set("cached page", &"x".repeat(100_000), Some(600_000));
    server.command(&["RPUSH", "list", "a"]);
    server.command(&["ZADD", "{list}:redsync:line", "1", "a"]);
    // Somebody of ours waits for a lock of another library's, which has no expiry.
    server.set("foreign", "token", None);
    let _waiter = machine.start_sh("foreign", "true");
    redsync_testkit::wait_until("it waits", support::SOON, || server.waiting("foreign") == 1);

    let names = |arguments: &[&str]| -> Vec<String> {
        let outcome = machine.redsync(arguments);
        assert_eq!(outcome.code, Some(0), "{outcome}");
        let first = |line: &str| line.split_once("  ").unwrap().0.to_owned();
        outcome.stdout.lines().map(first).collect()
    };
    assert_eq!(names(&["ls"]), ["foreign", "ours"]);
    assert_eq!(names(&["ls", "--all"]), ["foreign", "ours", "session"]);
    assert!(machine.redsync(["ls", "foreign"]).stdout.contains("  no expiry: it never ends by itself  "));
}

#[test]
fn ls_shows_what_is_not_clear_only_where_asked_to() {
    let servers = servers(3);
    let machine = Machine::with_nodes(&servers);
    let lease = machine.lock("--owner web-1 --expiry 1h backup");
    let token = servers[0].get("backup").unwrap();
    servers[1].command(&["DEL", "backup"]);
    servers[2].set("backup", &token.replace("web-1", "web-2"), Some(600_000));
    let quiet = machine.redsync(["ls"]);
    assert_eq!((quiet.code, quiet.stdout.as_str()), (Some(0), ""), "{lease}: {quiet}");
    assert!(
        quiet.stderr.contains("redsync: 1 name has leases on a minority of nodes only; -v shows them"),
        "{quiet}"
    );
    let all = machine.redsync(["ls", "-v"]);
    assert_eq!(all.stdout, "backup  contended: web-1, web-2\n", "{all}");
    let json = object(&machine.redsync(["ls", "--json"]));
    assert_eq!(
        (&json["locks"][0]["state"], &json["locks"][0]["holder"]),
        (&"contended".into(), &Value::Null)
    );
}

#[test]
fn ls_works_as_long_as_a_majority_answers_and_says_who_did_not() {
    let servers = servers(3);
    let machine = Machine::with_nodes(&servers);
    machine.lock("--expiry 1h backup");
    servers[0].kill();
    let outcome = machine.redsync(["ls"]);
    assert_eq!((outcome.code, outcome.stdout.lines().count()), (Some(0), 1), "{outcome}");
    assert!(outcome.stderr.contains(&servers[0].url()), "{outcome}");
    servers[1].kill();
    let outcome = machine.redsync(["ls"]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(69), ""), "{outcome}");
    let json = machine.redsync(["ls", "--json"]);
    assert_eq!((json.code, object(&json)["failed"].as_array().unwrap().len()), (Some(69), 2), "{json}");
}

#[test]
fn names_and_owners_cannot_write_to_the_terminal() {
    let server = RedisServer::start();
    let machine = Machine::with_nodes([&server]);
    let digits = "0123456789abcdef0123456789abcdef01234567";
    server.set("\x1b[31mred\r\n", &format!("{digits}@web\x1b]0;x\x07"), Some(600_000));
    let outcome = machine.redsync(["ls"]);
    assert!(outcome.stdout.starts_with(r"\u{1b}[31mred\r\n  web\u{1b}]0;x\u{7}  "), "{outcome}");
    assert_eq!(outcome.stdout.lines().count(), 1, "{outcome}");
}

#[test]
fn a_pattern_that_is_none_is_64() {
    let outcome = Machine::new().redsync(["ls", ""]);
    assert_eq!(outcome.code, Some(64), "{outcome}");
    assert!(outcome.stderr.contains("invalid pattern: it is empty; * matches every name"), "{outcome}");
}

#[test]
fn many_keys_neither_block_the_server_nor_are_they_left_out() {
    let server = RedisServer::builder()
        .config("enable-debug-command", "yes")
        .config("slowlog-log-slower-than", "50000")
        .start();
    let machine = Machine::with_nodes([&server]);
    server.command(&["DEBUG", "POPULATE", "200000", "session"]);
    machine.lock("--expiry 1h backup");
    let before = server.command_counts(["keys", "scan"]);
    let outcome = machine.redsync(["ls"]);
    assert!(outcome.stdout.starts_with("backup  ") && outcome.code == Some(0), "{outcome}");
    let after = server.command_counts(["keys", "scan"]);
    assert!(after[0] == before[0] && after[1] >= before[1] + 100, "small steps, and never KEYS: {after:?}");
    let slow = format!("{:?}", server.command(&["SLOWLOG", "GET", "100"]));
    assert!(!slow.contains("SCAN") && !slow.contains("EVAL"), "{slow}");
}

#[test]
fn the_version_is_fit_for_a_bug_report() {
    let machine = Machine::new();
    for flag in ["--version", "-V"] {
        let outcome = machine.redsync([flag]);
        let lines: Vec<&str> = outcome.stdout.lines().collect();
        assert_eq!((outcome.code, lines.len()), (Some(0), 2), "{outcome}");
        assert!(lines[0].starts_with(concat!("redsync ", env!("CARGO_PKG_VERSION"), " (")), "{outcome}");
        assert!(lines[0].contains(std::env::consts::ARCH), "{outcome}");
        assert!(lines[1].contains("tls") && lines[1].contains("SQLite 3."), "{outcome}");
    }
}

#[track_caller]
fn object(outcome: &Outcome) -> Value {
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome}"))
}
