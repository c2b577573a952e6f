//! A server that lies costs the command no memory, and does not keep it from locking on honest nodes.

mod support;

use std::fs;
use std::time::Duration;

use redsync_testkit::{Liar, Lie, RedisServer, Stage, servers};
use support::Machine;

/// What the command may take of memory at its peak, in KiB.
const MOST: u64 = 64 * 1024;

/// Endless replies, and such as announce what never comes.
fn lies() -> [Lie; 5] {
    [
        Lie::Endless(b"$2147483647\r\n".to_vec(), b"xxxxxxxx".to_vec()),
        Lie::Endless(b"*2147483647\r\n".to_vec(), b"_\r\n".to_vec()),
        Lie::Endless(b"*4096\r\n".to_vec(), b"*4096\r\n".to_vec()),
        Lie::Endless(b"+".to_vec(), b"x\n".to_vec()),
        // Each of them is within bounds.
        Lie::Endless(b"$900000\r\n".to_vec(), [b"x".repeat(900_000), b"\r\n$900000\r\n".to_vec()].concat()),
    ]
}

/// The most memory that the process took so far, in KiB.
fn peak(pid: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[test]
fn a_server_that_lies_at_any_stage_costs_no_memory_while_two_honest_ones_hold_the_lock() {
    let honest: Vec<RedisServer> = servers(2);
    let mut most = 0;
    for stage in [Stage::Hello, Stage::Info, Stage::Acquire, Stage::Extend] {
        for lie in lies() {
            let name = format!("{stage:?}, {:?}", first_of(&lie));
            let liar = Liar::start(move |asked, _| (asked == stage).then(|| lie.clone()));
            let urls = format!("{},{},{}", honest[0].url(), honest[1].url(), liar.url());
            let machine = Machine::with_urls(&urls);
            // Renewed several times in the second; its parent is redsync.
            let running =
                machine.start_sh("--expiry 600ms name", "sleep 1; grep VmHWM /proc/$PPID/status > peak");
            let outcome = running.outcome();
            assert_eq!(outcome.code, Some(0), "{name}: {outcome}");
            let peak: u64 = machine.read("peak").split_whitespace().nth(1).unwrap().parse().unwrap();
            assert!(peak < MOST, "{name}: {peak} KiB");
            most = most.max(peak);
        }
    }
    println!("at most {most} KiB");
}

#[test]
fn a_server_that_lies_to_who_looks_costs_no_memory() {
    let honest: Vec<RedisServer> = servers(2);
    for lie in lies() {
        let name = format!("{:?}", first_of(&lie));
        let liar = Liar::start(move |asked, _| (asked == Stage::Inspect).then(|| lie.clone()));
        let urls = format!("{},{},{}", honest[0].url(), honest[1].url(), liar.url());
        let machine = Machine::with_urls(&urls);
        let mut child = machine.command(["status", "name"]).spawn().unwrap();
        let (pid, mut most) = (child.id().to_string(), 0);
        let status = loop {
            most = most.max(peak(&pid).unwrap_or_default());
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            // Often enough to see the peak, which only grows.
            std::thread::sleep(Duration::from_millis(5));
        };
        assert!(status.success(), "{name}: {status}");
        assert!(most < MOST, "{name}: {most} KiB");
    }
}

fn first_of(lie: &Lie) -> String {
    let (Lie::Endless(first, _) | Lie::Reply(first)) = lie;
    String::from_utf8_lossy(first).trim().to_owned()
}
