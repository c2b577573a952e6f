//! `unlock --force`: what it takes away, from whom, and what the former holder learns.

mod support;

use std::time::{Duration, Instant};

use redsync_testkit::{RedisServer, servers, wait_until};
use serde_json::Value;
use support::{Machine, SOON};

#[test]
fn a_lock_is_taken_away_from_its_holder_which_learns_of_it_by_its_next_renewal() {
    let servers = servers(3);
    let machine = Machine::with_nodes(&servers);
    let holder = machine.start_sh(
        "--expiry 6s --owner web-1 backup",
        "echo $REDSYNC_FENCE > fence; trap 'echo told > told; exit 9' TERM; while :; do sleep 0.05; done",
    );
    let former: u64 = machine.wait_for_file("fence").parse().unwrap();
    let forced = machine.redsync(["unlock", "--force", "--yes", "backup"]);
    let since = Instant::now();
    assert_eq!(forced.code, Some(0), "{forced}");
    assert!(forced.stdout.starts_with("lock \"backup\" was taken from web-1, and is free\n"), "{forced}");
    assert!(
        forced.stdout.contains("until its next renewal, at most a third of its expiry, and finds it lost\n"),
        "{forced}"
    );
    let stale_below = former + 1;
    assert!(forced.stdout.contains(&format!("with a fence below {stale_below} is stale")), "{forced}");

    machine.wait_for_file("told");
    // A third of the expiry, and what a busy machine adds.
    assert!(since.elapsed() < Duration::from_secs(4), "it took {:?}", since.elapsed());
    let outcome = holder.outcome();
    assert_eq!(outcome.code, Some(74), "{outcome}");
    assert!(
        outcome.stderr.contains("redsync: lock \"backup\" was lost, so the command was ended: "),
        "{outcome}"
    );

    let next = machine.run_sh("backup", "echo $REDSYNC_FENCE");
    let next: u64 = next.stdout.trim().parse().unwrap();
    assert!(next >= stale_below, "{next} comes after {former}");
}

#[test]
fn the_first_in_queue_gets_what_is_taken_away() {
    let server = RedisServer::start();
    for machine in [Machine::new(), Machine::with_nodes([&server])] {
        let lease = machine.lock("--owner web-1 --expiry 1h backup");
        let waiter = machine.start_sh("--owner web-2 backup", "echo in > in; exec sleep 60");
        let waits = || {
            let status = machine.redsync(["status", "--json", "backup"]);
            serde_json::from_str::<Value>(&status.stdout).unwrap()["waiting"] == 1
        };
        wait_until("somebody waits", SOON, waits);
        let forced = machine.redsync(["unlock", "--force", "--yes", "backup"]);
        let begin = "lock \"backup\" was taken from web-1, and is held by web-2, renewing (";
        assert!(forced.stdout.starts_with(begin), "{forced}");
        assert!(forced.stdout.contains("it does not renew, so it is not told"), "{forced}");
        machine.wait_for_file("in");
        let late = machine.redsync(["unlock", &lease]);
        assert_eq!(late.code, Some(1), "{late}");
        drop(waiter);
    }
}

#[test]
fn without_yes_and_without_a_terminal_nothing_is_taken_away() {
    let server = RedisServer::start();
    let machine = Machine::with_nodes([&server]);
    let lease = machine.lock("--owner web-1 --expiry 1h backup");
    let refused = machine.redsync(["unlock", "--force", "backup"]);
    assert_eq!((refused.code, refused.stdout.as_str()), (Some(64), ""), "{refused}");
    let said = &refused.stderr;
    assert!(said.contains("lock \"backup\" is held by web-1 for another 59 min "), "{refused}");
    assert!(said.contains("only with --yes, or asked at a terminal"), "{refused}");
    assert_eq!(machine.redsync(["unlock", &lease]).code, Some(0));
}

#[test]
fn locks_of_other_libraries_can_be_taken_away_too() {
    let server = RedisServer::start();
    let machine = Machine::with_nodes([&server]);
    for expiry in [None, Some(600_000)] {
        server.set("backup", "q1Zx+/b4u0r3o0B3m9nD3A==", expiry);
        let forced = machine.redsync(["unlock", "--force", "--yes", "--json", "backup"]);
        let json: Value = serde_json::from_str(&forced.stdout).unwrap();
        assert_eq!((&json["outcome"], &json["stale_below"]), (&"forced".into(), &Value::Null), "{forced}");
        assert_eq!((forced.code, server.get("backup")), (Some(0), None), "{forced}");
        assert_eq!(server.keys(), Vec::<String>::new(), "no counter comes of it");
    }
}

#[test]
fn what_is_not_held_cannot_be_taken_away() {
    let servers = servers(3);
    let machine = Machine::with_nodes(&servers);
    let free = machine.redsync(["unlock", "--force", "--yes", "backup"]);
    assert_eq!(free.code, Some(1), "{free}");
    assert!(free.stderr.contains("lock \"backup\" is not held; there is nothing to take away"), "{free}");
    for (server, token) in servers.iter().zip(["ann", "bob", "cem"]) {
        server.set("backup", token, Some(600_000));
    }
    let contended = machine.redsync(["unlock", "--force", "--yes", "backup"]);
    assert_eq!(contended.code, Some(1), "{contended}");
    assert!(contended.stderr.contains("nobody holds lock \"backup\" by a majority of nodes"), "{contended}");
    servers[0].kill();
    servers[1].kill();
    let unknown = machine.redsync(["unlock", "--force", "--yes", "backup"]);
    assert_eq!(unknown.code, Some(69), "{unknown}");
    assert!(unknown.stderr.contains("cannot tell who holds lock \"backup\": "), "{unknown}");
}

#[test]
fn what_cannot_be_named_is_not_taken_away() {
    let server = RedisServer::start();
    let machine = Machine::with_nodes([&server]);
    let lease = machine.lock("--expiry 1h backup");
    let given = machine.redsync(["unlock", "--force", "--yes", &lease]);
    assert_eq!(given.code, Some(64), "{given}");
    assert!(given.stderr.contains("--force takes a lock's name, and this is a lease"), "{given}");

    server.set("long", &"t".repeat(513), Some(600_000));
    let long = machine.redsync(["unlock", "--force", "--yes", "long"]);
    assert_eq!(long.code, Some(64), "{long}");
    assert!(long.stderr.contains("invalid token: it has 513 bytes; the most is 512"), "{long}");
    server.command(&["EVAL", "return redis.call('SET', 'binary', '\\255\\254', 'PX', '600000')", "0"]);
    let binary = machine.redsync(["unlock", "--force", "--yes", "binary"]);
    assert_eq!(binary.code, Some(64), "{binary}");
    assert!(
        binary.stderr.contains("not valid UTF-8, so it cannot be sent back; delete the key by hand"),
        "{binary}"
    );
    assert!(server.get("long").is_some() && server.pttl("binary") > 0);
}

#[test]
fn yes_means_nothing_without_force() {
    let outcome = Machine::new().redsync(["unlock", "--yes", "backup"]);
    assert_eq!(outcome.code, Some(64), "{outcome}");
    assert!(outcome.stderr.contains("--force"), "{outcome}");
}
