//! The manual page: clap's sections, and the tables of the help.

use std::fmt::Write;
use std::io;

use clap::{Command, CommandFactory};
use clap_mangen::Man;

use crate::cli::Cli;
use crate::exit::{self, Exit};
use crate::help::{DURATIONS, ENVIRONMENT, EXAMPLES, FILES, SEE_ALSO, Table};
use crate::report::{Failure, print};

/// One page for all commands.
pub(crate) fn man() -> Result<Exit, Failure> {
    let page = render().map_err(|error| Failure::system("cannot make the manual page", &error))?;
    print(&page)?;
    Ok(Exit::Success)
}

fn render() -> io::Result<String> {
    // What follows the options in the help has sections of its own here.
    // The title has room for one line of the version.
    let mut command = Cli::command().after_help("").version(env!("CARGO_PKG_VERSION"));
    command.build();
    let subcommands: Vec<Command> =
        command.get_subcommands().filter(|command| command.get_name() != "help").cloned().collect();
    let main = Man::new(command);
    let mut page = Vec::new();
    main.render_title(&mut page)?;
    main.render_name_section(&mut page)?;
    main.render_synopsis_section(&mut page)?;
    main.render_description_section(&mut page)?;
    main.render_options_section(&mut page)?;
    let mut page = String::from_utf8_lossy(&page).into_owned();
    page.push_str(".SH COMMANDS\n");
    for subcommand in subcommands {
        page.push_str(&subsection(subcommand)?);
    }
    let _ = write!(page, ".SS Durations\n{}\n", escaped(DURATIONS));
    page.push_str(&table("EXIT STATUS", exit::CODES));
    page.push_str(&table("ENVIRONMENT", ENVIRONMENT));
    page.push_str(&table("FILES", FILES));
    page.push_str(&examples());
    let _ = write!(page, ".SH \"SEE ALSO\"\n{}\n", escaped(SEE_ALSO));
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

fn table(title: &str, rows: Table) -> String {
    let mut section = format!(".SH \"{title}\"\n");
    for (word, meaning) in rows {
        let _ = write!(section, ".TP\n\\fB{}\\fR\n{}\n", escaped(word), escaped(meaning));
    }
    section
}

fn examples() -> String {
    let mut section = ".SH EXAMPLES\n".to_owned();
    for example in EXAMPLES {
        let purpose = escaped(example.purpose);
        let _ = write!(section, ".PP\n{purpose}\n.PP\n.RS 4\n.nf\n{}\n.fi\n.RE\n", escaped(example.script));
    }
    section
}

/// Text for roff: characters that a shell must get unchanged when they are copied from the page, and lines that are no
/// requests.
fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq").replace('`', "\\(ga");
    let text = text.replace('~', "\\(ti").replace('^', "\\(ha");
    let lines = text.lines().map(|line| match line.starts_with('.') {
        true => format!("\\&{line}"),
        false => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}
