//! The terminal that this process was started at, and whose turn it is there.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal};

use nix::sys::signal::{SigSet, Signal};
use rustix::io::Errno;
use rustix::process::{Pid, getpgrp, test_kill_process_group};
use rustix::termios::{tcgetpgrp, tcsetpgrp};

/// The controlling terminal. Its keys send signals to the group in its foreground, and nobody else may read from it:
/// a command in another group is stopped (TTIN) when it asks its first question.
///
/// So the command's group gets the foreground, as a shell does with its jobs:
///
/// - at once, where stdin and stdout both are terminals, and so the command is all there is to this job;
/// - else when it asks (it is stopped for it). In `fzf | redsync run …` and `redsync run … | less` it is another who
///   reads from the terminal, in our group, and a command that never asks takes nothing away from it.
///
/// It comes back to our group when the command stops or has ended, also when this is dropped.
pub(crate) struct Terminal {
    line: File,
    command: Pid,
    /// Whether the command has had the foreground, and gets it again when it goes on.
    is_wanted: bool,
}

impl Terminal {
    /// `None` where this process has no controlling terminal.
    pub(crate) fn open(command: Pid) -> Option<Self> {
        let line = OpenOptions::new().read(true).write(true).open("/dev/tty").ok()?;
        // While the command has the foreground, we are in the background. What we write must not stop us then, nor
        // must taking the foreground back. Not earlier than this: the command would inherit it.
        SigSet::from(Signal::SIGTTOU).thread_block().ok()?;
        let is_wanted = io::stdin().is_terminal() && io::stdout().is_terminal();
        let mut terminal = Self { line, command, is_wanted };
        terminal.lend_again();
        Some(terminal)
    }

    /// Lets the command have the foreground, if that is ours to give. Whether the command has it now.
    pub(crate) fn lend(&mut self) -> bool {
        let has_it = match tcgetpgrp(&self.line) {
            Ok(front) if front == self.command => true,
            Ok(front) if front == getpgrp() => tcsetpgrp(&self.line, self.command).is_ok(),
            _ => false,
        };
        self.is_wanted |= has_it;
        has_it
    }

    /// Lets the command have the foreground, if it is to and that is ours to give.
    pub(crate) fn lend_again(&mut self) {
        if self.is_wanted {
            self.lend();
        }
    }

    /// Takes back the foreground, if the command has it: a shell may have taken it for another job. Whether it had.
    pub(crate) fn take_back(&self) -> bool {
        // A command that is a shell may have lent it on to a job of its own, with which it has ended.
        let is_lent = |front: Pid| {
            front == self.command
                || (front != getpgrp() && test_kill_process_group(front) == Err(Errno::SRCH))
        };
        tcgetpgrp(&self.line).is_ok_and(is_lent) && tcsetpgrp(&self.line, getpgrp()).is_ok()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.take_back();
    }
}
