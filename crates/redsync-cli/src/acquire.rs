//! Waiting for a lock, leaving in order, and what a person sees meanwhile.

use std::convert::Infallible;
use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};
use redsync::{Error, Guard, Inspection, LockOptions, LockState, Redsync, TimeLeft};
use tokio::time::sleep;

use crate::cli::AcquireArgs;
use crate::duration::in_words;
use crate::exit::Exit;
use crate::nodes::Fleet;
use crate::report::{Failure, Report};
use crate::signals::Signals;

impl AcquireArgs {
    pub(crate) fn expiry(&self) -> Duration {
        self.expiry.unwrap_or(LockOptions::DEFAULT_EXPIRY)
    }
}

/// Takes the lock, waiting as the arguments say. A signal ends the wait at once; what the attempt may have been
/// granted by then is released in the background, which `main` drains.
pub(crate) async fn acquire(
    fleet: &Fleet,
    name: &str,
    args: &AcquireArgs,
    signals: &mut Signals,
    report: &Report,
) -> Result<Guard, Failure> {
    let mutex = fleet.mutex(name).expiry(args.expiry());
    // Not `try_lock`, whose "no" does not say who has it.
    let mutex = match args.wait {
        _ if args.no_wait => mutex.tries(1),
        Some(wait) => mutex.wait_up_to(wait),
        None => mutex.wait_without_limit(),
    };
    let began = Instant::now();
    let locked = async {
        tokio::select! {
            biased;
            locked = mutex.lock() => locked.map_err(|error| refused(error, began)),
            never = show_wait(&fleet.redsync, name, began, report) => match never {},
        }
    };
    signals.unless_one_comes(locked).await
}

fn refused(error: Error, began: Instant) -> Failure {
    let waited = began.elapsed();
    let failure = Failure::from(error);
    if failure.exit == Exit::Taken && waited >= WORTH_TELLING {
        return failure.with(&format!(" (waited {})", in_words(waited)));
    }
    failure
}

/// Shows a person at a terminal, after a second, why nothing happens. Cleared when it is dropped.
async fn show_wait(redsync: &Redsync, name: &str, began: Instant, report: &Report) -> Infallible {
    if report.quiet || report.json || !io::stderr().is_terminal() {
        std::future::pending::<()>().await;
    }
    sleep(WORTH_TELLING).await;
    let spinner = ProgressBar::new_spinner().with_finish(ProgressFinish::AndClear);
    if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg}") {
        spinner.set_style(style);
    }
    spinner.enable_steady_tick(TICK);
    loop {
        let looked = redsync.inspect(name).await;
        let why = looked.map_or_else(|error| error.to_string(), |looked| obstacle(&looked));
        let so_far = began.elapsed().as_secs();
        spinner.set_message(format!("waiting for {name}: {why} ({so_far} s so far)"));
        sleep(LOOK_EVERY).await;
    }
}

/// What stands in the way, in words.
fn obstacle(looked: &Inspection) -> String {
    match looked.state() {
        LockState::Held(holder) => match holder.time_left() {
            TimeLeft::For(left) => format!("held by {holder}, {} left", in_words(left)),
            TimeLeft::Forever => format!("held by {holder}, without an expiry"),
            TimeLeft::Unknown => format!("held by {holder}"),
        },
        LockState::Free => "free just now".into(),
        LockState::Unknown => {
            let silent: Vec<&str> = looked
                .nodes()
                .iter()
                .filter(|node| node.answer.is_err())
                .map(|node| node.node.as_str())
                .collect();
            let total = looked.nodes().len();
            match total {
                1 => format!("cannot reach {}", silent.join(", ")),
                _ => format!("cannot reach {} of {total} nodes: {}", silent.len(), silent.join(", ")),
            }
        }
        _ => "others are taking it".into(),
    }
}

const WORTH_TELLING: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(120);
