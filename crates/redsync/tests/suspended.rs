//! A process that is stopped (SIGSTOP) while it holds a lock, and goes on when its time is over: it does nothing more
//! under the lock, and knows at once.
//!
//! The holder is this test binary again. Each of its lines has the time at which it was about to look at its guard, so that
//! a line of after the guard's end is a wrong one, wherever the stop hit.

mod support;

use std::io::{BufRead, BufReader, Write};
use std::pin::{Pin, pin};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, LazyLock};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use redsync::{Clock, SystemClock};
use redsync_testkit::{RedisServer, wait_until};
use support::{DEADLINE, over};
use tokio::time::MissedTickBehavior;

const ROUNDS: usize = 5;
const SECOND: Duration = Duration::from_secs(1);
const STOP: Duration = Duration::from_secs(2);

/// Tells this binary that it is a holder: the server's URL and the lock's name.
const HOLDER: &str = "REDSYNC_TEST_HOLDER";

/// What one holder wrote, and what became of the lock.
#[derive(Debug)]
struct Round {
    lines: Vec<Line>,
    /// The key's value is still the token of the rival that got in meanwhile.
    rival_is_left_alone: bool,
}

#[derive(Debug)]
struct Line {
    who: String,
    nanos: u64,
    is_valid: bool,
}

impl Round {
    /// The end of the guard's time.
    fn end(&self) -> u64 {
        self.lines.iter().find(|line| line.who == "end").expect("the holder ends in order").nanos
    }

    fn of<'a>(&'a self, who: &'a str) -> impl Iterator<Item = &'a Line> {
        self.lines.iter().filter(move |line| line.who == who)
    }

    /// The lines of `who` of after the end.
    fn late<'a>(&'a self, who: &'a str) -> impl Iterator<Item = &'a Line> {
        let end = self.end();
        self.of(who).filter(move |line| line.nanos >= end)
    }
}

static PLAYED: LazyLock<Vec<Round>> = LazyLock::new(|| {
    let server = &RedisServer::start();
    thread::scope(|scope| {
        let rounds: Vec<_> = (0..ROUNDS).map(|round| scope.spawn(move || play(server, round))).collect();
        rounds.into_iter().map(|round| round.join().expect("the round is played")).collect()
    })
});

/// Ends the holder if the test does not get so far.
struct Holder(Child);

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Holder {
    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.0.id().to_string()]).status().unwrap();
        assert!(sent.success(), "kill {signal}");
    }
}

fn play(server: &RedisServer, round: usize) -> Round {
    let name = format!("round {round}");
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "no_work_is_done_after_the_end", "--nocapture"]);
    command.env(HOLDER, format!("{} {name}", server.url())).stdout(Stdio::piped());
    let mut holder = Holder(command.spawn().unwrap());
    let written = BufReader::new(holder.0.stdout.take().unwrap());
    let reading = thread::spawn(move || {
        let lines = written.lines().map(|line| line.expect("the holder writes text"));
        lines.filter_map(|line| parsed(&line)).collect::<Vec<Line>>()
    });
    wait_until("the lock is held", DEADLINE, || server.get(&name).is_some());
    // Long enough for it to have been renewed, another time in each round.
    thread::sleep(Duration::from_millis(600 + rand::random_range(0..300)));

    holder.signal("-STOP");
    let stopped = std::time::Instant::now();
    let rival = redsync::blocking::Redsync::connect([server.url()]).unwrap();
    let rival = rival.mutex(&name).expiry(60 * SECOND).wait_up_to(STOP).lock().expect("the lease runs out");
    // The rest of the stop.
    thread::sleep(STOP.saturating_sub(stopped.elapsed()));
    holder.signal("-CONT");

    wait_until("the holder ends", DEADLINE, || holder.0.try_wait().unwrap().is_some());
    let lines = reading.join().unwrap();
    let rival_is_left_alone = server.get(&name).as_deref() == Some(rival.token().as_str());
    Round { lines, rival_is_left_alone }
}

