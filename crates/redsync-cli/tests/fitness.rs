//! Nodes that are not to be trusted: restarted not long ago, or unfit to hold locks at all.

mod support;

use std::time::{Duration, Instant};

use redsync_testkit::{RedisServer, servers};
use serde_json::Value;
use support::{Machine, Outcome};

/// Long enough for servers that were started by a test to be distrusted until its end.
const LONG: &str = "--expiry 1h backup";

#[test]
fn restarted_nodes_are_69_for_who_will_not_wait_and_are_named() {
    let servers = servers(3);
    let machine = Machine::with_nodes(&servers).with_restart_guard();
    let outcome = machine.run_sh(&format!("--try {LONG}"), "echo in");
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(69), ""), "{outcome}");
    // Two of three decide it.
    let named = servers.iter().filter(|server| outcome.stderr.contains(&server.url())).count();
    assert!(named >= 2, "{outcome}");
    assert!(
        outcome.stderr.contains("restarted and may have forgotten who holds; its vote counts in "),
        "{outcome}"
    );
    assert!(outcome.stderr.contains("without --try, redsync waits for them"), "{outcome}");

    let json = machine.redsync(["run", "--json", "--try", "--expiry", "1h", "backup", "--", "true"]);
    assert_eq!(json.code, Some(69), "{json}");
    let said = object(&json.stderr);
    assert_eq!(
        (&said["error"], &said["nodes"][0]["error"]),
        (&"no_quorum".into(), &"withheld".into()),
        "{json}"
    );
    assert!((1..3_640_000).contains(&said["nodes"][0]["withheld_for_ms"].as_u64().unwrap()), "{json}");
}

#[test]
fn restarted_nodes_vote_at_once_where_the_restart_guard_is_off() {
    let servers = servers(3);
    let machine = Machine::with_nodes(&servers).with_restart_guard();
    let outcome = machine.run_sh(&format!("--restart-guard off --try {LONG}"), "exit 4");
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(4), ""), "{outcome}");
    let mut command = machine.command(["lock", "--try", "other"]);
    let outcome = support::finish(command.env("REDSYNC_RESTART_GUARD", "off"));
    assert_eq!(outcome.code, Some(0), "{outcome}");
}

#[test]
fn a_single_node_that_restarted_votes_unless_the_restart_guard_is_on() {
    let server = RedisServer::start();
    let machine = Machine::with_nodes([&server]).with_restart_guard();
    let outcome = machine.run_sh(&format!("--try {LONG}"), "exit 4");
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(4), ""), "{outcome}");
    let outcome = machine.run_sh(&format!("--restart-guard on --try {LONG}"), "exit 4");
    assert_eq!(outcome.code, Some(69), "{outcome}");
}

#[test]
fn who_waits_waits_restarted_nodes_out_and_is_told_why() {
    let began = Instant::now();
    let servers = servers(3);
    let machine = Machine::with_nodes(&servers).with_restart_guard();
    let outcome = machine.run_sh("--expiry 2s backup", "exit 4");
    assert_eq!(outcome.code, Some(4), "{outcome}");
    assert!(began.elapsed() > Duration::from_secs(2), "they were up for less: {outcome}");
    let note = "redsync: waiting for lock \"backup\": restarted nodes do not vote for another ";
    assert!(outcome.stderr.starts_with(note), "{outcome}");
    assert!(servers.iter().all(|server| outcome.stderr.contains(&server.url())), "{outcome}");
    assert_eq!(outcome.stderr.lines().count(), 1, "{outcome}");
}

#[test]
fn quiet_waits_restarted_nodes_out_in_silence() {
    let servers = servers(3);
    let machine = Machine::with_nodes(&servers).with_restart_guard();
    let outcome = machine.run_sh("--quiet --wait 1s --expiry 1h backup", "true");
    assert_eq!(outcome.code, Some(69), "{outcome}");
    assert_eq!(outcome.stderr.lines().count(), 1, "{outcome}");
    assert!(outcome.stderr.starts_with("redsync: no quorum to take"), "{outcome}");
}

#[test]
fn status_says_whose_vote_does_not_count_and_for_how_much_longer() {
    let servers = servers(3);
    let machine = Machine::with_nodes(&servers).with_restart_guard();
    let text = machine.redsync(["status", "backup"]);
    assert_eq!(text.code, Some(0), "{text}");
    assert!(
        text.stdout.starts_with("backup is free, but cannot be taken yet: nodes have restarted\n"),
        "{text}"
    );
    for server in &servers {
        let line =
            format!("\n  {}: free; it restarted, and its vote does not count for another ", server.url());
        assert!(text.stdout.contains(&line), "{text}");
    }
    let json = object(&machine.redsync(["status", "--json", "backup"]).stdout);
    assert_eq!(json["nodes"][2]["withheld"], true, "{json}");
    assert!((1..8100).contains(&json["nodes"][2]["withheld_for_ms"].as_u64().unwrap()), "{json}");

    let off = machine.redsync(["status", "--restart-guard", "off", "backup"]);
    assert!(off.stdout.starts_with("backup is free\n") && !off.stdout.contains("vote"), "{off}");
    let json = object(&machine.redsync(["status", "--json", "--restart-guard", "off", "backup"]).stdout);
    assert_eq!(
        (&json["nodes"][2]["withheld"], &json["nodes"][2]["withheld_for_ms"]),
        (&false.into(), &Value::Null)
    );
}

