//! Processes of a test's own that wait for locks when they are told to, and say when they hold them.
//!
//! A worker is this test binary again, in which only the test `worker` is run. It is told by lines on its standard input
//! and answers by lines on its standard output, with the time by the clock that all processes of a machine share. It ends
//! with its input, and whoever started it kills and reaps it.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::env;
use std::fmt::Display;
use std::io::{BufRead, BufReader, Write};
use std::pin::Pin;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use redsync::{Clock, Error, Guard, Redsync, SystemClock};
use redsync_testkit::{Client, RedisServer};
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::mpsc;

use crate::support::{DEADLINE, over};

/// Tells this binary that it is a worker, and the nodes' URLs.
const WORKER: &str = "REDSYNC_TEST_WORKER";

/// A wait for a lock that a worker is told to begin.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry<'a> {
    /// Who waits: unlike all others of the test.
    pub(crate) number: usize,
    /// The lock, without blanks.
    pub(crate) name: &'a str,
    /// For how long it is held, once it is.
    pub(crate) hold: Duration,
    pub(crate) expiry: Duration,
    pub(crate) renew: bool,
}

impl<'a> Entry<'a> {
    /// Waits for `name`, and lets go of it at once.
    pub(crate) const fn new(number: usize, name: &'a str) -> Self {
        Self { number, name, hold: Duration::ZERO, expiry: Duration::from_secs(8), renew: true }
    }

    pub(crate) const fn holding_for(self, hold: Duration) -> Self {
        Self { hold, ..self }
    }

    pub(crate) const fn expiry(self, expiry: Duration) -> Self {
        Self { expiry, ..self }
    }

    pub(crate) const fn unrenewed(self) -> Self {
        Self { renew: false, ..self }
    }
}

/// What happened to a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// The worker is connected.
    Ready,
    /// It is in the queue, as far as that was done without an await: its ticket is drawn.
    Entered,
    /// It holds the lock.
    Held,
    /// It is about to let go of it.
    Freeing,
    /// It has let go of it.
    Freed,
    /// It did not get the lock, or had lost it in the end.
    Failed,
}

/// What a worker told.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) what: What,
    /// The wait's.
    pub(crate) number: usize,
    /// When, by [`SystemClock`].
    pub(crate) at: redsync::Instant,
    pub(crate) text: String,
}

/// The workers of one test.
pub(crate) struct Fleet {
    workers: Vec<Worker>,
    events: Receiver<Event>,
    told: Sender<Event>,
    /// All that was heard.
    pub(crate) heard: Vec<Event>,
}

impl Fleet {
    /// `workers` processes, each with connections of its own to all of `servers`.
    pub(crate) fn start(workers: usize, servers: &[RedisServer]) -> Self {
        let urls: Vec<String> = servers.iter().map(RedisServer::url).collect();
        let (told, events) = channel();
        let mut fleet = Self { workers: Vec::new(), events, told, heard: Vec::new() };
        for _ in 0..workers {
            fleet.workers.push(Worker::start(&urls.join(" "), fleet.told.clone()));
        }
        fleet.hear("all workers are connected", DEADLINE, |heard| of(heard, What::Ready).count() == workers);
        fleet.heard.clear();
        fleet
    }

    /// Has `worker` begin to wait, and returns when it has its ticket.
    pub(crate) fn enter(&mut self, worker: usize, entry: Entry<'_>) {
        self.tell(worker, entry);
        let what = format!("waiter {} has its ticket", entry.number);
        self.hear(&what, DEADLINE, |heard| {
            of(heard, What::Entered).any(|event| event.number == entry.number)
        });
    }

    /// Has `worker` begin to wait.
    pub(crate) fn tell(&mut self, worker: usize, entry: Entry<'_>) {
        let Entry { number, name, hold, expiry, renew } = entry;
        let order = format!("{number} {name} {} {} {renew}", hold.as_micros(), expiry.as_millis());
        writeln!(self.workers[worker].orders, "{order}").expect("the worker listens");
    }

