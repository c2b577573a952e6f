//! The command is ended with its lock: SIGTERM, then SIGKILL while the lock is still held.
//!
//! Some commands cannot be ended: one that runs with the rights of another user, or one that waits for a disk. redsync
//! says so when the lock is lost, waits for [`PATIENCE`] more, and says at the end how the command stands.

use std::pin::pin;
use std::time::Duration;

use redsync::{Clock, Guard, Lost, SystemClock};
use rustix::process::{Pid, Signal};
use tokio::time::sleep;

use crate::child::{Child, POLL_MOST};
use crate::duration::in_words;
use crate::group::named;
use crate::job::Job;
use crate::report::Failure;
use crate::run::{Held, MaxHold, cause, not_waited_for, until_left};
use crate::signals::Signals;
use crate::tree::Tree;

/// How much of the lock's validity is left when its command is made to end.
///
/// The guard renews itself each time that a third of its time has passed, and again and again where that fails. When a
/// sixth is left, it has failed for half of the expiry: the rest is better spent on letting the command tidy up, and 2 s
/// are enough for that. A process that gets KILL is not gone at once: it may have memory to give back, or wait for a
/// disk; and on a machine that is so busy that a lock is lost, both it and we may have to wait for a turn. The last
/// twentieth is for that. Where there is more than enough, neither share needs to grow with the expiry.
#[derive(Clone, Copy)]
pub(crate) struct Margins {
    /// It gets TERM when no more than this is left,
    pub(crate) terminate: Duration,
    /// and KILL when no more than this is.
    pub(crate) kill: Duration,
}

impl Margins {
    /// In words: `run --help`.
    pub(crate) fn of(expiry: Duration) -> Self {
        Self {
            terminate: (expiry / 6).min(Duration::from_secs(2)),
            kill: (expiry / 20).min(Duration::from_millis(500)),
        }
    }
}

/// Makes the command end, and all that is left of it, while the lock is still held if it is.
///
/// After the lock is lost, this takes [`PATIENCE`] at most. While the lock is renewed, it takes as long as a process
/// lives that this process may not signal: to release the lock under a command that runs would be worse.
pub(crate) async fn end(
    mut child: Child,
    mut job: Job,
    held: &Held<'_>,
    signals: &mut Signals,
) -> Result<Left, Failure> {
    let Held { guard, margins, report, .. } = *held;
    let in_time = guard.is_valid();
    let tree = child.tree.clone();
    held.tell_watcher();
    tree.send(Signal::TERM);
    // Where it is stopped, it hears of that first.
    tree.send(Signal::CONT);
    let mut grace = pin!(grace(guard, margins));
    let mut patience = pin!(async {
        guard.lost().await;
        sleep(PATIENCE).await;
    });
    let mut is_killed = false;
    let mut is_kept = false;
    let mut pause = POLL_MOST;
    let mut unreached = Vec::new();
    let mut lost_at = None;
    let mut outlasted = None;
    loop {
        tokio::select! {
            biased;
            gone = child.all_gone() => {
                gone.map_err(|error| not_waited_for(&error))?;
                break;
            }
            signal = signals.next() => job.forward(signal),
            () = &mut grace, if !is_killed => {
                // Before the signal: what gets it, and who waits for that, may be quick.
                unreached = tree.out_of_reach();
                tree.send(Signal::KILL);
                is_killed = true;
            }
            // What was started at the moment of the signal, outside the group, got none.
            () = sleep(pause), if is_killed => {
                tree.send(Signal::KILL);
                // What is still there may not be signalled, or waits for a disk: it may last for hours.
                pause = (pause * 2).min(KILL_AGAIN_MOST);
                if !unreached.is_empty() && !is_kept && guard.remaining() > margins.terminate {
                    let (name, command) = (guard.name(), named(&unreached));
                    let message = format!(
                        "{command} goes on: not permitted to signal it; lock {name:?} was renewed after all, and is kept until that command ends"
                    );
                    report.warning("not_ended", &message);
                    is_kept = true;
                }
            }
            _ = guard.lost(), if lost_at.is_none() => {
                lost_at = Some(SystemClock.now());
                outlasted = Outlasting::look(&tree, is_killed && in_time);
                if let Some(outlasting) = &outlasted {
                    let (name, goes_on) = (guard.name(), outlasting.in_words());
                    report.warning("not_ended", &format!("lock {name:?} is lost, and {goes_on}"));
                }
            }
            () = &mut patience => {
                return Ok(Outlasting::look(&tree, true).map_or(Left::Nothing, Left::GoesOn));
            }
        }
    }
    Ok(match (outlasted, lost_at) {
        (Some(outlasted), Some(lost_at)) => {
            Left::Outlasted(outlasted, SystemClock.now().saturating_since(lost_at))
        }
        _ if !unreached.is_empty() => Left::EndedByItself(unreached),
        _ => Left::Nothing,
    })
}

