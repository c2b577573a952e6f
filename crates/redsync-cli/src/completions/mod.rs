//! Completion scripts. After the lock's name, `redsync run` completes a command as the shell would.

use std::fmt::Write;

use clap::{Command, CommandFactory};
use clap_complete::{Generator, generate, shells};

use crate::cli::{Cli, Shell};
use crate::exit::Exit;
use crate::report::{Failure, print};

pub(crate) fn completions(shell: Shell) -> Result<Exit, Failure> {
    print(&match shell {
        Shell::Bash => bash(),
        Shell::Zsh => zsh(),
        Shell::Fish => fish(),
    })?;
    Ok(Exit::Success)
}

fn bash() -> String {
    let script = generated(shells::Bash);
    // The last lines say which function completes.
    let Some((functions, registration)) = script.rsplit_once("\nif [[") else { return script };
    let registration = registration.replace("-F _redsync ", "-F _redsync_or_command ");
    let run = include_str!("run.bash").replace(WITH_VALUES, &options_with_values("|"));
    format!("{functions}{run}\nif [[{registration}")
}

fn zsh() -> String {
    // Of the words after the command's first, `*:::` leaves only those; so the first is put before them. Directly after a
    // `--`, that is done for the first word too.
    let command = "'*::command -- The command and its arguments:_default'";
    generated(shells::Zsh).replace(command, include_str!("run.zsh").trim_end())
}

fn fish() -> String {
    let run = include_str!("run.fish").replace(WITH_VALUES, &options_with_values(" "));
    generated(shells::Fish) + &run
}

fn generated(shell: impl Generator) -> String {
    // Into memory first: clap_complete panics where it cannot write.
    let mut script = Vec::new();
    generate(shell, &mut Cli::command(), "redsync", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// The options before a command whose next word is their value.
fn options_with_values(separator: &str) -> String {
    let mut all = Cli::command();
    all.build();
    let arguments = all.find_subcommand("run").into_iter().flat_map(Command::get_opts);
    let mut options = String::new();
    for argument in arguments.filter(|argument| argument.get_action().takes_values()) {
        if let Some(short) = argument.get_short() {
            let _ = write!(options, "{separator}-{short}");
        }
        if let Some(long) = argument.get_long() {
            let _ = write!(options, "{separator}--{long}");
        }
    }
    options.split_off(separator.len())
}

/// Where the scripts list those options.
const WITH_VALUES: &str = "@OPTIONS_WITH_VALUES@";