    /// Hears the workers until `is_enough` of all that was heard.
    #[track_caller]
    pub(crate) fn hear(&mut self, until: &str, within: Duration, is_enough: impl Fn(&[Event]) -> bool) {
        let end = Instant::now() + within;
        while !is_enough(&self.heard) {
            match self.events.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(event) => {
                    assert!(event.what != What::Failed, "waiter {}: {}", event.number, event.text);
                    self.heard.push(event);
                }
                Err(RecvTimeoutError::Timeout) => {
                    panic!("waited {within:?} in vain until {until}; the last: {:?}", self.heard.last())
                }
                Err(RecvTimeoutError::Disconnected) => unreachable!("the fleet has a sender itself"),
            }
        }
    }

    /// Hears the workers until waiter `number` holds, and gives when that was.
    #[track_caller]
    pub(crate) fn held(&mut self, number: usize, within: Duration) -> redsync::Instant {
        self.hear(&format!("waiter {number} holds"), within, |heard| {
            when(heard, What::Held, number).is_some()
        });
        when(&self.heard, What::Held, number).expect("it was heard")
    }

    /// Hears the workers until `waiters` have let go of the lock.
    #[track_caller]
    pub(crate) fn all_freed(&mut self, waiters: usize, within: Duration) {
        self.hear("all had their turn", within, |heard| of(heard, What::Freed).count() >= waiters);
    }

    /// The waiters in the order of what happened to them.
    pub(crate) fn order(&self, what: What) -> Vec<usize> {
        let mut events: Vec<&Event> = of(&self.heard, what).collect();
        events.sort_by_key(|event| event.at);
        events.into_iter().map(|event| event.number).collect()
    }

    /// Kills a worker (SIGKILL), and returns when it is gone.
    pub(crate) fn kill(&mut self, worker: usize) {
        self.workers[worker].end();
    }

    /// Stops a worker (SIGSTOP), and returns when all of its threads are.
    pub(crate) fn stop(&self, worker: usize) {
        let child = &self.workers[worker].child;
        kill_process(Pid::from_child(child), Signal::STOP).expect("it is our child");
        redsync_testkit::wait_until("the worker is stopped", DEADLINE, || {
            std::fs::read_dir(format!("/proc/{}/task", child.id())).is_ok_and(|mut threads| {
                threads.all(|thread| {
                    let stat = thread.and_then(|thread| std::fs::read_to_string(thread.path().join("stat")));
                    // After the name in parentheses: the state.
                    stat.is_ok_and(|stat| {
                        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
                    })
                })
            })
        });
    }

    /// Lets a stopped worker go on.
    pub(crate) fn go_on(&self, worker: usize) {
        kill_process(Pid::from_child(&self.workers[worker].child), Signal::CONT).expect("it is our child");
    }

    /// How much memory a worker has resident, in bytes.
    pub(crate) fn resident(&self, worker: usize) -> usize {
        let path = format!("/proc/{}/status", self.workers[worker].child.id());
        let status = std::fs::read_to_string(path).expect("the worker lives");
        let queue = status.lines().find_map(|queue| queue.strip_prefix("VmRSS:")).expect("it has memory");
        let kilobytes: usize = queue.trim().trim_end_matches(" kB").parse().expect("it is a number");
        kilobytes * 1024
    }
}

/// The events of one kind.
pub(crate) fn of(heard: &[Event], what: What) -> impl Iterator<Item = &Event> {
    heard.iter().filter(move |event| event.what == what)
}

/// When something happened to a waiter.
pub(crate) fn when(heard: &[Event], what: What, number: usize) -> Option<redsync::Instant> {
    of(heard, what).find(|event| event.number == number).map(|event| event.at)
}

/// Fails where one held the lock before another had begun to let go of it.
#[track_caller]
pub(crate) fn assert_apart(heard: &[Event]) {
    let mut held: Vec<&Event> = of(heard, What::Held).collect();
    held.sort_by_key(|event| event.at);
    for pair in held.windows(2) {
        let freeing = when(heard, What::Freeing, pair[0].number);
        let is_apart = freeing.is_some_and(|freeing| freeing <= pair[1].at);
        assert!(is_apart, "waiter {} holds beside waiter {}", pair[1].number, pair[0].number);
    }
}

struct Worker {
    child: Child,
    orders: ChildStdin,
}

impl Worker {
    fn start(urls: &str, told: Sender<Event>) -> Self {
        let mut child = Command::new(env::current_exe().expect("this is a program"))
            .args(["--exact", "worker", "--ignored", "--nocapture", "--test-threads=1"])
            .env(WORKER, urls)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program starts again");
        let orders = child.stdin.take().expect("it was asked for");
        let answers = BufReader::new(child.stdout.take().expect("it was asked for"));
        thread::spawn(move || {
            for event in answers.lines().map_while(Result::ok).filter_map(|queue| parsed(&queue)) {
                if told.send(event).is_err() {
                    return;
                }
            }
        });
        Self { child, orders }
    }

