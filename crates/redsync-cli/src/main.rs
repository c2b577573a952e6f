//! The `redsync` command: `flock(1)` for a fleet.
//!
//! | file | idea |
//! |---|---|
//! | `cli` | what can be typed, and the help |
//! | `duration` | `500ms`, `8s`, `1m30s`: read and written |
//! | `nodes` | where the nodes come from |
//! | `signals` | signals as events, from before the first attempt on |
//! | `acquire` | waiting for a lock, leaving in order, and what a person sees meanwhile |
//! | `run` | a command that runs while the lock is held, and no longer |
//! | `ending` | the command is ended with its lock, and what is said where that fails |
//! | `nesting` | the locks that redsync commands around this one hold |
//! | `child` | the command's process |
//! | `group` | the command's process group: who is in it, and whom this process may signal |
//! | `processes` | the processes of this machine, as proc(5) shows them |
//! | `rights` | a command that runs with the rights of another user |
//! | `exec` | the process that becomes the command, and has the kernel tell it when redsync is gone |
//! | `watch` | the process that ends what a killed redsync leaves behind |
//! | `orphans` | children that this process inherited, reaped when they end |
//! | `job` | the command stops and goes on together with this process |
//! | `terminal` | whose turn it is at the terminal |
//! | `lease_commands` | `lock`, `extend`, `unlock` |
//! | `status` | who holds, and who waits |
//! | `fence` | the holder's fence, and a counter that is broken |
//! | `line` | those who wait, and places among them |
//! | `withheld` | votes of restarted nodes, which do not count yet |
//! | `pages` | completions and the manual page |
//! | `report` | what is said, as text and as JSON |
//! | `exit` | what the exit code means |

mod acquire;
mod child;
mod cli;
mod duration;
mod ending;
#[cfg(target_os = "linux")]
mod exec;
mod exit;
mod fence;
mod group;
mod job;
mod lease_commands;
mod line;
mod nesting;
mod nodes;
mod orphans;
mod pages;
mod processes;
mod report;
mod rights;
mod run;
mod signals;
mod status;
mod terminal;
mod watch;
mod withheld;

use std::convert::Infallible;
use std::future::pending;
use std::process::ExitCode;
use std::time::Duration;

use crate::cli::{Cli, Command};
use crate::exit::Exit;
use crate::orphans::Orphans;
use crate::report::{Failure, Report};
use crate::signals::Signals;

fn main() -> ExitCode {
    #[cfg(target_os = "linux")]
    if let Some(becoming) = exec::Becoming::asked_for() {
        return becoming.map_or_else(|error| cli::explain(&error), exec::Becoming::begin).into();
    }
    if let Some(watching) = watch::Watching::asked_for() {
        return watching.begin().into();
    }
    let exit = match cli::parse() {
        Ok(cli) => {
            let report = Report::of(&cli.global);
            execute(&cli, &report).unwrap_or_else(|failure| report.failure(&failure))
        }
        Err(error) => cli::explain(&error),
    };
    exit.into()
}

fn execute(cli: &Cli, report: &Report) -> Result<Exit, Failure> {
    match &cli.command {
        Command::Completions { shell } => pages::completions(*shell),
        Command::Man => pages::man(),
        command => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|error| Failure::system("cannot start", &error))?;
            let outcome = runtime.block_on(execute_with_nodes(command, cli, report));
            // What still hangs at a node is not worth waiting for.
            runtime.shutdown_background();
            outcome
        }
    }
}

async fn execute_with_nodes(command: &Command, cli: &Cli, report: &Report) -> Result<Exit, Failure> {
    // Before the first byte to a node: from here on, no signal can end this process while it holds a lock.
    let mut signals = match command {
        Command::Run(_) | Command::Lock(_) => Some(Signals::listen()?),
        _ => None,
    };
    let owner = match command {
        Command::Run(run) => run.acquire.owner.as_deref(),
        Command::Lock(lock) => lock.acquire.owner.as_deref(),
        _ => None,
    };
    let opened = nodes::open(&cli.global, owner, report);
    let fleet = match &mut signals {
        Some(signals) => signals.unless_one_comes(opened).await?,
        None => opened.await?,
    };
    let orphans = Orphans::new();
    let working = async {
        match (command, &mut signals) {
            (Command::Run(args), Some(signals)) => run::run(&fleet, args, &orphans, signals, report).await,
            (Command::Lock(args), Some(signals)) => lease_commands::lock(&fleet, args, signals, report).await,
            (Command::Extend(args), _) => lease_commands::extend(&fleet, args, report).await,
            (Command::Unlock(args), _) => lease_commands::unlock(&fleet, args, report).await,
            (Command::Status(args), _) => status::status(&fleet, args, report).await,
            (Command::Run(_) | Command::Lock(_) | Command::Completions { .. } | Command::Man, _) => {
                Ok(Exit::Success)
            }
        }
    };
    let telling = async {
        if matches!(command, Command::Run(_) | Command::Lock(_) | Command::Status(_)) {
            fleet.tell_concerns(report).await;
        }
        pending::<Infallible>().await
    };
    let outcome = tokio::select! {
        // In this order: what the connections know by now is told, and nothing waits for those that hang.
        biased;
        never = telling => match never {},
        outcome = working => outcome,
        // After the command has been waited for.
        never = orphans.reap() => match never {},
    };
    // Undo of an attempt that was left, and releases on slow nodes, before the runtime that does them is gone. Where
    // `unlock` found nothing to release, there is nothing to finish either.
    if !matches!((command, &outcome), (Command::Unlock(_), Err(_))) {
        let within = match &outcome {
            Err(failure) if matches!(failure.exit, Exit::Signal(_)) => LAST_WORDS_AT_A_SIGNAL,
            _ => LAST_WORDS,
        };
        fleet.redsync.drain(within).await;
    }
    outcome
}

/// How long unfinished releases may delay the end of the command. What is not released by then expires.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// After a signal, somebody waits for the end. Enough to write every release to its socket; only answers are missed.
const LAST_WORDS_AT_A_SIGNAL: Duration = Duration::from_millis(100);
