//! Uncontended lock and unlock, beside the same commands sent through the bare redis crate; or with fences, beside the same
//! without.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use futures_util::future::join_all;
use hdrhistogram::Histogram;
use redis::aio::MultiplexedConnection;
use redsync::Redsync;
use redsync_testkit::{RedisServer, servers};
use serde_json::json;

use crate::rounds::{Contestant, cpu_time, record};

/// What to measure.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Numbers of nodes
    #[arg(long, value_delimiter = ',', default_values_t = [1, 3, 5])]
    nodes: Vec<usize>,
    /// Numbers of tasks, each with a lock of its own
    #[arg(long, value_delimiter = ',', default_values_t = [1, 64])]
    tasks: Vec<usize>,
    /// Rounds for each contestant, in turns
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Length of a round in milliseconds
    #[arg(long, default_value_t = 700)]
    millis: u64,
    /// The tokio runtime that both run in
    #[arg(long, value_enum, default_value = "multi")]
    runtime: Runtime,
    /// What is measured, and beside what
    #[arg(long, value_enum, default_value = "floor")]
    beside: Beside,
    /// Print JSON, one line for each row
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Beside {
    /// Locks without fences, beside the same commands through the bare redis crate
    Floor,
    /// Locks with fences, beside locks without
    Unfenced,
}

