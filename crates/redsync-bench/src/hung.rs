//! What hung nodes cost the command: `run`, `lock` and `unlock` with all nodes healthy, and with a minority that hangs.

use std::error::Error;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use clap::Args;
use redsync::{Clock, SystemClock};
use redsync_testkit::{RedisServer, servers};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The command to measure.
    #[arg(long, value_name = "PATH", default_value = "target/debug/redsync")]
    command: PathBuf,

    /// How many times each is measured.
    #[arg(long, default_value_t = 20)]
    times: usize,
}

/// Milliseconds: of `run` as a whole, until its command starts, and from there to the end; of `lock`; of `unlock`.
type Medians = [f64; 5];

pub(crate) fn measure(options: &Options) -> Result<(), Box<dyn Error>> {
    println!(
        "{:34} {:>8} {:>8} {:>8} {:>8} {:>8}  ms, medians of {}",
        "", "run", "start", "end", "lock", "unlock", options.times
    );
    for (nodes, hung) in [(3, 1), (5, 2)] {
        let servers = servers(nodes);
        let all: Vec<String> = servers.iter().map(RedisServer::url).collect();
        print(&format!("{nodes} healthy nodes"), medians(options, &all)?);
        let (rest, stopped) = servers.split_at(nodes - hung);
        stopped.iter().for_each(RedisServer::pause);
        print(&format!("{hung} of {nodes} stopped"), medians(options, &all)?);
        stopped.iter().for_each(RedisServer::resume);
        let silent = (0..hung).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<Vec<_>, _>>()?;
        let mut urls: Vec<String> = rest.iter().map(RedisServer::url).collect();
        for listener in &silent {
            urls.push(format!("redis://{}", listener.local_addr()?));
        }
        print(&format!("{hung} of {nodes} accept and never answer"), medians(options, &urls)?);
    }
    Ok(())
}

fn print(what: &str, medians: Medians) {
    print!("{what:34}");
    medians.iter().for_each(|millis| print!(" {millis:8.1}"));
    println!();
}

fn medians(options: &Options, urls: &[String]) -> Result<Medians, Box<dyn Error>> {
    let mut times: [Vec<Duration>; 5] = Default::default();
    for number in 0..options.times {
        let name = format!("hung-{number}");
        let (began, began_micros) = (Instant::now(), SystemClock.wall_micros());
        let output = redsync(&options.command, urls, &["run", &name, "--", "date", "+%s%N"])?;
        let ran = began.elapsed();
        let started_micros = text(&output)?.parse::<u64>()? / 1_000;
        let start = Duration::from_micros(started_micros.saturating_sub(began_micros));
        let began = Instant::now();
        let output = redsync(&options.command, urls, &["lock", &name])?;
        let locked = began.elapsed();
        let lease = text(&output)?;
        let began = Instant::now();
        redsync(&options.command, urls, &["unlock", &lease])?;
        let unlocked = began.elapsed();
        let took = [ran, start, ran.saturating_sub(start), locked, unlocked];
        times.iter_mut().zip(took).for_each(|(times, took)| times.push(took));
    }
    Ok(times.map(|mut times| {
        times.sort_unstable();
        times[times.len() / 2].as_secs_f64() * 1_000.0
    }))
}

fn redsync(command: &Path, urls: &[String], arguments: &[&str]) -> Result<Output, Box<dyn Error>> {
    let output = Command::new(command)
        .args(arguments)
        .env("REDSYNC_NODES", urls.join(","))
        // The servers have just been started.
        .env("REDSYNC_RESTART_GUARD", "off")
        .output()?;
    match output.status.success() {
        true => Ok(output),
        false => Err(format!("{arguments:?}: {}", String::from_utf8_lossy(&output.stderr)).into()),
    }
}

fn text(output: &Output) -> Result<String, Box<dyn Error>> {
    Ok(String::from_utf8(output.stdout.clone())?.trim().to_owned())
}