fn parsed(line: &str) -> Option<Line> {
    let mut words = line.strip_prefix('@')?.split(' ');
    let who = words.next()?.to_owned();
    Some(Line { who, nanos: words.next()?.parse().ok()?, is_valid: words.next()?.parse().ok()? })
}

/// The holder's own part, in its own process.
async fn hold(url: &str, name: &str) {
    let redsync = over([url.to_owned()]);
    let guard = Arc::new(redsync.mutex(name).expiry(SECOND).lock().await.unwrap());
    let looking = thread::spawn({
        let guard = Arc::clone(&guard);
        move || {
            let mut is_valid = true;
            while is_valid {
                let now = SystemClock.now().as_nanos();
                is_valid = guard.is_valid();
                say("look", now, is_valid);
                // The pause between two looks.
                thread::sleep(Duration::from_millis(1));
            }
        }
    });
    let waiting = tokio::spawn({
        let (mut signal, mut ticks) = (guard.lost(), ticks());
        std::future::poll_fn(move |context| {
            let now = SystemClock.now().as_nanos();
            if Pin::new(&mut signal).poll(context).is_ready() {
                say("told", now, false);
                return Poll::Ready(());
            }
            while ticks.poll_tick(context).is_ready() {
                say("wait", now, true);
            }
            Poll::Pending
        })
    });

    let mut running = pin!(run(&guard));
    let is_lost = running.as_mut().await;
    say("end", guard.valid_until().as_nanos(), !is_lost);
    waiting.await.unwrap();
    looking.join().unwrap();
}

/// Works under the guard, and says whether it was lost.
async fn run(guard: &redsync::Guard) -> bool {
    let now = std::cell::Cell::new(0);
    let mut running = pin!(guard.run(async {
        let mut ticks = ticks();
        loop {
            ticks.tick().await;
            say("work", now.get(), true);
        }
    }));
    let ran: Result<(), _> = std::future::poll_fn(|context| {
        now.set(SystemClock.now().as_nanos());
        running.as_mut().poll(context)
    })
    .await;
    ran.is_err_and(|lost| !lost.was_released())
}

fn ticks() -> tokio::time::Interval {
    let mut ticks = tokio::time::interval(Duration::from_millis(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

fn say(who: &str, nanos: u64, is_valid: bool) {
    // A parent that is gone reads nothing.
    let _ = writeln!(std::io::stdout().lock(), "\n@{who} {nanos} {is_valid}");
}

#[test]
fn no_work_is_done_after_the_end() {
    if let Ok(holder) = std::env::var(HOLDER) {
        let (url, name) = holder.split_once(' ').unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        return runtime.unwrap().block_on(hold(url, name));
    }
    for round in &*PLAYED {
        assert!(round.of("work").count() > 50, "it did work before");
        assert_eq!(round.late("work").map(|line| line.nanos - round.end()).collect::<Vec<_>>(), [0; 0]);
    }
}

#[test]
fn a_run_that_was_stopped_for_too_long_is_lost() {
    for round in &*PLAYED {
        assert!(round.of("end").all(|line| !line.is_valid));
    }
}

#[test]
fn the_guard_is_not_valid_at_the_first_sight_after_the_stop() {
    for round in &*PLAYED {
        let first = round.late("look").next().expect("it looks after the stop");
        assert!(!first.is_valid);
        assert!(first.nanos - round.end() > u64::try_from((STOP / 4).as_nanos()).unwrap(), "it was stopped");
    }
}

#[test]
fn who_waits_for_the_loss_is_told_before_it_does_anything_else() {
    for round in &*PLAYED {
        assert!(round.of("wait").count() > 50, "it did something before");
        assert_eq!(round.late("wait").map(|line| line.nanos - round.end()).collect::<Vec<_>>(), [0; 0]);
        assert_eq!(round.late("told").count(), 1);
    }
}

#[test]
fn the_rival_that_got_in_meanwhile_is_left_alone() {
    for round in &*PLAYED {
        assert!(round.rival_is_left_alone);
    }
}
