//! What it is all for: many processes, one at a time.

mod support;

use std::fs;
use std::thread;
use std::time::Instant;

use redsync_testkit::{servers, wait_until};
use rustix::process::Signal;
use support::{Machine, SOON, is_alive, locks_on};

const PROCESSES: usize = 8;
const ROUNDS: usize = 50;

#[test]
fn eight_processes_count_to_400_on_one_machine() {
    count_to_400(&Machine::new());
}

#[test]
fn eight_processes_count_to_400_across_three_nodes() {
    let servers = servers(3);
    count_to_400(&Machine::with_nodes(&servers));
    assert!(servers.iter().all(|server| locks_on(server).is_empty()));
}

fn count_to_400(machine: &Machine) {
    fs::write(machine.path("f"), "0\n").unwrap();
    let began = Instant::now();
    thread::scope(|scope| {
        for _ in 0..PROCESSES {
            scope.spawn(|| {
                for _ in 0..ROUNDS {
                    let outcome = machine.run_sh("--quiet counter", "n=$(cat f); n=$((n+1)); echo $n > f");
                    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""), "{outcome}");
                }
            });
        }
    });
    eprintln!("counted to 400 in {:?}", began.elapsed());
    assert_eq!(machine.read("f"), "400\n");
}

#[test]
fn when_a_holder_is_killed_the_others_go_on_after_its_expiry() {
    let machine = Machine::new();
    fs::write(machine.path("f"), "0\n").unwrap();
    let doomed = machine.start_sh("--expiry 2s counter", "echo $$ > pid; exec sleep 60");
    let orphan = machine.wait_for_file("pid");
    thread::scope(|scope| {
        for _ in 1..PROCESSES {
            scope.spawn(|| {
                for _ in 0..5 {
                    let outcome = machine.run_sh("--quiet counter", "n=$(cat f); n=$((n+1)); echo $n > f");
                    assert_eq!(outcome.code, Some(0), "{outcome}");
                }
            });
        }
        assert_eq!(machine.read("f"), "0\n");
        doomed.signal(Signal::KILL);
        let killed = doomed.outcome();
        assert_eq!(support::ended_by(&killed), Some(9), "{killed}");
    });
    assert_eq!(machine.read("f"), "35\n");
    wait_until("the orphan is gone", SOON, || !is_alive(&orphan));
}
