//! A command that runs while the lock is held, and no longer.

use std::ffi::OsString;
use std::io;
use std::pin::pin;
use std::process::ExitStatus;
use std::time::Duration;

use redsync::{Error, ErrorKind, Guard, NodeError};
use rustix::io::Errno;
use rustix::process::Signal;
use tokio::time::sleep;

use crate::acquire::acquire;
use crate::child::Child;
use crate::cli::RunArgs;
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
    let guard = acquire(fleet, &args.name, &args.acquire, signals, report).await?;
    let pace = Pace::of(args.acquire.expiry());
    let job_signals = JobSignals::listen()?;
    let ended = match Child::spawn(&args.command, &guard) {
        Ok(child) => {
            let job = Job::new(child.group, job_signals);
            supervise(child, job, &guard, pace, signals, report).await
        }
        Err(error) => Err(not_started(&args.command, &error)),
    };
    // The command is reaped; only now may another begin.
    let was_valid = guard.is_valid();
    let name = guard.name().clone();
    let released = guard.unlock().await;
    let ended = ended?;
    let Err(error) = released else {
        return Ok(ended.exit());
    };
    match ended {
        Ended::Lost => Ok(Exit::Lost),
        Ended::ByItself(_) if !was_valid || is_certain(&error) => {
            report.warning(
                "lost",
                &format!("lock {:?} was lost while the command ran: {error}", name.as_str()),
            );
            Ok(Exit::Lost)
        }
        Ended::ByItself(status) => {
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
    /// The lock was lost, and the command was made to end.
    Lost,
}

impl Ended {
    fn exit(&self) -> Exit {
        match self {
            Self::ByItself(status) => Exit::Command(*status),
            Self::Lost => Exit::Lost,
        }
    }
}

/// When what is done, all before `valid_until`.
#[derive(Clone, Copy)]
struct Pace {
    /// Extend when no more than this is left: two thirds of the expiry, and so each third of it.
    extend_at: Duration,
    /// After an extension that failed, until the next.
    retry_after: Duration,
    /// End the command when no more than this is left,
    terminate_at: Duration,
    /// and by force when no more than this is.
    kill_at: Duration,
}

impl Pace {
    fn of(expiry: Duration) -> Self {
        Self {
            extend_at: expiry.mul_f64(2.0 / 3.0),
            retry_after: (expiry / 10).max(Duration::from_millis(20)),
            terminate_at: (expiry / 6).min(Duration::from_secs(2)),
            kill_at: (expiry / 20).min(Duration::from_millis(500)),
        }
    }
}

/// Sees the command to its end, which comes before the lock's in any case.
async fn supervise(
    mut child: Child,
    mut job: Job,
    guard: &Guard,
    pace: Pace,
    signals: &mut Signals,
    report: &Report,
) -> Result<Ended, Failure> {
    let broken = |error: io::Error| Failure::system("cannot wait for the command", &error);
    let mut kept = pin!(keep(guard, pace, Due::InTime));
    let why = loop {
        tokio::select! {
            biased;
            status = child.ended() => {
                let status = status.map_err(broken)?;
                job.ended(status);
                return Ok(Ended::ByItself(status));
            }
            signal = signals.next() => job.forward(signal),
            turn = job.next() => {
                if turn == Turn::Stop {
                    job.stop(until_left(guard, pace.terminate_at)).await;
                }
                // Before the command does anything: nobody extended the lock while we stood still.
                if !is_held_still(guard, pace).await {
                    break None;
                }
                job.go_on();
                kept.set(keep(guard, pace, Due::Now));
            }
            why = &mut kept => break why,
        }
    };
    let message = lost_message(guard, why.as_ref());
    child.group.send(Signal::TERM);
    // Where it is stopped, it hears of that first.
    child.group.send(Signal::CONT);
    let mut grace = pin!(grace(guard, pace));
    loop {
        tokio::select! {
            biased;
            gone = child.all_gone() => {
                gone.map_err(broken)?;
                break;
            }
            signal = signals.next() => job.forward(signal),
            () = &mut grace => {
                child.group.send(Signal::KILL);
                child.ended().await.map_err(broken)?;
                break;
            }
        }
    }
    // Not earlier: a terminal or a pipe that takes nothing would delay the end of the command.
    report.warning("lost", &message);
    Ok(Ended::Lost)
}

/// Extends the lock again and again. Completes when it is lost, or so nearly that the command has to end now, and
/// says what the last extension failed with.
async fn keep(guard: &Guard, pace: Pace, mut due: Due) -> Option<Error> {
    let mut failed: Option<Error> = None;
    loop {
        let is_due = async {
            match due {
                Due::Now => {}
                Due::InTime => until_left(guard, pace.extend_at).await,
                Due::Again => sleep(pace.retry_after).await,
            }
        };
        tokio::select! {
            biased;
            () = until_left(guard, pace.terminate_at) => return failed,
            () = is_due => {}
        }
        // An error is no loss in itself: whatever it was, the guard knows whether it is valid still.
        tokio::select! {
            extended = guard.extend() => failed = extended.err(),
            () = until_left(guard, pace.terminate_at) => return failed,
        }
        due = if failed.is_some() { Due::Again } else { Due::InTime };
    }
}

/// When the lock is to be extended.
#[derive(Clone, Copy)]
enum Due {
    Now,
    InTime,
    /// After an extension that failed.
    Again,
}

/// Whether the lock lives long enough for a command that was stopped to go on. Where little is left, it is extended
/// first.
async fn is_held_still(guard: &Guard, pace: Pace) -> bool {
    if guard.remaining() <= pace.terminate_at {
        tokio::select! {
            biased;
            () = until_left(guard, pace.kill_at) => {}
            // Whatever it says, the guard knows.
            _ = guard.extend() => {}
        }
    }
    guard.remaining() > pace.terminate_at
}

/// The time that a command has from SIGTERM to SIGKILL.
async fn grace(guard: &Guard, pace: Pace) {
    if guard.is_valid() {
        until_left(guard, pace.kill_at).await;
    } else {
        // Too late to be in time: another may hold the lock already.
        sleep(LAST_MOMENT).await;
    }
}

/// Completes when the guard has no more than `left` to live.
async fn until_left(guard: &Guard, left: Duration) {
    loop {
        let time = guard.remaining().saturating_sub(left);
        if time.is_zero() {
            return;
        }
        // The runtime's timers stand still while the machine is suspended, and the guard's clock does not.
        sleep(time.min(Duration::from_secs(1))).await;
    }
}

fn lost_message(guard: &Guard, why: Option<&Error>) -> String {
    let name = guard.name().as_str();
    let fate = if guard.is_valid() { "cannot be extended in time" } else { "was lost" };
    let why = why.map_or_else(|| "its time ran out".to_owned(), ToString::to_string);
    format!("lock {name:?} {fate}, so the command is ended: {why}")
}

/// Whether the nodes that answered are enough to say that the lock was over.
fn is_certain(error: &Error) -> bool {
    let silent = |node: &NodeError| matches!(node, NodeError::Timeout { .. } | NodeError::Failed { .. });
    matches!(error.kind(), ErrorKind::AlreadyExpired | ErrorKind::Taken) && !error.nodes().iter().any(silent)
}

/// As shells have it: 127 where there is no such command, 126 where it cannot be executed.
fn not_started(command: &[OsString], error: &io::Error) -> Failure {
    let program = command.first().map(|program| program.to_string_lossy()).unwrap_or_default();
    if error.kind() == io::ErrorKind::NotFound {
        return Failure::new(Exit::NotFound, "command_not_found", format!("command {program:?} not found"));
    }
    let cannot = format!("cannot execute {program:?}");
    match Errno::from_io_error(error) {
        Some(
            Errno::ACCESS
            | Errno::PERM
            | Errno::NOEXEC
            | Errno::ISDIR
            | Errno::NOTDIR
            | Errno::LOOP
            | Errno::TXTBSY,
        ) => Failure::new(Exit::NotExecutable, "command_not_executable", format!("{cannot}: {error}")),
        _ => Failure::system(&cannot, error),
    }
}

/// What a command has between the signals when its lock is over: enough for a line in a log, not for work.
const LAST_MOMENT: Duration = Duration::from_millis(20);
