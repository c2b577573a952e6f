//! A command that runs while the lock is held, and no longer.

use std::convert::Infallible;
use std::fmt;
use std::future::{Future, pending};
use std::io;
use std::pin::Pin;
use std::process::ExitStatus;
use std::time::Duration;

use redsync::{Clock, Error, ErrorKind, Guard, Instant, Lost, NodeError, SystemClock};

use crate::acquire::{Keeping, acquire};
use crate::child::Child;
use crate::cli::{OnLost, RunArgs};
use crate::ending::{Ending, Margins, end};
use crate::exit::Exit;
use crate::job::{Job, Turn};
use crate::nodes::Fleet;
use crate::orphans::Orphans;
use crate::report::{Failure, Report};
use crate::signals::{JobSignals, Signals};
use crate::watch::Watcher;

pub(crate) async fn run(
    fleet: &Fleet,
    args: &RunArgs,
    orphans: &Orphans,
    signals: &mut Signals,
    report: &Report,
) -> Result<Exit, Failure> {
    MaxHold::check(args)?;
    let guard = acquire(
        fleet,
        &args.name,
        &args.acquire,
        Keeping::Renewed { at_most: args.max_hold },
        signals,
        report,
    )
    .await?;
    let max_hold = args.max_hold.map(MaxHold::from_now);
    let job_signals = JobSignals::listen()?;
    let held = Held::new(&guard, args, max_hold, report);
    let ended = match Child::spawn(&args.command, &guard, args.on_lost, report) {
        Ok(child) => {
            orphans.spare(child.group.leader);
            held.watcher.watch(child.group);
            held.tell_watcher();
            let job = Job::new(child.group, job_signals, *report);
            let ended = supervise(child, job, &held, signals).await;
            if ended.is_ok() {
                held.watcher.dismiss();
            }
            ended
        }
        Err(failure) => Err(failure),
    };
    // The command is reaped, or its lock is lost; only now may another begin.
    let (name, lost) = (guard.name().clone(), guard.lost());
    let released = guard.unlock().await;
    match (ended?, released) {
        (Ended::ByUs(ending), _) => {
            // Not earlier: a terminal or a pipe that takes nothing would delay the end of the command.
            report.warning("lost", &ending.last_line(&lost.await));
            Ok(Exit::Lost)
        }
        (Ended::WithoutLock(status), _) => Ok(exit_without_lock(status)),
        (Ended::ByItself(status), Ok(())) => Ok(Exit::Command(status)),
        (Ended::ByItself(status), Err(error)) if is_certain(&error) => {
            let why = match &error {
                Error::Lost(lost) => cause(lost),
                error => error.to_string(),
            };
            report.warning("lost", &format!("lock {name:?} was lost while the command ran: {why}"));
            Ok(match args.on_lost {
                OnLost::Terminate => Exit::Lost,
                OnLost::Warn => exit_without_lock(status),
            })
        }
        (Ended::ByItself(status), Err(error)) => {
            report.warning(
                "not_released",
                &format!("the command is done, but its lock may stay until it expires: {error}"),
            );
            Ok(Exit::Command(status))
        }
    }
}

/// How the command ended.
enum Ended {
    ByItself(ExitStatus),
    /// By itself, after its lock was lost; which has been told.
    WithoutLock(ExitStatus),
    /// By us, because the lock was lost; or in time, because it was about to be.
    ByUs(Ending),
}

/// The lock under which a command runs.
pub(crate) struct Held<'a> {
    pub(crate) guard: &'a Guard,
    pub(crate) margins: Margins,
    pub(crate) watcher: Watcher,
    pub(crate) report: &'a Report,
    expiry: Duration,
    max_hold: Option<MaxHold>,
    /// Whether the command is ended with the lock.
    ends_command: bool,
}

impl<'a> Held<'a> {
    fn new(guard: &'a Guard, args: &RunArgs, max_hold: Option<MaxHold>, report: &'a Report) -> Self {
        let expiry = args.acquire.expiry();
        let ends_command = args.on_lost == OnLost::Terminate;
        let watcher = if ends_command { Watcher::start(guard.token(), report) } else { Watcher::none() };
        Self { guard, margins: Margins::of(expiry), watcher, report, expiry, max_hold, ends_command }
    }

    /// Tells the watcher by when nothing of the command may be left.
    pub(crate) fn tell_watcher(&self) {
        self.watcher.tell(self.guard.valid_until() - self.margins.kill);
    }

    /// Tells the watcher so after each renewal.
    async fn keep_watcher_informed(&self) -> Infallible {
        loop {
            self.tell_watcher();
            // As often as `until_left` looks.
            SystemClock.sleep_until(SystemClock.now() + self.margins.terminate / 2).await;
        }
    }

    /// The limit for which the lock is about to end, or has ended.
    fn reached(&self) -> Option<MaxHold> {
        self.max_hold.filter(|limit| limit.is_end_of(self.guard, self.expiry))
    }

    /// Whether the command may have the lock for one more expiry: extensions by hand are not limited by the guard.
    fn may_extend(&self) -> bool {
        self.max_hold.is_none_or(|limit| SystemClock.now() + self.expiry <= limit.end)
    }
}