/// The time that a command has from TERM to KILL.
async fn grace(guard: &Guard, margins: Margins) {
    if !guard.is_valid() {
        // Too late to be in time: another may hold the lock already.
        return sleep(TERM_GRACE).await;
    }
    // A renewal may succeed after all. That prolongs nothing: a command that does not end would have the lock for ever.
    let end = guard.valid_until() - margins.kill;
    tokio::select! {
        () = SystemClock.sleep_until(end) => {}
        () = until_left(guard, margins.kill) => {}
    }
}

/// What came of the attempt to end the command.
#[derive(Debug)]
pub(crate) enum Left {
    /// The command and all that it started ended.
    Nothing,
    /// These processes could not be signalled, and ended while the lock was still held.
    EndedByItself(Vec<Pid>),
    /// These processes ended this long after the lock was lost.
    Outlasted(Outlasting, Duration),
    /// These processes are still there.
    GoesOn(Outlasting),
}

/// Processes of the command that outlast its lock.
#[derive(Debug)]
pub(crate) struct Outlasting {
    pids: Vec<Pid>,
    /// Whether this process may not signal them; else they did not end at SIGKILL.
    is_forbidden: bool,
}

impl Outlasting {
    /// Those that this process may not signal; if there are none, and SIGKILL was sent, those that live.
    fn look(tree: &Tree, is_killed: bool) -> Option<Self> {
        let forbidden = tree.out_of_reach();
        let is_forbidden = !forbidden.is_empty();
        let pids = match is_forbidden {
            true => forbidden,
            false if is_killed => tree.living(),
            false => Vec::new(),
        };
        (!pids.is_empty()).then_some(Self { pids, is_forbidden })
    }

    fn in_words(&self) -> String {
        let command = named(&self.pids);
        match self.is_forbidden {
            true => format!("{command} goes on: not permitted to signal it"),
            false => format!("{command} is still there: SIGKILL has not ended it yet"),
        }
    }
}

/// Why a command was ended, and what came of that.
#[derive(Debug)]
pub(crate) struct Ending {
    /// Whether the lock was still held when SIGTERM was sent.
    pub(crate) in_time: bool,
    /// The limit that was reached, if that was the reason.
    pub(crate) max_hold: Option<MaxHold>,
    pub(crate) left: Left,
}

impl Ending {
    /// The last line of `run`.
    pub(crate) fn last_line(&self, lost: &Lost) -> String {
        let name = lost.name();
        let why = match &self.max_hold {
            Some(max_hold) => format!("lock {name:?} reached {max_hold}"),
            None if self.in_time => format!("lock {name:?} could not be renewed in time"),
            None => format!("lock {name:?} was lost"),
        };
        let what = match &self.left {
            Left::Nothing => "so the command was ended".to_owned(),
            Left::EndedByItself(pids) => {
                format!("and {} ended by itself, since redsync is not permitted to signal it", named(pids))
            }
            Left::Outlasted(outlasted, after) => {
                let (command, after) = (named(&outlasted.pids), in_words(*after));
                match outlasted.is_forbidden {
                    true => format!(
                        "and {command} went on without it for {after}, since redsync is not permitted to signal it"
                    ),
                    false => {
                        format!("and {command} ended {after} after the lock, for all that SIGKILL could do")
                    }
                }
            }
            Left::GoesOn(outlasting) => {
                let command = named(&outlasting.pids);
                match outlasting.is_forbidden {
                    true => format!(
                        "and {command} still runs, since redsync is not permitted to signal it; end it as the user that it runs as"
                    ),
                    false => format!("and {command} is still there, though it got SIGKILL"),
                }
            }
        };
        let cause = match (&self.max_hold, self.in_time) {
            (Some(_), _) => String::new(),
            (None, true) => lost.cause().map(|cause| format!(": {cause}")).unwrap_or_default(),
            (None, false) => format!(": {}", cause(lost)),
        };
        format!("{why}, {what}{cause}")
    }
}

/// What a command has between the signals when its lock is over: enough for a line in a log, not for work.
const TERM_GRACE: Duration = Duration::from_millis(20);

/// How often SIGKILL is sent at least to what it has not ended.
const KILL_AGAIN_MOST: Duration = Duration::from_secs(1);

/// How long redsync waits, after the loss, for a command that it cannot end. In words: `run --help`.
///
/// Another may hold the lock by then, so that waiting protects nothing. It only lets the last line tell how long a
/// command went on that ends by itself soon.
const PATIENCE: Duration = Duration::from_secs(5);
