//! `lock`, `extend`, `unlock` and `status`.

mod support;

use std::fs::{self, File};
use std::process::Stdio;
use std::time::Duration;

use redsync_testkit::{RedisServer, servers, wait_until};
use serde_json::Value;
use support::{Machine, Outcome, SOON, finish, locks_on};

#[test]
fn a_lease_goes_from_lock_through_status_and_extend_to_unlock() {
    let server = RedisServer::start();
    for machine in [Machine::new(), Machine::with_nodes([&server])] {
        let lease = machine.lock("--quiet --owner web-2:311 orders:42");
        assert!(lease.starts_with("redsync:8000:orders%3A42:"), "{lease}");

        let status = machine.redsync(["status", "orders:42"]);
        assert_eq!(status.code, Some(0), "{status}");
        assert!(status.stdout.starts_with("orders:42 is held by web-2:311 for another "), "{status}");
        let fence = lease.rsplit(':').next().unwrap();
        let first_line = status.stdout.lines().next().unwrap();
        assert!(first_line.ends_with(&format!("Z); latest fence {fence}")), "{status}");

        let extended = machine.redsync(["extend", &lease, "--expiry", "1h"]);
        assert_eq!(extended.code, Some(0), "{extended}");
        let longer = extended.stdout.trim();
        assert_eq!(longer, lease.replace(":8000:", ":3600000:"));
        let status = machine.redsync(["status", "orders:42"]);
        assert!(status.stdout.contains("for another 59 min 5"), "{status}");

        let unlocked = machine.redsync(["unlock", longer]);
        assert_eq!((unlocked.code, unlocked.stdout.as_str()), (Some(0), ""), "{unlocked}");
        let status = machine.redsync(["status", "orders:42"]);
        assert_eq!(
            (status.code, status.stdout.lines().next()),
            (Some(0), Some("orders:42 is free")),
            "{status}"
        );
    }
}

#[test]
fn a_lease_may_come_by_stdin_as_a_line_or_as_json() {
    let server = RedisServer::start();
    let machine = Machine::with_nodes([&server]);
    let pipe = "$redsync lock backup | $redsync extend - | $redsync unlock -";
    let outcome = finish(&mut machine.shell(pipe));
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(0), ""), "{outcome}");
    assert_eq!(locks_on(&server), Vec::<String>::new());

    let pipe =
        "$redsync lock backup --json | $redsync extend --json --expiry 1m - | $redsync unlock --json -";
    let outcome = finish(&mut machine.shell(pipe));
    assert_eq!(outcome.code, Some(0), "{outcome}");
    assert_eq!(json(&outcome.stdout), serde_json::json!({ "name": "backup", "outcome": "released" }));
    assert_eq!(locks_on(&server), Vec::<String>::new());

    let outcome =
        finish(&mut machine.shell("$redsync lock backup --try 2>/dev/null; exec $redsync unlock -"));
    assert_eq!(outcome.code, Some(64), "{outcome}");
    assert!(outcome.stderr.contains("no lease on stdin"), "{outcome}");
}

#[test]
fn lock_and_extend_print_all_there_is_to_know_as_json() {
    let server = RedisServer::start();
    let machine = Machine::with_nodes([&server]);
    let locked = json(&machine.lock("--json --expiry 20s backup"));
    assert_eq!(locked["name"], "backup");
    assert_eq!(locked["token"].as_str(), server.get("backup").as_deref());
    assert_eq!(locked["expiry_ms"], 20_000);
    assert!((10_000..20_000).contains(&locked["valid_for_ms"].as_u64().unwrap()), "{locked}");

    let lease = locked["lease"].as_str().unwrap();
    let outcome = machine.redsync(["extend", "--json", "--expiry", "1m", lease]);
    let extended = json(&outcome.stdout);
    assert_eq!(extended["outcome"], "extended", "{outcome}");
    assert_eq!(extended["expiry_ms"], 60_000);
    assert!((50_000..60_000).contains(&extended["valid_for_ms"].as_u64().unwrap()), "{extended}");
    assert!(server.pttl("backup") > 50_000);
}

