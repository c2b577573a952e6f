//! The command's process and its group.

use std::ffi::OsString;
use std::io;
use std::process::ExitStatus;
use std::time::Duration;

use redsync::Guard;
use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};
use tokio::process::{self, Command};
use tokio::time::sleep;

/// The command, from its start until it is reaped.
pub(crate) struct Child {
    process: process::Child,
    pub(crate) group: Group,
}

impl Child {
    /// Starts the command, which finds the lock in its environment.
    ///
    /// It leads a process group of its own, so that signals reach all that it starts and nobody else.
    pub(crate) fn spawn(command: &[OsString], guard: &Guard) -> io::Result<Self> {
        let (program, arguments) = command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let process = Command::new(program)
            .args(arguments)
            .env("REDSYNC_NAME", guard.name().as_str())
            .env("REDSYNC_TOKEN", guard.token().as_str())
            .process_group(0)
            .spawn()?;
        let leader =
            process.id().and_then(|id| Pid::from_raw(id.cast_signed())).ok_or(io::ErrorKind::NotFound)?;
        Ok(Self { process, group: Group { leader } })
    }

    /// Waits until the command has ended, and reaps it. Cancel safe.
    pub(crate) async fn ended(&mut self) -> io::Result<ExitStatus> {
        self.process.wait().await
    }

    /// Waits until the command has ended and nobody is left in its group, which may be later. Cancel safe.
    pub(crate) async fn all_gone(&mut self) -> io::Result<()> {
        self.ended().await?;
        while test_kill_process_group(self.group.leader).is_ok() {
            sleep(GROUP_POLL).await;
        }
        Ok(())
    }
}

/// The command, which leads it, and all that it started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Group {
    pub(crate) leader: Pid,
}

impl Group {
    pub(crate) fn send(self, signal: Signal) {
        // Fails only where nobody is left.
        let _ = kill_process_group(self.leader, signal);
    }
}

/// Groups have no event for their end.
const GROUP_POLL: Duration = Duration::from_millis(5);
