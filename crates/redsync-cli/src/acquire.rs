//! Waiting for a lock, leaving in order, and what a person sees meanwhile.

use std::convert::Infallible;
use std::future::pending;
use std::io::{self, IsTerminal};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};
use redsync::{
    Error, FencedGuard, Guard, Inspection, LockOptions, LockState, NodeError, OwnerLabel, drawn_token,
    this_process,
};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::cli::AcquireArgs;
use crate::duration::in_words;
use crate::exit::Exit;
use crate::fence;
use crate::held;
use crate::moment::now_in_millis;
use crate::nesting;
use crate::nodes::Fleet;
use crate::queue::{Place, Queue};
use crate::report::{Failure, Report, millis, one_line};
use crate::signals::Signals;
use crate::withheld::Withheld;

/// How long a lock is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keeping {
    /// Until its expiry is over: nothing renews it.
    UntilExpiry,
    /// As long as it is renewed, and no longer than this.
    Renewed { at_most: Option<Duration> },
}

impl Keeping {
    /// Whether a lock of this expiry is ever renewed. A hold that may last no longer than its first lease is not.
    fn renews(self, expiry: Duration) -> bool {
        match self {
            Self::UntilExpiry => false,
            Self::Renewed { at_most } => at_most.is_none_or(|most| most > expiry),
        }
    }
}

impl AcquireArgs {
    pub(crate) fn expiry(&self) -> Duration {
        self.expiry.unwrap_or(LockOptions::DEFAULT_EXPIRY)
    }
}