    fn end(&mut self) {
        // Neither is an error for one that is reaped already. SIGKILL also ends a stopped process.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.end();
    }
}

fn parsed(queue: &str) -> Option<Event> {
    let mut words = queue.strip_prefix('@')?.splitn(4, ' ');
    let what = match words.next()? {
        "ready" => What::Ready,
        "entered" => What::Entered,
        "held" => What::Held,
        "freeing" => What::Freeing,
        "freed" => What::Freed,
        _ => What::Failed,
    };
    let number = words.next()?.parse().ok()?;
    let at = redsync::Instant::from_nanos(words.next()?.parse().ok()?);
    Some(Event { what, number, at, text: words.next().unwrap_or_default().to_owned() })
}

/// What the test `worker` does: nothing, unless this process is one.
pub(crate) fn work_if_asked() {
    let Ok(urls) = env::var(WORKER) else { return };
    let (orders, ordered) = mpsc::unbounded_channel();
    thread::spawn(move || {
        for queue in std::io::stdin().lines().map_while(Result::ok) {
            let _ = orders.send(queue);
        }
        // Whoever started it is gone.
        std::process::exit(0);
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("there are threads").block_on(work(&urls, ordered));
}

async fn work(urls: &str, mut ordered: mpsc::UnboundedReceiver<String>) {
    let redsync = over(urls.split(' ').map(str::to_owned));
    redsync.check_nodes().await.expect("the kit's servers answer");
    let first = urls.split(' ').next().and_then(|url| url.strip_prefix("redis://"));
    let book = Client::connect(first.expect("a plain URL")).expect("the kit's servers answer");
    let book = Arc::new(Mutex::new(book));
    say("ready", 0, SystemClock.now(), "");
    while let Some(order) = ordered.recv().await {
        begin(&redsync, &book, &order);
    }
}

/// Begins to wait. The ticket is drawn when this returns: those of one worker are in the order of its orders.
fn begin(redsync: &Redsync, book: &Arc<Mutex<Client>>, order: &str) {
    let words: Vec<&str> = order.split(' ').collect();
    let [number, name, hold, expiry, renew] = words[..] else { panic!("no order: {order:?}") };
    let number: usize = number.parse().unwrap();
    let (hold, name) = (Duration::from_micros(hold.parse().unwrap()), name.to_owned());
    let expiry = Duration::from_millis(expiry.parse().unwrap());
    let mutex = redsync.mutex(&name).expiry(expiry).renew(renew == "true");
    let mut waiting: Pin<Box<dyn Future<Output = Result<Guard, Error>> + Send>> =
        Box::pin(async move { mutex.lock().await });
    let entered = SystemClock.now();
    let first = waiting.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    say("entered", number, entered, "");
    let book = Arc::clone(book);
    tokio::spawn(async move {
        let locked = match first {
            Poll::Ready(locked) => locked,
            Poll::Pending => waiting.await,
        };
        let guard = match locked {
            Ok(guard) => guard,
            Err(error) => return say("failed", number, SystemClock.now(), error),
        };
        say("held", number, SystemClock.now(), "");
        let list = list_of(&name);
        let booked = {
            let mut book = book.lock().unwrap_or_else(PoisonError::into_inner);
            book.ask(&["RPUSH", &list, &number.to_string()])
        };
        if let Err(error) = booked {
            return say("failed", number, SystemClock.now(), error);
        }
        if !hold.is_zero() {
            tokio::time::sleep(hold).await;
        }
        let freeing = SystemClock.now();
        say("freeing", number, freeing, "");
        match guard.unlock().await {
            Ok(()) => say("freed", number, SystemClock.now(), ""),
            Err(error) => say("failed", number, SystemClock.now(), error),
        }
    });
}

/// The list of all who held `name`, on the first node.
pub(crate) fn list_of(name: &str) -> String {
    format!("held:{name}")
}

fn say(what: &str, number: usize, at: redsync::Instant, text: impl Display) {
    // Whoever started it and is gone reads nothing.
    let _ = writeln!(std::io::stdout().lock(), "\n@{what} {number} {} {text}", at.as_nanos());
}
