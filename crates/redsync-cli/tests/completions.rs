//! Completion scripts, in the shells themselves. bash is on every machine that builds this; zsh and fish are asked where they
//! are installed.

mod support;

use std::fs;
use std::process::Command;

use support::{Machine, Outcome, finish};

/// A command whose name no other begins like.
const COMMAND: &str = "zebra-crossing-job";

#[test]
fn bash_completes_a_command_where_one_begins() {
    for (line, words, completed) in [
        ("redsync run job zebra-c", "run job zebra-c", COMMAND),
        ("redsync run job -- zebra-c", "run job -- zebra-c", COMMAND),
        ("redsync run -q --expiry 3s job --try zebra-c", "run -q --expiry 3s job --try zebra-c", COMMAND),
        ("redsync --node x run -E 3 job zebra-c", "--node x run -E 3 job zebra-c", COMMAND),
        // As bash splits words.
        ("redsync run orders:42 zebra-c", "run orders : 42 zebra-c", COMMAND),
        ("redsync run --wait=3s o:42 zebra-c", "run --wait = 3s o : 42 zebra-c", COMMAND),
        // The command's own arguments are files, and none of redsync's options.
        ("redsync run job ls lease.t", "run job ls lease.t", "lease.txt"),
        ("redsync run job ls --exp", "run job ls --exp", ""),
        // redsync's own words.
        ("redsync run job --exp", "run job --exp", "--expiry"),
        ("redsync run zebra-c", "run zebra-c", ""),
        ("redsync run --owner zebra-c", "run --owner zebra-c", ""),
        ("redsync run job -c zebra-c", "run job -c zebra-c", ""),
        ("redsync unlock zebra-c", "unlock zebra-c", ""),
        ("redsync unl", "unl", "unlock"),
    ] {
        let machine = machine("bash");
        let words: Vec<&str> = words.split(' ').collect();
        let (current, count) = (words.last().unwrap(), words.len());
        let script = format!(
            "source ./script || exit\n\
             [[ $(complete -p redsync) == *' -F '* ]] || exit\n\
             function=$(complete -p redsync | sed 's/.* -F \\([^ ]*\\) .*/\\1/')\n\
             COMP_WORDS=(redsync {}) COMP_CWORD={count} COMP_LINE='{line}' COMP_POINT={}\n\
             \"$function\" redsync '{current}' \"${{COMP_WORDS[COMP_CWORD-1]}}\"\n\
             echo \"${{COMPREPLY[*]}}\"",
            words.join(" "),
            line.len(),
        );
        let outcome = shell(&machine, &["bash", "--norc", "--noprofile", "-c", &script]);
        assert_eq!(outcome.stderr, "", "{line}: {outcome}");
        assert_eq!(outcome.stdout.trim(), completed, "{line}: {outcome}");
    }
}

#[test]
fn fish_completes_a_command_where_one_begins() {
    if !is_installed("fish") {
        return;
    }
    for (line, completed) in [
        ("redsync run job zebra-c", COMMAND),
        ("redsync run job -- zebra-c", COMMAND),
        ("redsync run -q --expiry 3s o:42 --try zebra-c", COMMAND),
        ("redsync --node x run -E 3 job zebra-c", COMMAND),
        ("redsync run job ls lease.t", "lease.txt"),
        ("redsync run job --exp", "--expiry"),
        ("redsync run zebra-c", ""),
        ("redsync unlock zebra-c", ""),
        ("redsync unl", "unlock"),
    ] {
        let machine = machine("fish");
        let script = format!("source ./script; complete -C '{line}'");
        let outcome = shell(&machine, &["fish", "--no-config", "-c", &script]);
        assert_eq!(outcome.stderr, "", "{line}: {outcome}");
        let first = outcome.stdout.split(['\t', '\n']).next().unwrap();
        assert_eq!(first, completed, "{line}: {outcome}");
    }
}

#[test]
fn zsh_completes_a_command_where_one_begins() {
    if !is_installed("zsh") {
        return;
    }
    for (line, completed) in [
        ("redsync run job zebra-c", COMMAND),
        ("redsync run job -- zebra-c", COMMAND),
        ("redsync run -q --expiry 3s o:42 --try zebra-c", COMMAND),
        ("redsync run job ls lease.t", "lease.txt"),
        ("redsync run job -- ls lease.t", "lease.txt"),
        // As zsh completes it for `ls` itself.
        ("redsync run job ls --all --colo", "--color"),
        ("redsync run job --exp", "--expiry"),
        ("redsync unl", "unlock"),
    ] {
        let machine = machine("zsh");
        // A zsh at a pseudo-terminal, in which Tab is pressed. Waits for what it completes.
        let script = format!(
            "zmodload zsh/zpty\n\
             zpty z zsh -f -i\n\
             zpty -w z \"PROMPT='> '; autoload -U compinit; compinit -D -u; source ./script; echo RE''ADY\"\n\
             zpty -r -m z out '*READY*'\n\
             zpty -w -n z '{line}'$'\\t'\n\
             zpty -r -m z out '*{completed}*'\n\
             print -r -- \"$out\"",
        );
        let outcome = shell(&machine, &["timeout", "60", "zsh", "-f", "-c", &script]);
        assert_eq!(outcome.code, Some(0), "{line}: {outcome}");
        assert!(outcome.stdout.contains(completed), "{line}: {outcome}");
    }
}

/// A machine with a script for this shell, a command and a file.
fn machine(shell: &str) -> Machine {
    let machine = Machine::new();
    fs::write(machine.path("script"), machine.redsync(["completions", shell]).stdout).unwrap();
    fs::write(machine.path("lease.txt"), "").unwrap();
    let install = format!("mkdir bin && printf '#!/bin/sh\\n' >bin/{COMMAND} && chmod +x bin/{COMMAND}");
    assert_eq!(finish(&mut machine.shell(&install)).code, Some(0));
    machine
}

fn shell(machine: &Machine, words: &[&str]) -> Outcome {
    let mut command = machine.shell("exec \"$@\"");
    command.arg("sh").args(words);
    let path = std::env::var("PATH").unwrap();
    finish(command.env("PATH", format!("{}:{path}", machine.path("bin").display())).env("TERM", "dumb"))
}

fn is_installed(shell: &str) -> bool {
    let is_there = Command::new(shell).arg("--version").output().is_ok();
    if !is_there {
        eprintln!("{shell} is not installed, and its completions are not tried");
    }
    is_there
}