#[test]
fn a_lock_that_is_not_extended_is_free_after_its_expiry() {
    let machine = Machine::new();
    let lease = machine.lock("--expiry 300ms backup");
    let next = machine.run_sh("--wait 10s backup", "true");
    assert_eq!(next.code, Some(0), "{next}");
    for command in ["extend", "unlock"] {
        let late = machine.redsync([command, &lease]);
        assert_eq!(late.code, Some(1), "{late}");
        assert!(late.stderr.contains("already expired"), "{late}");
    }
}

#[test]
fn a_second_unlock_says_that_there_was_nothing_left_to_release() {
    let machine = Machine::new();
    let lease = machine.lock("backup");
    assert_eq!(machine.redsync(["unlock", &lease]).code, Some(0));
    let again = machine.redsync(["unlock", "--quiet", &lease]);
    assert_eq!(again.code, Some(1), "{again}");
    assert!(
        again.stderr.starts_with("redsync: cannot release lock \"backup\": it had already expired"),
        "{again}"
    );
}

#[test]
fn a_lock_that_a_stranger_took_over_is_left_to_him() {
    let server = RedisServer::start();
    let machine = Machine::with_nodes([&server]);
    let lease = machine.lock("backup");
    server.set("backup", "stranger", Some(60_000));
    for command in ["extend", "unlock"] {
        let outcome = machine.redsync([command, &lease]);
        assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(1), ""), "{outcome}");
        assert!(outcome.stderr.contains("another has it"), "{outcome}");
        assert_eq!(server.get("backup").as_deref(), Some("stranger"));
    }
    assert!(server.pttl("backup") > 50_000);
}

#[test]
fn nodes_out_of_reach_are_69_for_all_of_them() {
    let machine = Machine::with_urls("redis://127.0.0.1:1");
    for command in [vec!["extend", LEASE], vec!["unlock", LEASE], vec!["status", "backup"]] {
        let outcome = machine.redsync(&command);
        assert_eq!(outcome.code, Some(69), "{command:?}: {outcome}");
        let said = format!("{}{}", outcome.stdout, outcome.stderr);
        assert!(said.contains("redis://127.0.0.1:1: cannot connect"), "{command:?}: {outcome}");
    }
}

const LEASE: &str = "redsync:8000:backup:5f1c@web-2%3A311";

#[test]
fn a_lock_whose_lease_cannot_be_written_is_released_again() {
    let server = RedisServer::start();
    let machine = Machine::with_nodes([&server]);
    let full = machine.shell("exec $redsync lock --expiry 1h backup > /dev/full");
    let closed = machine.shell("{ $redsync lock --expiry 1h backup; echo $? > code; } | true");
    for (mut command, code) in [(full, Some(1)), (closed, None)] {
        let outcome = finish(&mut command);
        match code {
            Some(code) => assert_eq!(outcome.code, Some(code), "{outcome}"),
            // Whether `true` is gone by then is a matter of luck; without luck there is a lock, and no harm.
            None => wait_until("the pipeline is done", SOON, || !machine.read("code").is_empty()),
        }
        if outcome.stderr.contains("cannot write to stdout") {
            assert_eq!(locks_on(&server), Vec::<String>::new(), "{outcome}");
        }
        assert!(!outcome.stderr.contains("panic"), "{outcome}");
    }
}

#[test]
fn a_lock_whose_lease_nobody_can_read_is_not_taken() {
    let server = RedisServer::start();
    for machine in [Machine::new(), Machine::with_nodes([&server])] {
        for closing in [">&-", "<&- >&-", ">&- 2>&-", "<&- >&- 2>&-"] {
            for options in ["", "--json"] {
                let script = format!("exec $redsync lock {options} --expiry 1h backup {closing}");
                let outcome = finish(&mut machine.shell(&script));
                assert_eq!(outcome.code, Some(1), "{script}: {outcome}");
                let is_told = outcome
                    .stderr
                    .contains("stdout is closed, so the lease would be lost; the lock was not taken");
                assert_eq!(is_told, !closing.contains("2>&-"), "{script}: {outcome}");
            }
        }
        let next = machine.run_sh("--try backup", "true");
        assert_eq!(next.code, Some(0), "{next}");
    }
}

