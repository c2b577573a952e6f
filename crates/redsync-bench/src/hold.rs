//! Many guards held at once: what their renewal costs, and what each of them takes of memory.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use redsync::{Guard, Redsync};
use redsync_testkit::{RedisServer, servers};
use serde_json::json;

use crate::rounds::cpu_time;

/// What to measure.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How many guards
    #[arg(long, default_value_t = 100_000)]
    guards: usize,
    /// Their expiry in seconds
    #[arg(long, default_value_t = 30)]
    expiry: u64,
    /// For how many seconds they are held
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Number of nodes
    #[arg(long, default_value_t = 1)]
    nodes: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What came of it.
struct Figures {
    lost: usize,
    missing_keys: usize,
    leaked_keys: usize,
    renewals_per_second: f64,
    /// Shares of one processor.
    client_cpu: f64,
    server_cpu: f64,
    bytes_per_guard: f64,
    release: Duration,
}

/// Runs the measurement and prints what came of it.
pub(crate) fn measure(options: &Options) -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let servers = servers(options.nodes);
    let figures = runtime.block_on(hold(options, &servers))?;
    print(options, &figures);
    match figures.lost + figures.missing_keys + figures.leaked_keys {
        0 => Ok(()),
        _ => Err("guards were lost, or keys were left behind".into()),
    }
}

async fn hold(options: &Options, servers: &[RedisServer]) -> Result<Figures, Box<dyn Error>> {
    let lost = Arc::new(AtomicUsize::new(0));
    // What is measured is holding; the servers have just started.
    let builder = Redsync::builder().restart_guard(false);
    let builder = servers.iter().fold(builder, |builder, server| builder.url(server.url()));
    let redsync = builder.build()?;
    redsync.mutex("hold:warm").lock().await?.unlock().await?;

    let before = resident_bytes()?;
    let guards: Vec<Guard> = stream::iter(0..options.guards)
        .map(|number| {
            let lost = Arc::clone(&lost);
            let mutex = redsync.mutex(format!("hold:{number}")).expiry(Duration::from_secs(options.expiry));
            let mutex = mutex.on_lost(move |_| _ = lost.fetch_add(1, Ordering::Relaxed));
            async move { mutex.lock().await }
        })
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await?;
    let bytes_per_guard = (resident_bytes()?.saturating_sub(before)) as f64 / options.guards as f64;

    let (cpu, begun) = (cpu_time(), Instant::now());
    let (server_cpu, renewals) = (cpu_of(servers), extensions_on(servers));
    tokio::time::sleep(Duration::from_secs(options.seconds)).await;
    let seconds = begun.elapsed().as_secs_f64();
    let client_cpu = (cpu_time() - cpu).as_secs_f64() / seconds;
    let server_cpu = (cpu_of(servers) - server_cpu) / seconds / servers.len() as f64;
    let renewals_per_second = (extensions_on(servers) - renewals) as f64 / seconds / servers.len() as f64;

    let invalid = guards.iter().filter(|guard| !guard.is_valid()).count();
    let missing_keys = servers.iter().map(|server| options.guards.saturating_sub(keys_on(server))).sum();
    let begun = Instant::now();
    drop(guards);
    redsync.drain(Duration::from_secs(60)).await;
    let release = begun.elapsed();
    let leaked_keys = servers.iter().map(keys_on).sum();
    Ok(Figures {
        lost: lost.load(Ordering::Relaxed).max(invalid),
        missing_keys,
        leaked_keys,
        renewals_per_second,
        client_cpu,
        server_cpu,
        bytes_per_guard,
        release,
    })
}

fn print(options: &Options, figures: &Figures) {
    let Options { guards, expiry, seconds, nodes, .. } = options;
    if options.json {
        let row = json!({
            "guards": guards, "expiry_s": expiry, "seconds": seconds, "nodes": nodes,
            "lost": figures.lost, "missing_keys": figures.missing_keys, "leaked_keys": figures.leaked_keys,
            "renewals_per_second": figures.renewals_per_second,
            "client_cpu": figures.client_cpu, "server_cpu": figures.server_cpu,
            "bytes_per_guard": figures.bytes_per_guard, "release_ms": figures.release.as_millis(),
        });
        println!("{row}");
        return;
    }
    println!("{guards} guards of {expiry} s, held for {seconds} s on {nodes} node(s)");
    println!("  lost                 {:>10}", figures.lost);
    println!("  keys missing         {:>10}", figures.missing_keys);
    println!("  keys left behind     {:>10}", figures.leaked_keys);
    println!("  renewals a second    {:>10.0}", figures.renewals_per_second);
    println!("  cpu of this process  {:>9.1}% of a core", figures.client_cpu * 100.0);
    println!("  cpu of each server   {:>9.1}% of a core", figures.server_cpu * 100.0);
    println!(
        "  memory for a guard   {:>10.0} bytes (resident, its name and options among them)",
        figures.bytes_per_guard
    );
    println!("  all released within  {:>10.0?}", figures.release);
}

/// How many locks are asked for at once.
const AT_ONCE: usize = 64;

/// Memory of this process that is in use. proc(5).
fn resident_bytes() -> Result<u64, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS in /proc/self/status")?;
    let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kibibytes * 1024)
}

fn keys_on(server: &RedisServer) -> usize {
    usize::try_from(server.command(&["DBSIZE"]).int()).unwrap_or_default()
}

/// How many extensions the servers have executed: one PEXPIRE each.
fn extensions_on(servers: &[RedisServer]) -> u64 {
    servers.iter().map(|server| server.command_count("pexpire")).sum()
}

/// Processor seconds that the servers have used.
fn cpu_of(servers: &[RedisServer]) -> f64 {
    let used = |server: &RedisServer| {
        let text = server.info("cpu");
        let seconds = |name: &str| -> f64 {
            let value = text.lines().find_map(|line| line.strip_prefix(name));
            value.and_then(|value| value.trim().parse().ok()).unwrap_or_default()
        };
        seconds("used_cpu_sys:") + seconds("used_cpu_user:")
    };
    servers.iter().map(used).sum()
}