#[test]
fn status_asks_a_single_node_for_its_vote_only_where_the_restart_guard_is_on() {
    let server = RedisServer::start();
    let machine = Machine::with_nodes([&server]).with_restart_guard();
    let plain = machine.redsync(["status", "backup"]);
    assert_eq!(plain.stdout, "backup is free\n", "{plain}");
    let guarded = machine.redsync(["status", "--restart-guard", "on", "backup"]);
    assert!(guarded.stdout.contains("its vote does not count for another"), "{guarded}");
}

#[test]
fn a_node_that_drops_keys_is_named_once_by_each_command_that_relies_on_it() {
    let evicting = evicting();
    let others = servers(2);
    let several = Machine::with_nodes(others.iter().chain([&evicting]));
    let single = Machine::with_nodes([&evicting]);
    for machine in [&several, &single] {
        for arguments in [
            vec!["run", "--quiet", "backup", "--", "true"],
            vec!["status", "--quiet", "backup"],
            vec!["lock", "--quiet", "backup"],
        ] {
            let outcome = machine.redsync(&arguments);
            assert_eq!(outcome.code, Some(0), "{arguments:?}: {outcome}");
            assert!(names(&outcome, &evicting), "{arguments:?}: {outcome}");
            assert_eq!(outcome.stderr.lines().count(), 1, "{arguments:?}: {outcome}");
        }
        evicting.flushall();
    }
    let json = single.redsync(["status", "--json", "backup"]);
    assert_eq!(object(&json.stderr)["warning"], "unfit_node", "{json}");
}

#[test]
fn what_makes_a_node_unfit_is_told_before_the_command_begins() {
    let evicting = evicting();
    let machine = Machine::with_nodes([&evicting]);
    let outcome = support::finish(&mut machine.shell("exec 2>&1; exec $redsync run backup -- echo command"));
    assert_eq!(outcome.stdout.lines().last(), Some("command"), "{outcome}");
    assert_eq!(outcome.stdout.lines().count(), 2, "{outcome}");
}

#[test]
fn a_replica_is_told_from_a_server_that_merely_refuses() {
    let primary = RedisServer::start();
    let replica = RedisServer::builder().replica_of(&primary).start();
    let outcome = Machine::with_nodes([&replica]).run_sh("--try backup", "true");
    assert_eq!(outcome.code, Some(69), "{outcome}");
    assert!(outcome.stderr.contains("is unfit to hold locks: it is a replica of "), "{outcome}");
}

#[test]
fn a_node_that_hangs_delays_nobody_who_asks_what_makes_nodes_unfit() {
    let evicting = evicting();
    let others = servers(2);
    let machine = Machine::with_nodes(others.iter().chain([&evicting]));
    others[0].pause();
    // Less than the second for which a node that hangs is waited for; in the best of some tries, since a machine that is
    // busy only adds to it.
    let limit = Duration::from_millis(900);
    let took = (0..5).map(|_| {
        let outcome = machine.run_sh("--try --expiry 1m backup", "true");
        assert_eq!(outcome.code, Some(0), "{outcome}");
        outcome.took
    });
    let mut took = took.peekable();
    let best = std::iter::from_fn(|| took.next()).find(|took| *took < limit);
    assert!(best.is_some(), "all took {limit:?} or longer");
}

#[test]
fn a_node_that_hangs_hides_nothing_of_the_others_while_a_command_runs() {
    let evicting = evicting();
    let others = servers(2);
    let machine = Machine::with_nodes(others.iter().chain([&evicting]));
    others[0].pause();
    let go = machine.fifo("go");
    let running = machine.start_sh("--expiry 1m backup", "read line < go");
    redsync_testkit::wait_until("it is told", support::SOON, || {
        running.stderr().contains("unfit to hold locks")
    });
    std::fs::write(go, "go\n").unwrap();
    let outcome = running.outcome();
    assert_eq!(outcome.code, Some(0), "{outcome}");
    assert!(names(&outcome, &evicting), "{outcome}");
}

#[test]
fn nothing_is_asked_of_a_node_to_find_out_what_makes_it_unfit() {
    let server = RedisServer::start();
    let machine = Machine::with_nodes([&server]);
    let asked_by = |arguments: &[&str]| {
        let before = server.command_count("info");
        let outcome = machine.redsync(arguments);
        assert_eq!(outcome.code, Some(0), "{outcome}");
        (server.command_count("info") - before, outcome.stdout.trim().to_owned())
    };
    let (with, lease) = asked_by(&["lock", "backup"]);
    let (without, _) = asked_by(&["unlock", &lease]);
    assert_eq!(with, without, "`lock` tells what makes nodes unfit, and `unlock` does not");
}

fn evicting() -> RedisServer {
    RedisServer::builder().config("maxmemory", "100mb").config("maxmemory-policy", "allkeys-lru").start()
}

/// Whether it tells that this server drops keys.
fn names(outcome: &Outcome, evicting: &RedisServer) -> bool {
    let line = format!("redsync: {} is unfit to hold locks: it drops keys", evicting.url());
    outcome.stderr.contains(&line) && outcome.stderr.contains("maxmemory-policy allkeys-lru")
}

#[track_caller]
fn object(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text:?}"))
}
