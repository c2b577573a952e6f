//! A command that runs while the lock is held, and no longer.

use std::future::{Future, pending};
use std::io;
use std::pin::{Pin, pin};
use std::process::ExitStatus;
use std::time::Duration;

use redsync::{Clock, Error, ErrorKind, Guard, Lost, NodeError, SystemClock};
use rustix::process::Signal;
use tokio::time::sleep;

use crate::acquire::acquire;
use crate::child::Child;
use crate::cli::{OnLost, RunArgs};
use crate::exit::Exit;
use crate::job::{Job, Turn};
use crate::nodes::Fleet;
use crate::report::{Failure, Report};
use crate::signals::{JobSignals, Signals};

pub(crate) async fn run(
    fleet: &Fleet,
    args: &RunArgs,
    signals: &mut Signals,
    report: &Report,
) -> Result<Exit, Failure> {
    let guard = acquire(fleet, &args.name, &args.acquire, true, signals, report).await?;
    let job_signals = JobSignals::listen()?;
    let ended = match Child::spawn(&args.command, &guard, args.on_lost, report) {
        Ok(child) => {
            let job = Job::new(child.group, job_signals);
            supervise(child, job, &guard, args, signals, report).await
        }
        Err(failure) => Err(failure),
    };
    // The command is reaped; only now may another begin.
    let (name, lost) = (guard.name().clone(), guard.lost());
    let released = guard.unlock().await;
    match (ended?, released) {
        (Ended::ByUs { in_time }, _) => {
            // Not earlier: a terminal or a pipe that takes nothing would delay the end of the command.
            report.warning("lost", &why_it_was_ended(in_time, &lost.await));
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
    ByUs {
        in_time: bool,
    },
}

/// How much of the lock's validity is left when its command is made to end.
///
/// The guard renews itself each time that a third of its time has passed, and again and again where that fails. When a
/// sixth is left, it has failed for half of the expiry: the rest is better spent on letting the command tidy up, and 2 s
/// are enough for that. A process that gets KILL is not gone at once: it may have memory to give back, or wait for a
/// disk; and on a machine that is so busy that a lock is lost, both it and we may have to wait for a turn. The last
/// twentieth is for that. Where there is more than enough, neither share needs to grow with the expiry.
#[derive(Clone, Copy)]
struct Margins {
    /// It gets TERM when no more than this is left,
    terminate: Duration,
    /// and KILL when no more than this is.
    kill: Duration,
}

impl Margins {
    /// In words: `run --help`.
    fn of(expiry: Duration) -> Self {
        Self {
            terminate: (expiry / 6).min(Duration::from_secs(2)),
            kill: (expiry / 20).min(Duration::from_millis(500)),
        }
    }
}

/// Sees the command to its end, which comes before the lock's unless it may outlive it.
async fn supervise(
    mut child: Child,
    mut job: Job,
    guard: &Guard,
    args: &RunArgs,
    signals: &mut Signals,
    report: &Report,
) -> Result<Ended, Failure> {
    let margins = Margins::of(args.acquire.expiry());
    let ends_with_lock = args.on_lost == OnLost::Terminate;
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
                if ends_with_lock && !is_held_still(guard, margins).await {
                    break;
                }
                job.go_on();
                // Whatever it says, the guard knows; and if the lock is gone, the sooner the better.
                extending = Box::pin(async { drop(guard.extend().await) });
            }
            () = &mut extending => extending = Box::pin(pending()),
            () = until_left(guard, margins.terminate), if ends_with_lock => break,
            lost = guard.lost(), if !ends_with_lock && !is_told => {
                let name = lost.name();
                let message = format!("lock {name:?} was lost, and the command goes on without it: {}", cause(&lost));
                report.warning("lost", &message);
                is_told = true;
            }
        }
    }
    let in_time = guard.is_valid();
    end(child, job, guard, margins, signals).await?;
    Ok(Ended::ByUs { in_time })
}

/// Makes the command end, and all that is left of it, while the lock is still held if it is.
async fn end(
    mut child: Child,
    mut job: Job,
    guard: &Guard,
    margins: Margins,
    signals: &mut Signals,
) -> Result<(), Failure> {
    child.group.send(Signal::TERM);
    // Where it is stopped, it hears of that first.
    child.group.send(Signal::CONT);
    let mut grace = pin!(grace(guard, margins));
    loop {
        tokio::select! {
            biased;
            gone = child.all_gone() => return gone.map_err(|error| not_waited_for(&error)),
            signal = signals.next() => job.forward(signal),
            () = &mut grace => {
                child.group.send(Signal::KILL);
                return child.ended().await.map(drop).map_err(|error| not_waited_for(&error));
            }
        }
    }
}

/// Whether the lock lives long enough for a command that was stopped to go on. Where little is left, it is extended
/// first.
async fn is_held_still(guard: &Guard, margins: Margins) -> bool {
    if guard.remaining() <= margins.terminate {
        tokio::select! {
            biased;
            () = until_left(guard, margins.kill) => {}
            // Whatever it says, the guard knows.
            _ = guard.extend() => {}
        }
    }
    guard.remaining() > margins.terminate
}

/// The time that a command has from TERM to KILL.
async fn grace(guard: &Guard, margins: Margins) {
    if !guard.is_valid() {
        // Too late to be in time: another may hold the lock already.
        return sleep(LAST_MOMENT).await;
    }
    // A renewal may succeed after all. That prolongs nothing: a command that does not end would have the lock for ever.
    let end = guard.valid_until() - margins.kill;
    tokio::select! {
        () = SystemClock.sleep_until(end) => {}
        () = until_left(guard, margins.kill) => {}
    }
}

/// Completes when the guard has no more than `margin` to live. After the machine or this process stood still, that is
/// at once.
async fn until_left(guard: &Guard, margin: Duration) {
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

fn why_it_was_ended(in_time: bool, lost: &Lost) -> String {
    let name = lost.name();
    match (in_time, lost.cause()) {
        (true, None) => format!("lock {name:?} could not be renewed in time, so the command was ended"),
        (true, Some(cause)) => {
            format!("lock {name:?} could not be renewed in time, so the command was ended: {cause}")
        }
        (false, _) => format!("lock {name:?} was lost, so the command was ended: {}", cause(lost)),
    }
}

/// What the last renewal failed with.
fn cause(lost: &Lost) -> String {
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

fn not_waited_for(error: &io::Error) -> Failure {
    Failure::system("cannot wait for the command", error)
}

/// What a command has between the signals when its lock is over: enough for a line in a log, not for work.
const LAST_MOMENT: Duration = Duration::from_millis(20);
