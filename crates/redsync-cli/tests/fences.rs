//! Fences: in the command's environment, in leases, in what `status` says, and where nodes cannot count.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use redsync_testkit::{RedisServer, servers, wait_until};
use rustix::process::Signal;
use serde_json::Value;
use support::{Machine, Outcome, SOON, finish};

/// A lock whose leases outlast the test: nothing renews them meanwhile.
const LONG: &str = "--expiry 1h backup";

const COUNTER: &str = "{backup}:redsync:fence";

#[test]
fn the_fence_grows_from_run_to_run() {
    let servers = servers(3);
    for machine in [Machine::new(), Machine::with_nodes([&servers[0]]), Machine::with_nodes(&servers)] {
        let fences: Vec<u64> =
            (0..5).map(|_| number(&machine.run_sh("-q backup", "echo $REDSYNC_FENCE").stdout)).collect();
        assert!(fences.windows(2).all(|pair| pair[0] < pair[1]), "{fences:?}");
    }
}

#[test]
fn the_fence_grows_where_the_lock_is_handed_over_too() {
    let servers = servers(3);
    for machine in [Machine::new(), Machine::with_nodes(&servers)] {
        let go = machine.fifo("go");
        let holder = machine.start_sh(&format!("-q {LONG}"), "echo $REDSYNC_FENCE > first; read line < go");
        let first = number(&machine.wait_for_file("first"));
        let waiter = machine.start_sh(&format!("-q {LONG}"), "echo $REDSYNC_FENCE");
        wait_until("it waits in the queue", SOON, || status(&machine)["waiting"] == 1);
        fs::write(go, "go\n").unwrap();
        assert_eq!(holder.outcome().code, Some(0));
        let second = waiter.outcome();
        assert!(number(&second.stdout) > first, "{first}, and then {second}");
    }
}

#[test]
fn the_commands_fence_is_the_one_that_the_nodes_have() {
    let servers = servers(3);
    let machine = Machine::with_nodes(&servers);
    let outcome = machine.run_sh("backup", "echo $REDSYNC_FENCE");
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""), "{outcome}");
    let agree = |server: &&RedisServer| server.get(COUNTER).as_deref() == Some(outcome.stdout.trim());
    assert!(servers.iter().filter(agree).count() >= 2, "{outcome}");
}

#[test]
fn without_a_fence_the_command_sees_none_though_one_is_set_outside() {
    let server = RedisServer::start();
    for machine in [Machine::new(), Machine::with_nodes([&server])] {
        let script = "echo ${REDSYNC_FENCE-none}";
        let mut command = machine.command(support::run_arguments("-q --no-fence backup", script));
        let outcome = finish(command.env("REDSYNC_FENCE", "5"));
        assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(0), "none\n"), "{outcome}");

        let within = "exec $redsync run -q backup -- \
                      $redsync run -q --no-fence other -- sh -c 'echo ${REDSYNC_FENCE-none}'";
        let outcome = finish(&mut machine.shell(within));
        assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(0), "none\n"), "{outcome}");
    }
    assert_eq!(server.keys(), [COUNTER], "only what was locked with a fence is counted");
}

#[test]
fn a_run_within_a_run_has_a_fence_of_its_own() {
    let machine = Machine::new();
    fs::write(machine.path("tell"), "echo $REDSYNC_FENCE\n").unwrap();
    let within = "exec $redsync run -q backup -- sh -c '. ./tell; exec $redsync run -q other -- sh ./tell'";
    let outcome = finish(&mut machine.shell(within));
    let fences: Vec<u64> = outcome.stdout.lines().map(number).collect();
    assert_eq!(fences.len(), 2, "{outcome}");
    assert_ne!(fences[0], fences[1], "{outcome}");
}

#[test]
fn the_fence_of_a_lease_survives_its_extension() {
    let servers = servers(3);
    for machine in [Machine::new(), Machine::with_nodes([&servers[0]]), Machine::with_nodes(&servers)] {
        let locked = json(&machine.lock(&format!("-q --json {LONG}")));
        let (lease, fence) = (locked["lease"].as_str().unwrap(), locked["fence"].as_u64().unwrap());
        assert!(lease.ends_with(&format!(":{fence}")), "{locked}");

        let extended = json(&machine.redsync(["extend", "-q", "--json", "--expiry", "2h", lease]).stdout);
        assert_eq!(extended["fence"], fence, "{extended}");
        let longer = extended["lease"].as_str().unwrap();
        assert!(longer.ends_with(&format!(":{fence}")), "{extended}");
        assert_eq!(status(&machine)["fence"], fence);

        assert_eq!(machine.redsync(["unlock", "-q", longer]).code, Some(0));
        let next = json(&machine.lock(&format!("-q --json {LONG}")));
        assert!(next["fence"].as_u64().unwrap() > fence, "{next}");
    }
}