impl Beside {
    const fn heading(self) -> &'static str {
        match self {
            Self::Floor => {
                "lock+unlock pairs, uncontended; beside: the same commands through the bare redis crate, \
                 without tokens,\ndeadlines or validity, every node's answer awaited; cpu: of this process, for a pair"
            }
            Self::Unfenced => {
                "lock+unlock pairs with fences, uncontended; beside: the same without fences; cpu: of this process, \
                 for a pair"
            }
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Runtime {
    /// As many worker threads as processors
    Multi,
    /// One thread
    Current,
}

/// Runs the measurement and prints a row for each number of nodes and tasks.
pub(crate) fn measure(options: &Options) -> Result<(), Box<dyn Error>> {
    let runtime = match options.runtime {
        Runtime::Multi => tokio::runtime::Builder::new_multi_thread().enable_all().build()?,
        Runtime::Current => tokio::runtime::Builder::new_current_thread().enable_all().build()?,
    };
    if !options.json {
        println!("{}", options.beside.heading());
        println!(
            "{:>5} {:>5} | {:>10} {:>9} {:>9} {:>8} | {:>10} {:>9} {:>9} {:>8} | {:>6}",
            "nodes", "tasks", "redsync/s", "p50", "p99", "cpu", "beside/s", "p50", "p99", "cpu", "ratio"
        );
    }
    for &nodes in &options.nodes {
        let servers = servers(nodes);
        for &tasks in &options.tasks {
            let (ours, floor) = runtime.block_on(contest(options, &servers, tasks))?;
            print_row(options, nodes, tasks, &ours, &floor);
        }
    }
    Ok(())
}

fn print_row(options: &Options, nodes: usize, tasks: usize, ours: &Contestant, beside: &Contestant) {
    let micros = |contestant: &Contestant, quantile| contestant.latency(quantile).as_nanos() as f64 / 1e3;
    let cpu = |contestant: &Contestant| contestant.cpu_per_pair().as_nanos() as f64 / 1e3;
    let ratio = ours.ratio_to(beside);
    if options.json {
        let figures = |contestant: &Contestant| {
            json!({
                "pairs_per_second": contestant.per_second(),
                "p50_us": micros(contestant, 0.5),
                "p99_us": micros(contestant, 0.99),
                "client_cpu_us": cpu(contestant),
            })
        };
        let row = json!({
            "nodes": nodes, "tasks": tasks, "redsync": figures(ours), "beside": figures(beside), "ratio": ratio,
        });
        println!("{row}");
    } else {
        println!(
            "{nodes:>5} {tasks:>5} | {:>10.0} {:>7.0}us {:>7.0}us {:>6.1}us | {:>10.0} {:>7.0}us {:>7.0}us {:>6.1}us | {ratio:>6.3}",
            ours.per_second(),
            micros(ours, 0.5),
            micros(ours, 0.99),
            cpu(ours),
            beside.per_second(),
            micros(beside, 0.5),
            micros(beside, 0.99),
            cpu(beside),
        );
    }
}

/// Both contestants in turns, on the same servers.
async fn contest(
    options: &Options,
    servers: &[RedisServer],
    tasks: usize,
) -> Result<(Contestant, Contestant), Box<dyn Error>> {
    let redsync = Redsync::connect(servers.iter().map(RedisServer::url)).await?;
    let bare = Bare::connect(servers).await?;
    let (mut ours, mut beside) = (Contestant::new(), Contestant::new());
    let unfenced = |task: usize, end: Instant| {
        let mutex = Arc::new(redsync.mutex(format!("pairs:{task}")));
        record(end, move || {
            let mutex = Arc::clone(&mutex);
            async move {
                let guard = mutex.lock().await.unwrap_or_else(|error| panic!("lock: {error}"));
                guard.unlock().await.unwrap_or_else(|error| panic!("unlock: {error}"));
            }
        })
    };
    let fenced = |task: usize, end: Instant| {
        let mutex = Arc::new(redsync.mutex(format!("fenced:{task}")).fenced());
        record(end, move || {
            let mutex = Arc::clone(&mutex);
            async move {
                let guard = mutex.lock().await.unwrap_or_else(|error| panic!("lock: {error}"));
                guard.unlock().await.unwrap_or_else(|error| panic!("unlock: {error}"));
            }
        })
    };
    let floor = |task: usize, end: Instant| {
        let bare = bare.clone();
        let name: Arc<str> = format!("floor:{task}").into();
        record(end, move || {
            let (bare, name) = (bare.clone(), Arc::clone(&name));
            async move { bare.pair(&name).await.unwrap_or_else(|error| panic!("floor: {error}")) }
        })
    };
    let length = Duration::from_millis(options.millis);
    // The first round of each warms up and is not counted.
    for round in 0..=options.rounds {
        let (pairs, took, cpu) = match options.beside {
            Beside::Floor => in_tasks(tasks, length, unfenced).await?,
            Beside::Unfenced => in_tasks(tasks, length, fenced).await?,
        };
        if round > 0 {
            ours.add(&pairs, took, cpu);
        }
        let (pairs, took, cpu) = match options.beside {
            Beside::Floor => in_tasks(tasks, length, floor).await?,
            Beside::Unfenced => in_tasks(tasks, length, unfenced).await?,
        };
        if round > 0 {
            beside.add(&pairs, took, cpu);
        }
    }
    Ok((ours, beside))
}

/// Runs `work` in so many tasks at once; what each recorded, how long the whole took, and what it cost.
async fn in_tasks<F>(
    tasks: usize,
    length: Duration,
    work: impl Fn(usize, Instant) -> F,
) -> Result<(Vec<Histogram<u64>>, Duration, Duration), Box<dyn Error>>
where
    F: Future<Output = Histogram<u64>> + Send + 'static,
{
    let (begun, spent) = (Instant::now(), cpu_time());
    let running: Vec<_> = (0..tasks).map(|task| tokio::spawn(work(task, begun + length))).collect();
    let recorded = join_all(running).await.into_iter().collect::<Result<Vec<_>, _>>()?;
    Ok((recorded, begun.elapsed(), cpu_time() - spent))
}

/// The floor: what redsync sends, through one multiplexed connection for each server and nothing else around it.
#[derive(Clone)]
struct Bare {
    connections: Vec<MultiplexedConnection>,
    release: Arc<str>,
}

/// What redsync's release script does, for a server that has to run the same.
const RELEASE: &str = "local holder = redis.call('GET', KEYS[1])
if holder == ARGV[1] then redis.call('DEL', KEYS[1]) return 1 end
if holder then return {holder, redis.call('PTTL', KEYS[1])} end
return 0";

impl Bare {
    async fn connect(servers: &[RedisServer]) -> redis::RedisResult<Self> {
        let release = redis::Script::new(RELEASE);
        let mut connections = Vec::new();
        for server in servers {
            let client = redis::Client::open(format!("{}?protocol=resp3", server.url()))?;
            let tcp = client.get_connection_info().tcp_settings().clone().set_nodelay(true);
            let info = client.get_connection_info().clone().set_tcp_settings(tcp);
            // Without the crate's own timer around each command: the leanest that it can be.
            let config = redis::AsyncConnectionConfig::new().set_response_timeout(None);
            let client = redis::Client::open(info)?;
            let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
            release.load_async(&mut connection).await?;
            connections.push(connection);
        }
        Ok(Self { connections, release: release.get_hash().into() })
    }

    /// One pair: to all servers at once, and every answer awaited.
    async fn pair(&self, name: &str) -> redis::RedisResult<()> {
        // As long as redsync's tokens are; never in anybody's way, since each task has a name of its own.
        let token = "0123456789abcdef0123456789abcdef01234567@bench:12345";
        let mut set = redis::cmd("SET");
        set.arg(name).arg(token).arg("NX").arg("GET").arg("PX").arg(8000);
        self.everywhere(&set).await?;
        let mut release = redis::cmd("EVALSHA");
        release.arg(&*self.release).arg(1).arg(name).arg(token);
        self.everywhere(&release).await
    }

    async fn everywhere(&self, command: &redis::Cmd) -> redis::RedisResult<()> {
        let sending = self.connections.iter().map(|connection| {
            let mut connection = connection.clone();
            async move { connection.send_packed_command(command).await }
        });
        for reply in join_all(sending).await {
            if let redis::Value::ServerError(error) = reply? {
                return Err(error.into());
            }
        }
        Ok(())
    }
}
