//! The `redsync` command: `flock(1)` for a fleet.
//!
//! | file | idea |
//! |---|---|
//! | `cli` | what can be typed, and the help |
//! | `help` | the tables and examples of the help and the manual page |
//! | `duration` | `500ms`, `8s`, `1m30s`: read and written |
//! | `nodes` | where the nodes come from |
//! | `local_store` | the store on this machine, of one user or of all |
//! | `signals` | signals as events, from before the first attempt on |
//! | `acquire` | waiting for a lock, leaving in order, and what a person sees meanwhile |
//! | `run` | a command that runs while the lock is held, and no longer |
//! | `ending` | the command is ended with its lock, and what is said where that fails |
//! | `nesting` | the locks that redsync commands around this one hold |
//! | `child` | the command's process |
//! | `group` | the command's process group: who is in it, and whom this process may signal |
//! | `tree` | all that the command started, in whatever group or session |
//! | `processes` | the processes of this machine, as proc(5) shows them |
//! | `rights` | a command that runs with the rights of another user |
//! | `exec` | the process that becomes the command, and has the kernel tell it when redsync is gone |
//! | `watch` | the process that ends what a killed redsync leaves behind |
//! | `remains` | what a killed redsync leaves behind outside the command's group |
//! | `orphans` | children that this process inherited, reaped when they end |
//! | `job` | the command stops and goes on together with this process |
//! | `terminal` | whose turn it is at the terminal |
//! | `lease_commands` | `lock`, `extend`, `unlock` |
//! | `force` | `unlock --force`: a lock taken away from its holder |
//! | `status` | who holds, and who waits |
//! | `ls` | which locks are held |
//! | `held` | who holds, since when and until when, in words and as JSON |
//! | `moment` | points in time, in words |
//! | `fence` | the holder's fence, and a counter that is broken |
//! | `line` | those who wait, and places among them |
//! | `withheld` | votes of restarted nodes, which do not count yet |
//! | `man` | the manual page |
//! | `completions` | completion scripts for shells |
//! | `report` | what is said, as text and as JSON |
//! | `version` | what this program was made of |
//! | `exit` | what the exit code means |

mod acquire;
mod child;
mod cli;
mod completions;
mod duration;
mod ending;
#[cfg(target_os = "linux")]
mod exec;
mod exit;
mod fence;
mod force;
#[cfg(test)]
mod fuzz;
mod group;
mod held;
mod help;
mod job;
mod lease_commands;
mod local_store;
mod ls;
mod man;
mod moment;
mod nesting;
mod nodes;
mod orphans;
mod processes;
mod queue;
mod remains;
mod report;
mod rights;
mod run;
mod signals;
mod status;
mod terminal;
mod tree;
mod version;
mod watch;
mod withheld;

use std::convert::Infallible;
use std::fs::File;
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
            execute(&cli, &report).unwrap_or_else(|failure| {
                let exit = report.failure(&failure);
                let asks = matches!(&cli.command, Command::Status(args) if args.exit_code);
                if asks { exit.unlike_an_answer() } else { exit }
            })
        }
        Err(error) => cli::explain(&error),
    };
    exit.into()
}

fn execute(cli: &Cli, report: &Report) -> Result<Exit, Failure> {
    match &cli.command {
        Command::Completions { shell } => completions::completions(*shell),
        Command::Man => man::man(),
        command => {
            has_room_for_files()?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|error| Failure::system("cannot start", &error))?;
            let outcome = runtime.block_on(execute_with_nodes(command, cli, report));
            // What still hangs at a node is not worth waiting for.
            runtime.shutdown_background();
            outcome
        }
    }
}

/// Checks that files can be opened, because the runtime panics where it cannot open those that signals need.
fn has_room_for_files() -> Result<(), Failure> {
    let mut files = Vec::new();
    for _ in 0..FILES_AT_START {
        match File::open("/") {
            Ok(file) => files.push(file),
            Err(error) => {
                let can = files.len();
                let what = format!(
                    "cannot start: redsync needs {FILES_AT_START} files besides those already open, and can open \
                     {can}; raise the limit (ulimit -n)"
                );
                return Err(Failure::system(&what, &error));
            }
        }
    }
    Ok(())
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
            (Command::Unlock(args), _) if args.force => force::unlock(&fleet, args, report).await,
            (Command::Unlock(args), _) => lease_commands::unlock(&fleet, args, report).await,
            (Command::Status(args), _) => status::status(&fleet, args, report).await,
            (Command::Ls(args), _) => ls::ls(&fleet, args, report).await,
            (Command::Run(_) | Command::Lock(_) | Command::Completions { .. } | Command::Man, _) => {
                Ok(Exit::Success)
            }
        }
    };
    let telling = async {
        if matches!(command, Command::Run(_) | Command::Lock(_) | Command::Status(_) | Command::Ls(_)) {
            fleet.report_health_warnings(report).await;
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
            Err(failure) if matches!(failure.exit, Exit::Signal(_)) && !fleet.is_local() => {
                fleet.farewell().min(FAREWELL_AT_A_SIGNAL)
            }
            _ => fleet.farewell(),
        };
        fleet.redsync.drain(within).await;
    }
    outcome
}

/// The runtime, the local store and the start of a command need so many. Each node needs one more, and says so itself.
const FILES_AT_START: usize = 16;

/// After a signal, somebody waits for the end. Enough to write every release to its socket; only answers are missed. A release
/// in a file is made by this process itself, and has the usual time.
const FAREWELL_AT_A_SIGNAL: Duration = Duration::from_millis(100);
