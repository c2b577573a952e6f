//! A failover behind a stable address: the command goes on, and no process has to be restarted.

mod support;

use std::time::Duration;

use redsync_testkit::{Pair, wait_until};
use support::{Machine, SOON};

#[test]
fn a_command_keeps_its_lock_through_a_failover_and_a_waiter_gets_it_in_its_turn() {
    let pair = Pair::start();
    let machine = Machine::with_urls(&pair.proxy.url());
    for fifo in ["end", "end-of-waiter"] {
        machine.fifo(fifo);
    }
    let holding = machine.start_sh("--expiry 5s backup", "echo held > held; read line < end");
    machine.wait_for_file("held");
    let script = "echo $REDSYNC_FENCE > waited; read line < end-of-waiter";
    let waiting = machine.start_sh("--expiry 5s backup", script);
    wait_until("it is in the queue", SOON, || pair.first.waiting("backup") == 1);
    let token = pair.first.get("backup").unwrap();
    pair.fail_over();
    // More than the lease had left when the primary changed.
    wait_until("the lock is renewed on the new primary", SOON, || {
        pair.second.get("backup").as_ref() == Some(&token) && pair.second.pttl("backup") > 4_000
    });
    std::thread::sleep(Duration::from_secs(6)); // More than an expiry: it must be renewed again and again.
    assert_eq!(pair.second.get("backup"), Some(token));
    assert_eq!(machine.read("waited"), "");
    assert!(holding.stderr().is_empty(), "{}", holding.stderr());
    std::fs::write(machine.path("end"), "\n").unwrap();
    let outcome = holding.outcome();
    assert_eq!(outcome.code, Some(0), "{outcome}");
    machine.wait_for_file("waited");
    std::fs::write(machine.path("end-of-waiter"), "\n").unwrap();
    let outcome = waiting.outcome();
    assert_eq!(outcome.code, Some(0), "{outcome}");
    assert_eq!(pair.second.get("backup"), None);
}
