//! Many who want one lock: how long it lies free between two holders, how long they wait, and who gets how much of it.

use std::error::Error;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use futures_util::future::join_all;
use hdrhistogram::Histogram;
use redsync::Redsync;
use redsync_testkit::{RedisServer, servers};
use rslock::LockManager;
use serde_json::json;

use crate::floor::{Floor, publish_to_push};
use crate::rounds::histogram;

/// What to measure.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Numbers of nodes
    #[arg(long, value_delimiter = ',', default_values_t = [1, 3, 5])]
    nodes: Vec<usize>,
    /// Numbers of callers who want the lock
    #[arg(long, value_delimiter = ',', default_values_t = [2, 16, 64, 1_000, 10_000])]
    waiters: Vec<usize>,
    /// For how many milliseconds each holds it
    #[arg(long, value_delimiter = ',', default_values_t = [0, 2])]
    hold: Vec<u64>,
    /// Who contends
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["line", "polling", "rslock"])]
    contestants: Vec<Contestant>,
    /// Over how many clients, each with connections of its own, the callers are spread
    #[arg(long, default_value_t = 16)]
    clients: usize,
    /// At least so many acquisitions for each row, and each caller's one
    #[arg(long, default_value_t = 4_000)]
    acquisitions: usize,
    /// But no longer than so many seconds
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// The tokio runtime that all run in
    #[arg(long, value_enum, default_value = "multi")]
    runtime: Runtime,
    /// Print JSON, one line for each row
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Contestant {
    /// redsync, waiting in the queue: its default
    Queue,
    /// redsync, trying again and again: as Go's redsync does
    Polling,
    /// The crate rslock
    Rslock,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Runtime {
    /// As many worker threads as processors
    Multi,
    /// One thread
    Current,
}

/// What came of one row.
struct Figures {
    gap: Histogram<u64>,
    wait: Histogram<u64>,
    hold: Histogram<u64>,
    acquisitions: u64,
    took: Duration,
    jain: f64,
    commands: f64,
    overlaps: u64,
    is_cut_short: bool,
}

/// Runs the measurement and prints a row for each combination.
pub(crate) fn measure(options: &Options) -> Result<(), Box<dyn Error>> {
    let runtime = match options.runtime {
        Runtime::Multi => tokio::runtime::Builder::new_multi_thread().enable_all().build()?,
        Runtime::Current => tokio::runtime::Builder::new_current_thread().enable_all().build()?,
    };
    let mut overlaps = 0;
    for &nodes in &options.nodes {
        let servers = servers(nodes);
        for &hold in &options.hold {
            for &waiters in &options.waiters {
                let pause = Duration::from_millis(hold);
                let rounds = if hold == 0 { options.acquisitions.max(FLOOR_ROUNDS) } else { FLOOR_ROUNDS };
                let floor = runtime.block_on(publish_to_push(&servers, rounds, pause))?;
                if !options.json {
                    let times = floor.times();
                    println!(
                        "\n{nodes} node(s), {waiters} callers, held for {hold} ms; a bare publish on each and the majority's push: p50 {:.0} us, p99 {:.0} us; p99/ideal {}",
                        micros(&times, 0.5),
                        micros(&times, 0.99),
                        floor
                            .evenness(waiters)
                            .map_or_else(|| "unknown".into(), |share| format!("{share:.2}")),
                    );
                    println!(
                        "{:>8} | {:>9} {:>9} {:>9} | {:>8} | {:>10} {:>10} {:>10} | {:>6} | {:>8} | {:>9}",
                        "",
                        "gap p50",
                        "/ floor",
                        "p99",
                        "acq/s",
                        "wait p50",
                        "p99",
                        "max",
                        "Jain",
                        "commands",
                        "p99/ideal"
                    );
                }
                for &contestant in &options.contestants {
                    let row = Row { waiters, hold: Duration::from_millis(hold), contestant };
                    let figures = runtime.block_on(contend(options, &servers, &row))?;
                    overlaps += figures.overlaps;
                    print(options, nodes, &row, &figures, &floor);
                }
            }
        }
    }
    match overlaps {
        0 => Ok(()),
        _ => Err(format!("two held at once, {overlaps} times").into()),
    }
}

struct Row {
    waiters: usize,
    hold: Duration,
    contestant: Contestant,
}

fn print(options: &Options, nodes: usize, row: &Row, figures: &Figures, floor: &Floor) {
    let times = floor.times();
    let name = match row.contestant {
        Contestant::Queue => "line",
        Contestant::Polling => "polling",
        Contestant::Rslock => "rslock",
    };
    let per_second = figures.acquisitions as f64 / figures.took.as_secs_f64();
    let ratio = micros(&figures.gap, 0.5) / micros(&times, 0.5);
    // What the last of all waits if all are served in turn: each holds the lock, and a gap passes between two.
    let ideal = row.waiters as f64 * (figures.hold.mean() + figures.gap.mean()) / 1e3;
    let share = micros(&figures.wait, 0.99) / ideal;
    if options.json {
        let row = json!({
            "nodes": nodes, "waiters": row.waiters, "hold_ms": row.hold.as_millis(), "contestant": name,
            "floor_p50_us": micros(&times, 0.5), "floor_p99_to_ideal": floor.evenness(row.waiters), "gap_p50_us": micros(&figures.gap, 0.5),
            "gap_p99_us": micros(&figures.gap, 0.99), "gap_to_floor": ratio, "acquisitions_per_second": per_second,
            "wait_p50_us": micros(&figures.wait, 0.5), "wait_p99_us": micros(&figures.wait, 0.99),
            "wait_max_us": micros(&figures.wait, 1.0), "jain": figures.jain, "commands_per_hand_over": figures.commands,
            "wait_p99_to_ideal": share, "cut_short": figures.is_cut_short, "overlaps": figures.overlaps,
        });
        println!("{row}");
        return;
    }
    println!(
        "{name:>8} | {:>7.0}us {ratio:>9.2} {:>7.0}us | {per_second:>8.0} | {:>8.1}ms {:>8.1}ms {:>8.1}ms | {:>6.4} | {:>8.2} | {share:>9.2}{}",
        micros(&figures.gap, 0.5),
        micros(&figures.gap, 0.99),
        micros(&figures.wait, 0.5) / 1e3,
        micros(&figures.wait, 0.99) / 1e3,
        micros(&figures.wait, 1.0) / 1e3,
        figures.jain,
        figures.commands,
        if figures.is_cut_short { "  (cut short)" } else { "" },
    );
}

/// All callers, again and again, until each could have had its share.
async fn contend(options: &Options, servers: &[RedisServer], row: &Row) -> Result<Figures, Box<dyn Error>> {
    let clients = options.clients.min(row.waiters);
    let rounds = options.acquisitions.div_ceil(row.waiters).max(1);
    let course = Arc::new(Course::new(row.waiters as u64, (rounds * row.waiters) as u64));
    let urls: Vec<String> = servers.iter().map(RedisServer::url).collect();
    let mut redsyncs = Vec::new();
    for _ in 0..clients {
        // What is measured is waiting; the servers have just started.
        let builder = urls.iter().fold(Redsync::builder().restart_guard(false), redsync::Builder::url);
        let redsync = builder.build()?;
        redsync.check_nodes().await?;
        redsyncs.push(redsync);
    }
    let managers: Vec<LockManager> = (0..clients).map(|_| manager(&urls)).collect();
    let mut counts = Counts::of(servers);
    let (begun, hold) = (Instant::now(), row.hold);
    let tasks: Vec<_> = (0..row.waiters)
        .map(|number| {
            let course = Arc::clone(&course);
            let (redsync, manager) = (redsyncs[number % clients].clone(), managers[number % clients].clone());
            let contestant = row.contestant;
            tokio::spawn(async move {
                match contestant {
                    Contestant::Queue => {
                        let mutex = redsync.mutex("contended");
                        run(
                            &course,
                            hold,
                            async || mutex.lock().await.ok(),
                            async |guard| _ = guard.unlock().await,
                        )
                        .await;
                    }
                    Contestant::Polling => {
                        let mutex = redsync.mutex("contended").tries(u32::MAX);
                        run(
                            &course,
                            hold,
                            async || mutex.lock().await.ok(),
                            async |guard| _ = guard.unlock().await,
                        )
                        .await;
                    }
                    Contestant::Rslock => {
                        let ttl = Duration::from_secs(8);
                        let acquire =
                            async || manager.acquire_no_guard(b"contended".as_slice(), ttl).await.ok();
                        run(&course, hold, acquire, async |lock| manager.unlock(&lock).await).await;
                    }
                }
            })
        })
        .collect();
    let end = begun + Duration::from_secs(options.seconds);
    let mut counted_from = 0;
    // Commands are counted once there have been as many turns as there are callers: the crowd has come by then, and from there on
    // one comes for each who goes. Where each has a single turn, all that was sent is counted.
    if rounds > 1 && tokio::time::timeout_at(end.into(), course.is_steady.notified()).await.is_ok() {
        (counts, counted_from) = (Counts::of(servers), course.acquisitions.load(Ordering::Relaxed));
    }
    let is_cut_short = tokio::time::timeout_at(end.into(), course.over.notified()).await.is_err();
    let (took, commands) = (begun.elapsed(), Counts::of(servers).since(&counts));
    course.is_over.store(true, Ordering::Relaxed);
    let acquisitions = course.acquisitions.load(Ordering::Relaxed);
    for task in &tasks {
        task.abort();
    }
    drop(join_all(tasks).await);
    let mut had: Vec<f64> =
        course.had.lock().unwrap_or_else(PoisonError::into_inner).values().map(|&had| had as f64).collect();
    had.resize(row.waiters, 0.0);
    for redsync in &redsyncs {
        redsync.drain(Duration::from_secs(10)).await;
    }
    let keys: Vec<String> = servers.iter().flat_map(RedisServer::keys).collect();
    if !keys.is_empty() {
        for server in servers {
            server.command(&["FLUSHALL"]);
        }
    }
    let times = course.times.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(Figures {
        gap: times.gap.clone(),
        wait: times.wait.clone(),
        hold: times.hold.clone(),
        acquisitions,
        took,
        jain: jain(&had),
        commands: commands as f64 / (acquisitions - counted_from).max(1) as f64 / servers.len() as f64,
        overlaps: course.overlaps.load(Ordering::Relaxed),
        is_cut_short,
    })
}

/// One for each client, as one `Redsync` is.
fn manager(urls: &[String]) -> LockManager {
    let mut manager = LockManager::new(urls.to_vec());
    // Its default gives up after three tries; `acquire` begins again at once.
    manager.set_retry(3, Duration::from_millis(200));
    manager
}

struct Times {
    gap: Histogram<u64>,
    wait: Histogram<u64>,
    hold: Histogram<u64>,
}

/// What all callers of one row share.
struct Course {
    begun: Instant,
    waiters: u64,
    goal: u64,
    acquisitions: AtomicU64,
    /// There were as many acquisitions as there are callers.
    is_steady: tokio::sync::Notify,
    is_over: AtomicBool,
    over: tokio::sync::Notify,
    is_held: AtomicBool,
    overlaps: AtomicU64,
    /// When the last holder let go, in nanoseconds since the beginning.
    let_go: AtomicU64,
    /// When the present holder got it.
    had_at: AtomicU64,
    times: Mutex<Times>,
    had: Mutex<std::collections::HashMap<u64, u64>>,
    callers: AtomicU64,
}

impl Course {
    fn new(waiters: u64, goal: u64) -> Self {
        Self {
            begun: Instant::now(),
            waiters,
            goal,
            acquisitions: AtomicU64::new(0),
            is_steady: tokio::sync::Notify::new(),
            is_over: AtomicBool::new(false),
            over: tokio::sync::Notify::new(),
            is_held: AtomicBool::new(false),
            overlaps: AtomicU64::new(0),
            let_go: AtomicU64::new(0),
            had_at: AtomicU64::new(0),
            times: Mutex::new(Times { gap: histogram(), wait: histogram(), hold: histogram() }),
            had: Mutex::default(),
            callers: AtomicU64::new(0),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn acquired(&self, caller: u64, asked: u64) {
        let now = self.now();
        if self.is_held.swap(true, Ordering::SeqCst) {
            self.overlaps.fetch_add(1, Ordering::Relaxed);
        }
        let let_go = self.let_go.load(Ordering::SeqCst);
        {
            let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
            // The first has nobody before it; and where nobody waited, nothing was handed over.
            if let_go > 0 && asked < let_go {
                times.gap.saturating_record(now.saturating_sub(let_go));
            }
            times.wait.saturating_record(now.saturating_sub(asked));
        }
        self.had_at.store(now, Ordering::SeqCst);
        *self.had.lock().unwrap_or_else(PoisonError::into_inner).entry(caller).or_default() += 1;
        let acquisitions = self.acquisitions.fetch_add(1, Ordering::Relaxed) + 1;
        if acquisitions == self.waiters {
            self.is_steady.notify_one();
        }
        if acquisitions == self.goal {
            self.is_over.store(true, Ordering::Relaxed);
            self.over.notify_one();
        }
    }

    fn lets_go(&self) {
        self.is_held.store(false, Ordering::SeqCst);
        let now = self.now();
        let held = now.saturating_sub(self.had_at.load(Ordering::SeqCst));
        self.times.lock().unwrap_or_else(PoisonError::into_inner).hold.saturating_record(held);
        self.let_go.store(self.now(), Ordering::SeqCst);
    }
}

/// One caller.
async fn run<G, L, F, U, V>(course: &Course, hold: Duration, lock: L, unlock: U)
where
    L: Fn() -> F,
    F: Future<Output = Option<G>>,
    U: Fn(G) -> V,
    V: Future<Output = ()>,
{
    let caller = course.callers.fetch_add(1, Ordering::Relaxed);
    while !course.is_over.load(Ordering::Relaxed) {
        let asked = course.now();
        let Some(guard) = lock().await else { continue };
        course.acquired(caller, asked);
        if !hold.is_zero() {
            tokio::time::sleep(hold).await;
        }
        course.lets_go();
        unlock(guard).await;
    }
}

/// How many commands the servers executed.
struct Counts {
    /// Those that clients send, and with them the leases that scripts set.
    all: u64,
    /// A script that hands a lease over sets it, and publishes that once.
    published: u64,
}

impl Counts {
    fn of(servers: &[RedisServer]) -> Self {
        servers.iter().fold(Self { all: 0, published: 0 }, |sum, server| {
            let [evalsha, eval, set, publish] = server.command_counts(["evalsha", "eval", "set", "publish"]);
            Self { all: sum.all + evalsha + eval + set, published: sum.published + publish }
        })
    }

    /// How many commands clients have sent since.
    const fn since(&self, earlier: &Self) -> u64 {
        (self.all - earlier.all).saturating_sub(self.published - earlier.published)
    }
}

/// How evenly it was shared: 1 if all had the same, 1/n if one had all. [Jain's fairness index.]
fn jain(had: &[f64]) -> f64 {
    let (sum, squares): (f64, f64) = (had.iter().sum(), had.iter().map(|had| had * had).sum());
    if squares == 0.0 { 0.0 } else { sum * sum / (had.len() as f64 * squares) }
}

fn micros(times: &Histogram<u64>, quantile: f64) -> f64 {
    times.value_at_quantile(quantile) as f64 / 1e3
}

const FLOOR_ROUNDS: usize = 2_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jains_index_is_one_for_equal_shares() {
        assert_eq!(jain(&[3.0, 3.0, 3.0]), 1.0);
        assert_eq!(jain(&[4.0, 0.0, 0.0, 0.0]), 0.25);
    }
}
