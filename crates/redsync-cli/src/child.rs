//! The command's process.

use std::ffi::OsString;
use std::io;
use std::process::ExitStatus;
use std::time::Duration;

use redsync::Guard;
use rustix::io::Errno;
use rustix::process::Pid;
use tokio::process::{self, Command};
use tokio::time::sleep;

use crate::cli::{OnLost, masked};
#[cfg(target_os = "linux")]
use crate::exec;
use crate::exit::Exit;
use crate::group::Group;
use crate::nesting::{Enclosing, HELD, NAME, TOKEN};
use crate::report::{Failure, Report};
use crate::rights;
use crate::tree::{Others, Tree};

/// The command, from its start until it is reaped.
pub(crate) struct Child {
    process: process::Child,
    pub(crate) group: Group,
    /// The command, and all that it started.
    pub(crate) tree: Tree,
}

impl Child {
    /// Starts the command, which finds the lock in its environment. On Linux, one that is to end with its lock is told
    /// by the kernel when this process ends in whatever way, and with it the renewal of the lock.
    ///
    /// It leads a process group of its own, so that signals reach all that it starts and nobody else.
    ///
    /// To be called on the main thread: see [`exec::becoming`].
    pub(crate) fn spawn(
        command: &[OsString],
        guard: &Guard,
        on_lost: OnLost,
        report: &Report,
    ) -> Result<Self, Failure> {
        let mut start = start(command, on_lost, report);
        start.env(NAME, guard.name().as_str()).env(TOKEN, guard.token().as_str());
        start.env(HELD, Enclosing::from_environment().and(guard.name(), guard.token()));
        match guard.lease().fence() {
            Some(fence) => start.env(FENCE, fence.to_string()),
            // Where we run under another lock, its fence is not this one's.
            None => start.env_remove(FENCE),
        };
        rights::note(command, report);
        let others = Others::before_command();
        let process = start.process_group(0).spawn().map_err(|error| not_started(command, &error))?;
        let leader = process.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        let leader = leader.ok_or_else(|| not_started(command, &io::ErrorKind::NotFound.into()))?;
        let group = Group { leader };
        Ok(Self { process, group, tree: others.with_command(group) })
    }

    /// Waits until the command has ended, and reaps it. Cancel safe.
    pub(crate) async fn ended(&mut self) -> io::Result<ExitStatus> {
        self.process.wait().await
    }

    /// Waits until the command has ended and nothing lives that it started, which may be later. Cancel safe.
    pub(crate) async fn all_gone(&mut self) -> io::Result<()> {
        self.ended().await?;
        let mut pause = POLL;
        let mut was_gone = false;
        loop {
            // Once more after a look that found nothing: see `is_gone`.
            let is_gone = self.tree.is_gone();
            if is_gone && was_gone {
                return Ok(());
            }
            was_gone = is_gone;
            sleep(pause).await;
            pause = (pause * 2).min(POLL_MOST);
        }
    }
}

fn start(command: &[OsString], on_lost: OnLost, report: &Report) -> Command {
    #[cfg(target_os = "linux")]
    if let Some(start) = exec::becoming(command, on_lost == OnLost::Terminate, report) {
        return start.into();
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (on_lost, report);
    let mut words = command.iter();
    let mut start = Command::new(words.next().cloned().unwrap_or_default());
    start.args(words);
    start
}

/// As shells have it: 127 where there is no such command, 126 where it cannot be executed.
pub(crate) fn not_started(command: &[OsString], error: &io::Error) -> Failure {
    let program = command.first().map(|program| program.to_string_lossy()).unwrap_or_default();
    // A URL that was meant for --node begins the command where that was forgotten.
    let program = masked(program.into_owned());
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

const FENCE: &str = "REDSYNC_FENCE";

/// Groups have no event for their end.
const POLL: Duration = Duration::from_millis(5);

/// Each look may read all of /proc.
pub(crate) const POLL_MOST: Duration = Duration::from_millis(40);