/// Sees the command to its end, which comes before the lock's unless it may outlive it.
async fn supervise(
    mut child: Child,
    mut job: Job,
    held: &Held<'_>,
    signals: &mut Signals,
) -> Result<Ended, Failure> {
    let Held { guard, margins, report, ends_command, .. } = *held;
    let mut is_told = false;
    // What a continued process asks for by hand.
    let mut extending: Pin<Box<dyn Future<Output = ()>>> = Box::pin(pending());
    loop {
        tokio::select! {
            biased;
            status = child.ended() => {
                let status = status.map_err(|error| not_waited_for(&error))?;
                job.ended(status);
                return Ok(if is_told { Ended::WithoutLock(status) } else { Ended::ByItself(status) });
            }
            signal = signals.next() => job.forward(signal),
            turn = job.next() => {
                if turn == Turn::Stop {
                    job.stop(until_left(guard, margins.terminate)).await;
                }
                // Before the command does anything: nobody renewed the lock while we stood still.
                if ends_command && !is_held_still(held).await {
                    break;
                }
                job.go_on();
                if held.may_extend() {
                    // Whatever it says, the guard knows; and if the lock is gone, the sooner the better.
                    extending = Box::pin(async { drop(guard.extend().await) });
                }
            }
            () = &mut extending => extending = Box::pin(pending()),
            () = until_left(guard, margins.terminate), if ends_command => break,
            never = held.keep_watcher_informed() => match never {},
            lost = guard.lost(), if !ends_command && !is_told => {
                let name = lost.name();
                let message = match held.reached().filter(|_| lost.cause().is_none()) {
                    Some(limit) => format!("lock {name:?} reached {limit}, and the command goes on without it"),
                    None => format!("lock {name:?} was lost, and the command goes on without it: {}", cause(&lost)),
                };
                report.warning("lost", &message);
                is_told = true;
            }
        }
    }
    let (in_time, max_hold) = (guard.is_valid(), held.reached());
    let left = end(child, job, held, signals).await?;
    Ok(Ended::ByUs(Ending { in_time, max_hold, left }))
}

/// How long the lock may be held: `--max-hold`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MaxHold {
    length: Duration,
    end: Instant,
}

impl MaxHold {
    fn check(args: &RunArgs) -> Result<(), Failure> {
        let expiry = args.acquire.expiry();
        match args.max_hold.filter(|max_hold| *max_hold < expiry) {
            Some(max_hold) => Err(Failure::usage(format!(
                "--max-hold {max_hold:?} is shorter than the expiry, {expiry:?}: the first lease lasts as long as that; give a shorter --expiry too"
            ))),
            None => Ok(()),
        }
    }

    /// Of a lock that was acquired just now.
    fn from_now(length: Duration) -> Self {
        Self { length, end: SystemClock.now() + length }
    }

    /// Whether the guard ends no earlier than this limit allows. Its last renewals are cut to fit, and it does without
    /// one that would gain little.
    fn is_end_of(self, guard: &Guard, expiry: Duration) -> bool {
        guard.valid_until() + expiry / 20 + Duration::from_millis(10) >= self.end
    }
}

/// `its maximum hold (--max-hold 60s)`.
impl fmt::Display for MaxHold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "its maximum hold (--max-hold {:?})", self.length)
    }
}

/// Whether the lock lives long enough for a command that was stopped to go on. Where little is left, it is extended
/// first.
async fn is_held_still(held: &Held<'_>) -> bool {
    let Held { guard, margins, .. } = *held;
    if guard.remaining() <= margins.terminate && held.may_extend() {
        tokio::select! {
            biased;
            () = until_left(guard, margins.kill) => {}
            // Whatever it says, the guard knows.
            _ = guard.extend() => {}
        }
    }
    guard.remaining() > margins.terminate
}

/// Completes when the guard has no more than `margin` to live. After the machine or this process stood still, that is
/// at once.
pub(crate) async fn until_left(guard: &Guard, margin: Duration) {
    loop {
        let now = SystemClock.now();
        let left = guard.remaining().saturating_sub(margin);
        if left.is_zero() {
            return;
        }
        // A node that denies its lease can bring the guard's end nearer, and of that no event tells unless it is the end
        // already. Looking so often costs half of the margin at most.
        let look_again = now + left.min(margin / 2);
        tokio::select! {
            biased;
            _ = guard.lost() => return,
            () = SystemClock.sleep_until(look_again) => {}
        }
    }
}

fn exit_without_lock(status: ExitStatus) -> Exit {
    if status.success() { Exit::Lost } else { Exit::Command(status) }
}

/// What the last renewal failed with.
pub(crate) fn cause(lost: &Lost) -> String {
    lost.cause().map_or_else(
        || "its time ran out while redsync or the machine stood still".to_owned(),
        ToString::to_string,
    )
}

/// Whether it is known, and not only feared, that the lock was over.
fn is_certain(error: &Error) -> bool {
    let silent = |node: &NodeError| matches!(node, NodeError::Timeout { .. } | NodeError::Failed { .. });
    match error.kind() {
        ErrorKind::Lost => true,
        ErrorKind::AlreadyExpired | ErrorKind::Taken => !error.nodes().iter().any(silent),
        _ => false,
    }
}

pub(crate) fn not_waited_for(error: &io::Error) -> Failure {
    Failure::system("cannot wait for the command", error)
}