#[test]
fn a_lock_until_its_expiry_needs_no_lease() {
    let machine = Machine::new();
    for output in ["> /dev/null", "> /dev/null 2>&1 < /dev/null", "1<> lease"] {
        let outcome = finish(&mut machine.shell(&format!("exec $redsync lock --expiry 1s backup {output}")));
        assert_eq!(outcome.code, Some(0), "{output}: {outcome}");
        let rival = machine.run_sh("--try backup", "true");
        assert_eq!(rival.code, Some(75), "{output}: {rival}");
        assert_eq!(machine.run_sh("--wait 20s backup", "true").code, Some(0), "{output}");
    }
    assert!(machine.read("lease").starts_with("redsync:1000:backup:"));
}

#[test]
fn a_line_that_is_too_long_for_a_lease_is_refused_and_not_read_to_its_end() {
    let machine = Machine::new();
    for command in ["unlock", "extend"] {
        // Without an end.
        let outcome = finish(&mut machine.shell(&format!("yes x | tr -d '\\n' | $redsync {command} -")));
        assert_eq!(outcome.code, Some(64), "{outcome}");
        assert!(outcome.stderr.contains("longer than 64 KiB and so is no lease"), "{outcome}");
        assert!(outcome.stderr.len() < 400, "{outcome}");
        let outcome = finish(&mut machine.shell(&format!("printf '\\377\\n' | $redsync {command} -")));
        assert_eq!(outcome.code, Some(64), "{outcome}");
        assert!(outcome.stderr.contains("cannot read a lease from stdin"), "{outcome}");
    }
    // The longest name there is.
    let lease = machine.lock(&format!("--json {}", "ä".repeat(512)));
    let outcome = finish(machine.shell("echo \"$lease\" | $redsync unlock -").env("lease", lease));
    assert_eq!(outcome.code, Some(0), "{outcome}");
}

#[test]
fn an_owner_may_have_blanks_and_status_shows_one_word() {
    let machine = Machine::new();
    let outcome = machine.redsync(["lock", "-q", "--owner", " nightly  job of web-2 ", "backup"]);
    assert_eq!(outcome.code, Some(0), "{outcome}");
    let status = machine.redsync(["status", "backup"]);
    assert!(status.stdout.contains("held by nightly-job-of-web-2"), "{status}");
    for owner in ["", "  ", "a\u{1b}[31m", &"x".repeat(129)] {
        let outcome = machine.redsync(["lock", "--owner", owner, "another"]);
        assert_eq!(outcome.code, Some(64), "{outcome}");
        assert!(outcome.stderr.contains("invalid owner"), "{outcome}");
        assert!(!outcome.stderr.contains('\u{1b}'), "{outcome}");
    }
}

#[test]
fn too_few_files_are_an_error_and_no_panic() {
    let machine = Machine::new();
    let mut worked = 0;
    // With fewer, the system cannot load the program.
    for limit in 4..40 {
        for command in ["run -q backup true", "lock -q --expiry 2s backup", "status -q backup"] {
            // A lock of the round before may be there still.
            let script = format!("ulimit -n {limit} && exec $redsync {command}");
            let outcome =
                finish(machine.shell(&script).env("XDG_STATE_HOME", machine.path(&limit.to_string())));
            assert!(!outcome.stderr.contains("panicked"), "{script}: {outcome}");
            match outcome.code {
                Some(0) => worked += 1,
                code => {
                    assert_eq!(code, Some(1), "{script}: {outcome}");
                    assert!(outcome.stderr.contains("raise the limit (ulimit -n)"), "{script}: {outcome}");
                }
            }
        }
        let help = finish(&mut machine.shell(&format!("ulimit -n {limit} && exec $redsync --help")));
        assert_eq!(help.code, Some(0), "{help}");
    }
    assert!(worked > 3, "{worked}");
}

