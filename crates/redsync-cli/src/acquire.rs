//! Waiting for a lock, leaving in order, and what a person sees meanwhile.

use std::convert::Infallible;
use std::future::pending;
use std::io::{self, IsTerminal};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};
use redsync::{
    Error, FencedGuard, Guard, Inspection, LockOptions, LockState, NodeError, OwnerLabel, TimeLeft, Token,
};
use tokio::time::sleep;

use crate::cli::AcquireArgs;
use crate::duration::in_words;
use crate::exit::Exit;
use crate::fence;
use crate::line::Line;
use crate::nesting;
use crate::nodes::Fleet;
use crate::report::{Failure, Report};
use crate::signals::Signals;
use crate::withheld::Withheld;

impl AcquireArgs {
    pub(crate) fn expiry(&self) -> Duration {
        self.expiry.unwrap_or(LockOptions::DEFAULT_EXPIRY)
    }
}

/// Takes the lock, waiting as the arguments say. A signal ends the wait at once; the place in line is left, and what may
/// have been granted by then is released, in the background, which `main` drains.
pub(crate) async fn acquire(
    fleet: &Fleet,
    name: &str,
    args: &AcquireArgs,
    max_hold: Option<Duration>,
    signals: &mut Signals,
    report: &Report,
) -> Result<Guard, Failure> {
    if !args.gives_up_at_once() {
        signals.unless_one_comes(nesting::refuse_deadlock(fleet, name)).await?;
    }
    let owner = args.owner.as_ref().map_or_else(|| Ok(OwnerLabel::of_this_process()), OwnerLabel::new);
    let owner = owner.map_err(Error::from)?;
    let wait = Wait { fleet, name, expiry: args.expiry(), token: OwnToken::default() };
    let token = wait.token.clone();
    let mutex =
        fleet.mutex(name, args.expiry()).barging(args.release.barging).token_fn(move || token.draw(&owner));
    let mutex = match args.timeout_factor {
        Some(factor) => mutex.timeout_factor(factor),
        None => mutex,
    };
    let mutex = match max_hold {
        Some(max_hold) => mutex.max_hold(max_hold),
        None => mutex,
    };
    // Not `try_lock`, whose "no" does not say who has it.
    let mutex = match args.wait {
        _ if args.gives_up_at_once() => mutex.tries(1),
        Some(wait) => mutex.wait_up_to(wait),
        None => mutex.wait_without_limit(),
    };
    let locking = async {
        match args.no_fence {
            true => mutex.lock().await,
            false => mutex.fenced().lock().await.map(FencedGuard::into_guard),
        }
    };
    let began = Instant::now();
    let locked = async {
        tokio::select! {
            biased;
            locked = locking => locked.map_err(|error| refused(error, name, args, began)),
            never = wait.tell_why(report) => match never {},
        }
    };
    signals.unless_one_comes(locked).await
}

fn refused(error: Error, name: &str, args: &AcquireArgs, began: Instant) -> Failure {
    let waited = began.elapsed();
    let will_vote = |node: &NodeError| matches!(node, NodeError::Withheld { wait: Some(_), .. });
    let will_pass = !error.nodes().is_empty() && error.nodes().iter().all(will_vote);
    let advice = fence::advice(&error, name);
    let failure = Failure::from(error);
    if let Some(advice) = advice {
        return failure.with(&advice);
    }
    if args.gives_up_at_once() && will_pass {
        return failure.with(" (without --try, redsync waits for them)");
    }
    if failure.exit != Exit::Taken {
        return failure;
    }
    let mut failure = failure;
    failure.exit = args.conflict_exit_code.map_or(Exit::Taken, Exit::Conflict);
    if waited < WORTH_TELLING {
        return failure;
    }
    failure.with(&format!(" (waited {})", in_words(waited)))
}

/// The token that the lock is asked for with: by it, a process finds itself among others that have its label, too.
#[derive(Clone, Default)]
struct OwnToken(Arc<Mutex<String>>);

impl OwnToken {
    /// A new one, for the next attempt.
    fn draw(&self, owner: &OwnerLabel) -> String {
        let token = Token::random(owner).to_string();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&token);
        token
    }

    fn text(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A lock that is waited for.
struct Wait<'a> {
    fleet: &'a Fleet,
    name: &'a str,
    expiry: Duration,
    token: OwnToken,
}

impl Wait<'_> {
    /// Tells why nothing happens, as long as that is so.
    async fn tell_why(&self, report: &Report) -> Infallible {
        if report.quiet {
            pending().await
        } else if report.json || !io::stderr().is_terminal() {
            self.note_withheld(report).await
        } else {
            self.show().await
        }
    }

    /// Notes once, for a log, that nobody has the lock and it cannot be had: restarted nodes do not vote yet.
    async fn note_withheld(&self, report: &Report) -> Infallible {
        let guard = self.fleet.restart_guard_for(self.expiry);
        if guard.is_none() {
            pending::<()>().await;
        }
        sleep(WORTH_NOTING).await;
        loop {
            if let Ok(looked) = self.fleet.redsync.inspect(self.name).await {
                let token = self.token.text();
                let withheld = Withheld::of(&looked, guard).seen_by(&token);
                if withheld.is_in_the_way() {
                    let name = self.name;
                    report.note(
                        "withheld",
                        &format!("waiting for lock {name:?}: {withheld}; see --restart-guard"),
                    );
                    pending::<()>().await;
                }
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Shows a person at a terminal, after a second, what stands in the way. Cleared when it is dropped.
    async fn show(&self) -> Infallible {
        let began = Instant::now();
        sleep(WORTH_TELLING).await;
        let mut spinner: Option<ProgressBar> = None;
        loop {
            let looked = self.fleet.redsync.inspect(self.name).await;
            let why = looked.map_or_else(|error| error.to_string(), |looked| self.obstacle(&looked));
            let so_far = began.elapsed().as_secs();
            // Not earlier: what is told of the nodes meanwhile would be written into its line.
            let spinner = spinner.get_or_insert_with(spinner_on_stderr);
            spinner.set_message(format!("waiting for {}: {why} ({so_far} s so far)", self.name));
            sleep(LOOK_EVERY).await;
        }
    }

    /// What stands in the way, in words.
    fn obstacle(&self, looked: &Inspection) -> String {
        let token = self.token.text();
        let withheld = Withheld::of(looked, self.fleet.restart_guard_for(self.expiry)).seen_by(&token);
        let place = Line::of(looked).place_of(&token).map(|place| format!("{place}; ")).unwrap_or_default();
        match looked.state() {
            LockState::Held(holder) if holder.token() != token => match holder.time_left() {
                TimeLeft::For(left) => format!("{place}held by {holder}, {} left", in_words(left)),
                TimeLeft::Forever => format!("{place}held by {holder}, without an expiry"),
                TimeLeft::Unknown => format!("{place}held by {holder}"),
            },
            _ if withheld.is_in_the_way() => withheld.to_string(),
            // Or our own, since a moment ago.
            LockState::Free | LockState::Held(_) => "free just now".into(),
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
            _ => format!("{place}others are taking it"),
        }
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

/// A lock that can be had at once is had by then.
const WORTH_NOTING: Duration = Duration::from_millis(300);
const WORTH_TELLING: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(120);
