//! Waiting for a lock, leaving in order, and what a person sees meanwhile.

use std::convert::Infallible;
use std::future::pending;
use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};
use redsync::{Error, Guard, Inspection, LockOptions, LockState, NodeError, TimeLeft};
use tokio::time::sleep;

use crate::cli::AcquireArgs;
use crate::duration::in_words;
use crate::exit::Exit;
use crate::nodes::Fleet;
use crate::report::{Failure, Report};
use crate::signals::Signals;
use crate::withheld::Withheld;

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
            locked = mutex.lock() => locked.map_err(|error| refused(error, args, began)),
            never = tell_why(fleet, name, args.expiry(), report) => match never {},
        }
    };
    signals.unless_one_comes(locked).await
}

fn refused(error: Error, args: &AcquireArgs, began: Instant) -> Failure {
    let waited = began.elapsed();
    let will_vote = |node: &NodeError| matches!(node, NodeError::Withheld { wait: Some(_), .. });
    let will_pass = !error.nodes().is_empty() && error.nodes().iter().all(will_vote);
    let failure = Failure::from(error);
    if args.no_wait && will_pass {
        return failure.with(" (without --try, redsync waits for them)");
    }
    if failure.exit == Exit::Taken && waited >= WORTH_TELLING {
        return failure.with(&format!(" (waited {})", in_words(waited)));
    }
    failure
}

/// Tells why nothing happens, as long as that is so.
async fn tell_why(fleet: &Fleet, name: &str, expiry: Duration, report: &Report) -> Infallible {
    if report.quiet {
        pending().await
    } else if report.json || !io::stderr().is_terminal() {
        note_withheld(fleet, name, expiry, report).await
    } else {
        show_wait(fleet, name, expiry).await
    }
}

/// Notes once, for a log, that the lock is free and cannot be had: restarted nodes do not vote yet.
async fn note_withheld(fleet: &Fleet, name: &str, expiry: Duration, report: &Report) -> Infallible {
    let guard = fleet.restart_guard_for(expiry);
    if guard.is_none() {
        pending::<()>().await;
    }
    sleep(WORTH_NOTING).await;
    loop {
        if let Ok(looked) = fleet.redsync.inspect(name).await {
            let withheld = Withheld::of(&looked, guard);
            if withheld.is_in_the_way() {
                report
                    .note("withheld", &format!("waiting for lock {name:?}: {withheld}; see --restart-guard"));
                pending::<()>().await;
            }
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Shows a person at a terminal, after a second, what stands in the way. Cleared when it is dropped.
async fn show_wait(fleet: &Fleet, name: &str, expiry: Duration) -> Infallible {
    let began = Instant::now();
    sleep(WORTH_TELLING).await;
    let mut spinner: Option<ProgressBar> = None;
    loop {
        let looked = fleet.redsync.inspect(name).await;
        let why = looked.map_or_else(
            |error| error.to_string(),
            |looked| obstacle(&looked, &Withheld::of(&looked, fleet.restart_guard_for(expiry))),
        );
        let so_far = began.elapsed().as_secs();
        // Not earlier: what is told of the nodes meanwhile would be written into its line.
        let spinner = spinner.get_or_insert_with(spinner_on_stderr);
        spinner.set_message(format!("waiting for {name}: {why} ({so_far} s so far)"));
        sleep(LOOK_EVERY).await;
    }
}

fn spinner_on_stderr() -> ProgressBar {
    let spinner = ProgressBar::new_spinner().with_finish(ProgressFinish::AndClear);
    if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg}") {
        spinner.set_style(style);
    }
    spinner.enable_steady_tick(TICK);
    spinner
}

/// What stands in the way, in words.
fn obstacle(looked: &Inspection, withheld: &Withheld<'_>) -> String {
    match looked.state() {
        LockState::Held(holder) => match holder.time_left() {
            TimeLeft::For(left) => format!("held by {holder}, {} left", in_words(left)),
            TimeLeft::Forever => format!("held by {holder}, without an expiry"),
            TimeLeft::Unknown => format!("held by {holder}"),
        },
        _ if withheld.is_in_the_way() => withheld.to_string(),
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

/// A lock that can be had at once is had by then.
const WORTH_NOTING: Duration = Duration::from_millis(300);
const WORTH_TELLING: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(120);
