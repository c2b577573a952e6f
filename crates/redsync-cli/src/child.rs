//! The command's process and its group.

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::process::ExitStatus;
use std::time::Duration;

use redsync::Guard;
use rustix::process::{Pid, Signal, kill_process, kill_process_group, test_kill_process_group};
use tokio::process::{self, Command};
use tokio::time::sleep;

/// The command, from its start until it is reaped.
pub(crate) struct Child {
    process: process::Child,
    pid: Pid,
    /// Whether the command leads a process group of its own.
    ///
    /// It does, so that signals reach all that it starts, unless our stdin is a terminal: only the terminal's
    /// foreground group may read from it, and that is ours. A command in another group would be stopped (SIGTTIN)
    /// when it asks its first question. It then stays in our group, and gets INT and QUIT from the terminal as we do.
    leads_group: bool,
}

impl Child {
    /// Starts the command, which finds the lock in its environment.
    pub(crate) fn spawn(command: &[OsString], guard: &Guard) -> io::Result<Self> {
        let (program, arguments) = command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let leads_group = !io::stdin().is_terminal();
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env("REDSYNC_NAME", guard.name().as_str())
            .env("REDSYNC_TOKEN", guard.token().as_str());
        if leads_group {
            command.process_group(0);
        }
        let process = command.spawn()?;
        let pid =
            process.id().and_then(|id| Pid::from_raw(id.cast_signed())).ok_or(io::ErrorKind::NotFound)?;
        Ok(Self { process, pid, leads_group })
    }

    /// Waits until the command has ended, and reaps it. Cancel safe.
    pub(crate) async fn ended(&mut self) -> io::Result<ExitStatus> {
        self.process.wait().await
    }

    /// Sends on a signal that came to us.
    pub(crate) fn forward(&self, signal: Signal) {
        // In our own group, the terminal has delivered these to the command already.
        if self.leads_group || ![Signal::INT, Signal::QUIT].contains(&signal) {
            self.send(signal);
        }
    }

    /// Sends a signal to all that the command started, where that can be told apart from what we were started with.
    pub(crate) fn send(&self, signal: Signal) {
        // Fails only where nobody is left.
        let _ = match self.process.id() {
            _ if self.leads_group => kill_process_group(self.pid, signal),
            Some(_) => kill_process(self.pid, signal),
            // Reaped: the number may be another's by now.
            None => Ok(()),
        };
    }

    /// Waits until the command has ended and nobody is left in its group, which may be later. Cancel safe.
    pub(crate) async fn all_gone(&mut self) -> io::Result<()> {
        self.ended().await?;
        while self.leads_group && test_kill_process_group(self.pid).is_ok() {
            sleep(GROUP_POLL).await;
        }
        Ok(())
    }
}

/// Groups have no event for their end.
const GROUP_POLL: Duration = Duration::from_millis(5);