/// Takes the lock, waiting as the arguments say. A signal ends the wait at once; the place in the queue is left, and what may
/// have been granted by then is released, in the background, which `main` drains.
pub(crate) async fn acquire(
    fleet: &Fleet,
    name: &str,
    args: &AcquireArgs,
    keeping: Keeping,
    signals: &mut Signals,
    report: &Report,
) -> Result<Guard, Failure> {
    // A wait that has an end deadlocks nobody.
    if args.wait.is_none() && !args.gives_up_at_once() {
        signals.unless_one_comes(nesting::refuse_deadlock(fleet, name)).await?;
    }
    let owner = args.owner.as_ref().map_or_else(|| Ok(this_process()), OwnerLabel::new);
    let owner = owner.map_err(Error::from)?;
    let wait = Wait { fleet, name, expiry: args.expiry(), token: OwnToken::default() };
    let token = wait.token.clone();
    let renews = keeping.renews(args.expiry());
    let mutex = fleet
        .mutex(name, args.expiry())
        .barging(args.release.barging)
        .token_fn(move || token.draw(&owner, renews));
    let mutex = match args.timeout_factor {
        Some(factor) => mutex.timeout_factor(factor),
        None => mutex,
    };
    let mutex = match keeping {
        Keeping::Renewed { at_most: Some(max_hold) } => mutex.max_hold(max_hold),
        _ => mutex,
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
    fn draw(&self, owner: &OwnerLabel, renews: bool) -> String {
        let token = drawn_token(owner, now_in_millis(), renews).to_string();
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
            self.note(report).await
        } else {
            self.show(if report.verbose { WORTH_NOTING } else { WORTH_TELLING }).await
        }
    }

    /// Notes for a log what stands in the way: after 5 s, and each minute from then on; with `--verbose` from the start on. That
    /// restarted nodes do not vote yet is noted at once: it keeps the lock from everybody.
    async fn note(&self, report: &Report) -> Infallible {
        let began = Instant::now();
        let guard = self.fleet.restart_guard_for(self.expiry);
        let mut has_told_withheld = guard.is_none();
        let mut due = if report.verbose { Duration::ZERO } else { LONG };
        sleep(WORTH_NOTING).await;
        loop {
            let waited = began.elapsed();
            let is_due = waited >= due;
            if is_due || !has_told_withheld {
                let looked = self.fleet.redsync.inspect(self.name).await;
                let token = self.token.text();
                let withheld = looked.as_ref().ok().map(|looked| Withheld::of(looked, guard).seen_by(&token));
                let in_the_way = withheld.filter(|withheld| !has_told_withheld && withheld.is_in_the_way());
                if let Some(withheld) = in_the_way {
                    has_told_withheld = true;
                    let name = self.name;
                    let message = format!("waiting for lock {name:?}: {withheld}; see --restart-guard");
                    report.note("withheld", &message);
                } else if is_due {
                    self.note_obstacle(looked, waited, report);
                }
            }
            if is_due {
                due = next_note(waited);
            }
            sleep(LOOK_EVERY).await;
        }
    }

    fn note_obstacle(&self, looked: Result<Inspection, Error>, waited: Duration, report: &Report) {
        let (name, so_far) = (self.name, in_words(waited));
        let why = match &looked {
            Ok(looked) => self.obstacle(looked),
            Err(error) => error.to_string(),
        };
        let mut facts = json!({ "name": name, "waited_ms": millis(waited) });
        if let Ok(looked) = looked {
            held::add_to(&mut facts, looked.holder().as_ref());
            let line = Queue::of(&looked);
            facts["place"] = match line.place_of(&self.token.text()) {
                Some(Place::Nth(number)) => json!(number),
                Some(Place::Beyond(_)) | None => Value::Null,
            };
            facts["waiting"] = line.waiting_in_json();
        }
        report.note_of("waiting", &format!("has waited {so_far} for lock {name:?}: {why}"), facts);
    }

    /// Shows a person at a terminal, after `quiet`, what stands in the way. Cleared when it is dropped.
    async fn show(&self, quiet: Duration) -> Infallible {
        let began = Instant::now();
        sleep(quiet).await;
        let mut spinner: Option<ProgressBar> = None;
        loop {
            let looked = self.fleet.redsync.inspect(self.name).await;
            let why = looked.map_or_else(|error| error.to_string(), |looked| self.obstacle(&looked));
            let so_far = began.elapsed().as_secs();
            // Not earlier: what is told of the nodes meanwhile would be written into its line.
            let spinner = spinner.get_or_insert_with(spinner_on_stderr);
            let name = self.name.escape_debug();
            spinner.set_message(one_line(&format!("waiting for {name} ({so_far} s): {why}")));
            sleep(LOOK_EVERY).await;
        }
    }

    /// What stands in the way, in words.
    fn obstacle(&self, looked: &Inspection) -> String {
        let token = self.token.text();
        let withheld = Withheld::of(looked, self.fleet.restart_guard_for(self.expiry)).seen_by(&token);
        let place = Queue::of(looked).place_of(&token).map(|place| format!("{place}; ")).unwrap_or_default();
        match looked.state() {
            LockState::Held(holder) if holder.token() != token => {
                format!("{place}{}", held::in_few_words(&holder))
            }
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

/// When the next note is due, of one that was made after `waited`: 5 s after the beginning, and each minute after that.
const fn next_note(waited: Duration) -> Duration {
    match waited.as_secs().checked_sub(LONG.as_secs()) {
        None => LONG,
        Some(more) => Duration::from_secs(LONG.as_secs() + (more / 60 + 1) * 60),
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
/// A wait that somebody who reads the log should know of.
const LONG: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(120);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hold_that_ends_with_its_first_lease_is_not_renewed() {
        let expiry = Duration::from_secs(20);
        let renews = |at_most| Keeping::Renewed { at_most }.renews(expiry);
        assert!(renews(None) && renews(Some(expiry * 2)));
        assert!(!renews(Some(expiry)) && !Keeping::UntilExpiry.renews(expiry));
    }

    #[test]
    fn a_wait_is_noted_after_five_seconds_and_each_minute_from_then_on() {
        let next = |millis| next_note(Duration::from_millis(millis)).as_secs();
        assert_eq!(next(300), 5);
        assert_eq!(next(5_300), 65);
        assert_eq!(next(65_300), 125);
        // One that came late, since the machine was busy or asleep, does not shift the others.
        assert_eq!(next(3_600_000), 3_605);
    }
}