#[test]
fn a_lease_without_a_fence_stays_without() {
    let machine = Machine::new();
    let locked = json(&machine.lock(&format!("-q --json --no-fence {LONG}")));
    let (lease, token) = (locked["lease"].as_str().unwrap(), locked["token"].as_str().unwrap());
    assert_eq!(locked["fence"], Value::Null, "{locked}");
    assert!(lease.ends_with(&token.replace(':', "%3A")), "{locked}");
    let extended = json(&machine.redsync(["extend", "-q", "--json", lease]).stdout);
    assert_eq!((&extended["fence"], &extended["lease"]), (&Value::Null, &locked["lease"]));
    assert_eq!(machine.redsync(["unlock", "-q", lease]).code, Some(0));
}

#[test]
fn status_shows_the_holders_fence() {
    let servers = servers(3);
    for machine in [Machine::new(), Machine::with_nodes([&servers[0]]), Machine::with_nodes(&servers)] {
        let locked = json(&machine.lock(&format!("-q --json {LONG}")));
        let fence = &locked["fence"];
        let text = machine.redsync(["status", "-q", "backup"]);
        assert!(first_line(&text).ends_with(&format!("Z); latest fence {fence}")), "{text}");
        assert_eq!(text.stdout.matches("fence").count(), 1, "no node says otherwise: {text}");
        let told = status(&machine);
        assert_eq!((&told["fence"], &told["holder"]), (fence, &locked["token"]), "{told}");
        let counters = told["nodes"].as_array().unwrap().iter().filter(|node| node["fence"] == *fence);
        assert!(counters.count() > told["nodes"].as_array().unwrap().len() / 2, "{told}");

        assert_eq!(machine.redsync(["unlock", locked["lease"].as_str().unwrap()]).code, Some(0));
        let free = status(&machine);
        assert_eq!((&free["fence"], &free["nodes"][0]["fence"]), (&Value::Null, fence), "{free}");
        let free = machine.redsync(["status", "-q", "backup"]);
        assert!(!free.stdout.contains("fence"), "{free}");
    }
}

#[test]
fn status_is_as_sure_of_the_fence_as_of_the_holder() {
    let servers = servers(3);
    let machine = Machine::with_nodes(&servers);
    let fence = number(machine.lock(&format!("--json {LONG}")).split("\"fence\":").nth(1).unwrap());
    // One who asked in vain was counted by one node.
    let counted = |server: &RedisServer, fence: u64| server.set(COUNTER, &fence.to_string(), None);
    counted(&servers[0], fence + 9);
    servers[1..].iter().for_each(|server| counted(server, fence));
    let sure = machine.redsync(["status", "backup"]);
    assert!(first_line(&sure).ends_with(&format!("; latest fence {fence}")), "{sure}");

    counted(&servers[1], fence + 5);
    servers[2].command(&["DEL", COUNTER]);
    let unclear = machine.redsync(["status", "backup"]);
    assert!(
        first_line(&unclear).ends_with("; its fence cannot be told, the nodes' counters differ"),
        "{unclear}"
    );
    for (server, said) in servers.iter().zip([
        format!("; fence counter at {}", fence + 9),
        format!("; fence counter at {}", fence + 5),
        "; no fence counter".to_owned(),
    ]) {
        let is_said = |line: &str| line.contains(&server.url()) && line.ends_with(&said);
        assert!(unclear.stdout.lines().any(is_said), "{said}: {unclear}");
    }
    let told = status(&machine);
    assert_eq!((&told["state"], &told["fence"]), (&"held".into(), &Value::Null), "{told}");
    assert_eq!(told["nodes"][1]["fence"], fence + 5, "{told}");
}

#[test]
fn status_says_nothing_of_fences_where_there_never_was_one() {
    let server = RedisServer::start();
    let machine = Machine::with_nodes([&server]);
    machine.lock(&format!("--no-fence {LONG}"));
    let text = machine.redsync(["status", "backup"]);
    assert!(!text.stdout.contains("fence"), "{text}");
    let told = status(&machine);
    assert_eq!((&told["fence"], &told["nodes"][0]["fence"]), (&Value::Null, &Value::Null), "{told}");
}