#[test]
fn a_reader_that_went_away_is_no_panic() {
    let server = RedisServer::start();
    let machine = Machine::with_nodes([&server]);
    // Nobody reads, for certain: the only reader has closed before the writer begins.
    for command in
        ["man", "completions bash", "status backup", "lock --expiry 1h backup", "--help", "--version"]
    {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let errors = machine.path("errors");
        let mut child = machine.command(command.split(' '));
        let status = child.stdout(writer).stderr(File::create(&errors).unwrap()).status().unwrap();
        let said = fs::read_to_string(errors).unwrap();
        assert_eq!(status.code(), Some(1), "{command}: {said}");
        assert!(!said.contains("panic"), "{command}: {said}");
    }
    assert_eq!(locks_on(&server), Vec::<String>::new());
    let mut mute = machine.command(["run", "backup", "--", "no-such-command"]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let status = mute.stdout(Stdio::null()).stderr(writer).status().unwrap();
    assert_eq!(status.code(), Some(127));
}

#[test]
fn status_tells_what_each_node_says() {
    let servers = servers(3);
    let machine = Machine::with_nodes(&servers);
    let free = machine.redsync(["status", "backup"]);
    assert!(free.stdout.starts_with("backup is free\n  redis://127.0.0.1:"), "{free}");
    assert_eq!(free.stdout.matches(": free\n").count(), 3, "{free}");

    machine.lock("--owner web-2 backup");
    servers[2].kill();
    let held = machine.redsync(["status", "backup"]);
    assert_eq!(held.code, Some(0), "{held}");
    assert!(held.stdout.starts_with("backup is held by web-2 for another "), "{held}");
    assert_eq!(held.stdout.matches("held by web-2").count(), 3, "{held}");
    assert!(held.stdout.contains("cannot connect"), "{held}");

    let outcome = machine.redsync(["status", "--json", "backup"]);
    let status = json(&outcome.stdout);
    assert_eq!(status["state"], "held", "{outcome}");
    assert_eq!(status["owner"], "web-2");
    assert_eq!(status["expires"], true);
    assert!(status["time_left_ms"].as_u64().unwrap() <= 8_000, "{outcome}");
    let nodes = status["nodes"].as_array().unwrap();
    assert_eq!(nodes.len(), 3);
    assert_eq!(nodes[0]["node"], servers[0].url());
    assert_eq!(nodes[0]["holder"].as_str(), servers[0].get("backup").as_deref());
    assert_eq!((&nodes[1]["state"], &nodes[1]["error"]), (&Value::from("held"), &Value::Null));
    assert_eq!((&nodes[2]["state"], &nodes[2]["holder"]), (&Value::from("failed"), &Value::Null));
    assert!(nodes[2]["error"].as_str().unwrap().contains("cannot connect"), "{outcome}");

    servers[1].kill();
    let unknown = machine.redsync(["status", "backup"]);
    assert_eq!(unknown.code, Some(69), "{unknown}");
    assert!(unknown.stdout.starts_with("backup: cannot tell, 2 of 3 nodes failed\n"), "{unknown}");
}

#[test]
fn status_says_so_when_a_key_will_never_expire() {
    let server = RedisServer::start();
    let machine = Machine::with_nodes([&server]);
    server.set("backup", "somebody", None);
    let text = machine.redsync(["status", "backup"]);
    assert!(text.stdout.starts_with("backup is held by token somebody for ever"), "{text}");
    let status = json(&machine.redsync(["status", "--json", "backup"]).stdout);
    assert_eq!((&status["expires"], &status["time_left_ms"]), (&Value::Bool(false), &Value::Null));
}

#[test]
fn leases_outlive_the_process_that_took_them() {
    let machine = Machine::new();
    let lease = machine.lock("--expiry 1m backup");
    let rival = machine.run_sh("--wait 300ms backup", "true");
    assert_eq!(rival.code, Some(75), "{rival}");
    assert!(rival.took < Duration::from_secs(5), "{rival}");
    assert_eq!(machine.redsync(["unlock", &lease]).code, Some(0));
}

#[test]
fn errors_are_json_too_where_that_is_asked_for() {
    let server = RedisServer::start();
    let machine = Machine::with_nodes([&server]);
    machine.lock("--owner web-2 backup");
    let taken = error(&machine.redsync(["--json", "lock", "--try", "--expiry", "40s", "backup"]));
    assert_eq!(taken["error"], "taken");
    assert_eq!(taken["nodes"][0]["node"], server.url());
    assert_eq!(taken["nodes"][0]["error"], "taken");
    let usage = error(&machine.redsync(["lock", "--json", "--wait", "8", "backup"]));
    assert_eq!(usage["error"], "usage");
    server.kill();
    let silent = error(&machine.redsync(["lock", "--json", "--try", "backup"]));
    assert_eq!(silent["error"], "no_quorum");
    assert!(silent["message"].as_str().unwrap().contains("the only node failed"), "{silent}");
}

#[track_caller]
fn error(outcome: &Outcome) -> Value {
    assert_eq!(outcome.stderr.lines().count(), 1, "{outcome}");
    json(&outcome.stderr)
}

#[track_caller]
fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text:?}"))
}
