//! The process that becomes the command, and has the kernel tell it when redsync is gone.
//!
//! What the kernel is to do at the end of its parent, a process can ask for only itself. So `run` starts this program
//! once more; that asks for it, and then becomes the command: the same process, group and environment.

use std::env;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use clap::Parser;
use nix::sys::signal::{self, SigSet};
use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};

use crate::child::not_started;
use crate::exit::Exit;
use crate::report::{Failure, Report};
use crate::watch::this_program;

/// What makes this program become a command. Not one of its commands: nobody types it, and so no help, no completion
/// and no suggestion shows it.
const WORD: &str = "__exec";

/// What this program was asked to become.
#[derive(Debug, Parser)]
#[command(name = WORD, disable_help_flag = true)]
pub(crate) struct Becoming {
    /// The redsync whose end the command is to be told of, if it is.
    #[arg(long)]
    parent: Option<i32>,
    #[arg(long)]
    json: bool,
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

impl Becoming {
    /// `None` where this program was started to be itself.
    pub(crate) fn asked_for() -> Option<Result<Self, clap::Error>> {
        let mut arguments = env::args_os().skip(1);
        (arguments.next()? == WORD)
            .then(|| Self::try_parse_from([OsString::from(WORD)].into_iter().chain(arguments)))
    }

    /// Becomes the command. Returns only where that cannot be done.
    pub(crate) fn begin(self) -> Exit {
        let report = Report::new(self.json, false);
        report.failure(&self.attempt())
    }

    fn attempt(self) -> Failure {
        if let Some(parent) = self.parent {
            // It outlasts exec(2), but for a program with other rights (setuid), or one that changes its user, group or
            // capabilities: the watcher signals these. What the command starts does not inherit it.
            if let Err(error) = set_parent_process_death_signal(Some(Signal::TERM)) {
                return Failure::system("cannot ask to be told of the end of redsync", &error.into());
            }
            // Its end may have come before that. A parent in another PID namespace is not seen: that is no answer.
            if getppid().is_some_and(|now| now.as_raw_nonzero().get() != parent) {
                return Failure::silent(Exit::Signal(Signal::TERM));
            }
        }
        let Some((program, arguments)) = self.command.split_first() else {
            return Failure::usage("there is no command");
        };
        let error = Command::new(program).args(arguments).exec();
        // The signals are the command's already: where stderr is closed, this process must not die of saying so.
        let _ = SigSet::from(signal::Signal::SIGPIPE).thread_block();
        not_started(&self.command, &error)
    }
}

/// The start of a process that becomes `command`; which is told of the end of this one, if it is to be.
///
/// SAFETY RULE (protocol §11): the kernel takes the *thread* that forks for the parent. It has to live as long as this
/// process, so that only the main thread may spawn what is returned.
pub(crate) fn becoming(command: &[OsString], is_told: bool, report: &Report) -> Option<Command> {
    let mut start = Command::new(this_program()?);
    start.arg0("redsync").arg(WORD);
    if is_told {
        start.arg(format!("--parent={}", getpid().as_raw_nonzero()));
    }
    if report.json {
        start.arg("--json");
    }
    start.arg("--").args(command);
    Some(start)
}
