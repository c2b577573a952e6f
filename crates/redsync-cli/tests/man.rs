//! The manual page and the tables of the help.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use support::Machine;

#[test]
fn the_manual_page_is_well_formed() {
    let machine = Machine::new();
    let page = machine.path("redsync.1");
    fs::write(&page, machine.redsync(["man"]).stdout).unwrap();
    let mut groff = Command::new("groff");
    groff.args(["-ww", "-man", "-Tutf8"]).arg(&page).stdin(Stdio::null());
    let outcome = groff.output().expect("groff checks the manual page; it is in Debian's package groff-base");
    assert!(outcome.status.success(), "{outcome:?}");
    assert_eq!(String::from_utf8_lossy(&outcome.stderr), "");
}

#[test]
fn the_manual_page_has_the_sections_that_operators_look_for() {
    let page = Machine::new().redsync(["man"]).stdout;
    let sections: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix(".SH ")).collect();
    let wanted = [
        "NAME",
        "SYNOPSIS",
        "DESCRIPTION",
        "OPTIONS",
        "COMMANDS",
        "\"EXIT STATUS\"",
        "\"ENVIRONMENT\"",
        "\"FILES\"",
        "EXAMPLES",
        "\"SEE ALSO\"",
    ];
    assert_eq!(sections, wanted);
    for part in ["[OPTIONS] NAME [\\-\\-] COMMAND", "flock(1)", "locks.db", "1m30s"] {
        assert!(page.contains(part), "no {part:?} in {page}");
    }
    assert!(!page.contains("redsync help"), "{page}");
}

#[test]
fn the_help_and_the_manual_name_every_exit_code_and_every_variable() {
    let machine = Machine::new();
    let (help, page) = (machine.redsync(["--help"]).stdout, machine.redsync(["man"]).stdout);
    let mut sources = String::new();
    read_all(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")), &mut sources);
    let variables: BTreeSet<&str> = sources.split('"').filter(|word| is_variable(word)).collect();
    for variable in ["REDSYNC_NODES", "REDSYNC_FENCE", "REDSYNC_NAME", "XDG_STATE_HOME"] {
        assert!(variables.contains(variable), "no {variable} in {variables:?}");
    }
    for variable in variables {
        assert!(help.contains(variable) && page.contains(variable), "{variable} is not in the help");
    }
    let exit = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/src/exit.rs")).unwrap();
    let codes: BTreeSet<&str> = exit
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Self::")?.split_once(" => ")?.1.strip_suffix(','))
        .filter(|code| code.parse::<u8>().is_ok())
        .collect();
    assert!(codes.len() >= 8, "{codes:?}");
    for code in codes {
        assert!(help.contains(&format!("\n  {code} ")), "the help does not explain exit code {code}");
        assert!(page.contains(&format!("\\fB{code}\\fR")), "the manual does not explain exit code {code}");
    }
}

#[test]
fn the_help_fits_a_terminal_of_eighty_columns() {
    let help = Machine::new().redsync(["--help"]).stdout;
    let (_, tables) = help.split_once("\nExamples:\n").unwrap();
    for line in tables.lines() {
        assert!(line.chars().count() < 80, "{line}");
    }
}

#[test]
fn the_units_of_durations_are_in_the_help_of_each_command_that_takes_one() {
    let machine = Machine::new();
    for command in ["", "run", "lock", "extend"] {
        for option in ["-h", "--help"] {
            let outcome = machine.redsync([command, option].into_iter().filter(|word| !word.is_empty()));
            assert!(
                outcome.stdout.contains("DUR is a number and its unit, ms, s, m or h"),
                "{command}: {outcome}"
            );
        }
    }
}

fn is_variable(word: &str) -> bool {
    let is_upper = word.chars().all(|c| c.is_ascii_uppercase() || c == '_');
    is_upper && (word.starts_with("REDSYNC_") || word.starts_with("XDG_"))
}

fn read_all(directory: &Path, text: &mut String) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_all(&path, text);
        } else {
            text.push_str(&fs::read_to_string(path).unwrap());
        }
    }
}