#[test]
fn a_counter_that_is_no_number_is_told_with_its_node_and_key() {
    let servers = servers(3);
    for servers in [&servers[..1], &servers] {
        let machine = Machine::with_nodes(servers);
        for (name, counter) in [("backup", COUNTER), ("{jobs}:backup", "{jobs}:backup:redsync:tagged:fence")]
        {
            servers.iter().for_each(|server| server.set(counter, "junk", None));
            for options in ["--try", "--wait 5s", ""] {
                let outcome = machine.run_sh(&format!("{options} {name}"), "echo in");
                assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(69), ""), "{outcome}");
                assert_eq!(outcome.stderr.lines().count(), 1, "{outcome}");
                assert!(outcome.stderr.contains(" is no number, or at its end"), "{outcome}");
                assert!(servers.iter().any(|server| outcome.stderr.contains(&server.url())), "{outcome}");
                let advice = format!("(delete {counter} there if it is junk, ");
                assert!(outcome.stderr.contains(&advice), "{outcome}");
                assert!(outcome.took < SOON, "{outcome}");
            }
            let without = machine.run_sh(&format!("--no-fence --try {name}"), "true");
            assert_eq!((without.code, without.stderr.as_str()), (Some(0), ""), "{without}");
            servers.iter().for_each(|server| drop(server.command(&["DEL", counter])));
            let healed = machine.run_sh(&format!("--try {name}"), "echo $REDSYNC_FENCE");
            assert!(number(&healed.stdout) > 1, "{healed}");
        }
    }
}

#[test]
fn one_counter_of_three_that_is_no_number_costs_nothing() {
    let servers = servers(3);
    let machine = Machine::with_nodes(&servers);
    let before = number(&machine.run_sh("backup", "echo $REDSYNC_FENCE").stdout);
    servers[1].set(COUNTER, "junk", None);
    let after = machine.run_sh("backup", "echo $REDSYNC_FENCE");
    assert_eq!((after.code, after.stderr.as_str()), (Some(0), ""), "{after}");
    assert!(number(&after.stdout) > before, "{before}, and then {after}");
}

#[test]
fn a_counter_is_kept_for_as_long_as_its_lock() {
    let server = RedisServer::start();
    let machine = Machine::with_nodes([&server]);
    let days = |days: u64| i64::try_from(Duration::from_secs(days * 86_400).as_millis()).unwrap();
    let lease = machine.lock("--expiry 1000h backup");
    assert!(server.pttl(COUNTER) > days(41), "a lock of 41 days");
    let outcome = machine.redsync(["extend", "--expiry", "2000h", &lease]);
    assert_eq!(outcome.code, Some(0), "{outcome}");
    assert!(server.pttl(COUNTER) > days(83), "a lock of 83 days");
    assert_eq!(machine.redsync(["unlock", outcome.stdout.trim()]).code, Some(0));
    machine.lock("other");
    assert!((days(29)..=days(30)).contains(&server.pttl("{other}:redsync:fence")));
}

#[test]
fn the_recipe_of_the_readme_refuses_what_a_former_holder_writes_late() {
    let server = RedisServer::start();
    for machine in [Machine::new(), Machine::with_nodes([&server])] {
        fs::write(machine.path("publish"), recipe()).unwrap();
        fs::set_permissions(machine.path("publish"), fs::Permissions::from_mode(0o755)).unwrap();
        let go = machine.fifo("go");
        let script = "echo former > former; echo $$ > pid; read line < go; exec ./publish former";
        let former = machine.start_sh("-q --on-lost warn --expiry 1s backup", script);
        machine.wait_for_file("pid");
        // Nobody renews its lock any more, and the command does not hear of it.
        former.signal(Signal::STOP);
        let present = machine.run_sh("-q backup", "echo present > present; exec ./publish present");
        assert_eq!(present.code, Some(0), "{present}");

        fs::write(go, "go\n").unwrap();
        wait_until("it is refused", SOON, || former.stderr().contains("is stale"));
        assert_eq!(machine.read("published"), "present\n");
        former.signal(Signal::CONT);
        assert_eq!(former.outcome().code, Some(1));

        let script = "echo once > once; echo twice > twice; ./publish once && exec ./publish twice";
        let twice = machine.run_sh("-q backup", script);
        assert_eq!((twice.code, &*machine.read("published")), (Some(0), "twice\n"), "{twice}");
        let unfenced = machine.run_sh("-q --no-fence backup", "exec ./publish present");
        assert_ne!(unfenced.code, Some(0), "{unfenced}");
        assert!(unfenced.stderr.contains("REDSYNC_FENCE"), "{unfenced}");
    }
}

/// The script that the README shows.
fn recipe() -> String {
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md")).unwrap();
    let (_, from) = readme.split_once("```sh\n#!/bin/sh\n").expect("the README has a script");
    let (script, _) = from.split_once("```").unwrap();
    format!("#!/bin/sh\n{script}")
}

/// The number that a text begins with.
#[track_caller]
fn number(text: &str) -> u64 {
    let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or_else(|error| panic!("{error}: {text:?}"))
}

#[track_caller]
fn status(machine: &Machine) -> Value {
    json(&machine.redsync(["status", "--quiet", "--json", "backup"]).stdout)
}

#[track_caller]
fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text:?}"))
}

fn first_line(outcome: &Outcome) -> &str {
    outcome.stdout.lines().next().unwrap_or_default()
}
