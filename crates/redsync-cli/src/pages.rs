//! Completions and the manual page.

use std::io;

use clap::{Command, CommandFactory};
use clap_complete::shells;
use clap_mangen::Man;

use crate::cli::{Cli, Shell};
use crate::exit::Exit;
use crate::report::{Failure, print};

pub(crate) fn completions(shell: Shell) -> Result<Exit, Failure> {
    let mut command = Cli::command();
    // Into memory first: clap_complete panics where it cannot write.
    let mut script = Vec::new();
    match shell {
        Shell::Bash => clap_complete::generate(shells::Bash, &mut command, NAME, &mut script),
        Shell::Zsh => clap_complete::generate(shells::Zsh, &mut command, NAME, &mut script),
        Shell::Fish => clap_complete::generate(shells::Fish, &mut command, NAME, &mut script),
    }
    print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Success)
}

/// One page: the command's own, with a section for each subcommand before the examples.
pub(crate) fn man() -> Result<Exit, Failure> {
    let page = render().map_err(|error| Failure::system("cannot make the manual page", &error))?;
    print(&page)?;
    Ok(Exit::Success)
}

fn render() -> io::Result<String> {
    let mut command = Cli::command();
    command.build();
    let subcommands: Vec<Command> = command.get_subcommands().cloned().collect();
    let main = Man::new(command);
    let mut page = Vec::new();
    main.render_title(&mut page)?;
    main.render_name_section(&mut page)?;
    main.render_synopsis_section(&mut page)?;
    main.render_options_section(&mut page)?;
    let mut page = String::from_utf8_lossy(&page).into_owned();
    page.push_str(".SH COMMANDS\n");
    for subcommand in subcommands {
        page.push_str(&subsection(subcommand)?);
    }
    let mut extra = Vec::new();
    main.render_extra_section(&mut extra)?;
    // Its lines are laid out already.
    let extra = String::from_utf8_lossy(&extra).replace(".SH EXTRA\n", ".SH NOTES\n.nf\n");
    page.push_str(&extra);
    page.push_str(".fi\n");
    Ok(page)
}

/// A subcommand's page, whose sections become part of one subsection.
fn subsection(command: Command) -> io::Result<String> {
    let title = command.get_display_name().unwrap_or(command.get_name()).replace('-', " ");
    // The common options are described once, at the top.
    let own =
        command.mut_args(|argument| if argument.is_global_set() { argument.hide(true) } else { argument });
    let has_options =
        own.get_arguments().any(|argument| !argument.is_hide_set() && argument.get_id() != "help");
    let man = Man::new(own);
    let mut text = Vec::new();
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    if has_options {
        man.render_options_section(&mut text)?;
    }
    let text = String::from_utf8_lossy(&text);
    let lines = text.lines().map(|line| if line.starts_with(".SH ") { ".PP" } else { line });
    Ok(format!(".SS \"{title}\"\n{}\n", lines.collect::<Vec<_>>().join("\n")))
}

const NAME: &str = "redsync";
