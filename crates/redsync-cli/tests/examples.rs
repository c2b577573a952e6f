//! Every example of the help, the manual page and the README does what it says: with commands that succeed, with commands
//! that fail, and while another holds the lock. An example that is added is run here too.

mod support;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use redsync_testkit::{RedisServer, servers, wait_until};
use support::{Machine, Outcome, Running, SOON, finish, locks_on};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

#[test]
fn every_example_does_its_work_and_leaves_no_lock_behind() {
    let site = Site::new();
    for example in all() {
        let outcome = site.run(&example.script());
        assert_eq!(outcome.code, Some(0), "{example:?}: {outcome}");
        let (mut said, mut complaints) = (outcome.stdout.clone(), Vec::new());
        for line in outcome.stderr.lines().filter(|line| !line.contains("this machine only")) {
            match line.contains("no lock is held that matches") {
                true => said.push_str(line),
                false => complaints.push(line),
            }
        }
        assert!(complaints.is_empty(), "{example:?}: {outcome}");
        match example.stubs().as_slice() {
            [] => assert!(!said.is_empty(), "{example:?} says nothing"),
            stubs => assert_eq!(site.take_log(), stubs, "{example:?}"),
        }
        site.assert_free(&example);
    }
}

#[test]
fn no_example_loses_the_failure_of_its_command() {
    let site = Site::new();
    let mut tried = 0;
    for example in all().into_iter().filter(|example| !example.stubs().is_empty()) {
        let outcome = site.run(&format!("export STUB_EXIT=3\n{}", example.script()));
        assert_eq!(outcome.code, Some(3), "{example:?}: {outcome}");
        assert_eq!(site.take_log(), example.stubs()[..1], "{example:?}");
        site.assert_free(&example);
        tried += 1;
    }
    assert!(tried >= 8, "only {tried} examples have a command");
}

#[test]
fn no_example_does_its_work_while_another_holds_the_lock() {
    let site = Site::new();
    let mut tried = 0;
    for example in all().into_iter().filter(|example| !example.stubs().is_empty()) {
        let (name, nodes) = example.lock();
        let held = site.run(&format!("{}redsync lock -q --owner rival {nodes} {name}", example.setup));
        assert_eq!(held.code, Some(0), "{example:?}: {held}");
        let unlock = format!("{}redsync unlock {nodes} '{}'", example.setup, held.stdout.trim());
        let gives_up = ["--try", "--wait"].iter().any(|option| example.text.contains(option));
        if gives_up {
            let outcome = site.run(&shortly(&example.script()));
            let code = if example.text.contains("-E 0") { 0 } else { 75 };
            assert_eq!(outcome.code, Some(code), "{example:?}: {outcome}");
            assert!(!outcome.stderr.contains("lease"), "{example:?}: {outcome}");
            assert_eq!(site.take_log(), [""; 0], "{example:?}");
            assert_eq!(site.run(&unlock).code, Some(0), "{example:?}");
        } else {
            let waiter = site.start(&example.script());
            let look = format!("{}redsync status -q --json {nodes} {name}", example.setup);
            wait_until("the example waits", SOON, || site.run(&look).stdout.contains("\"waiting\":1"));
            assert_eq!(site.take_log(), [""; 0], "{example:?}");
            assert_eq!(site.run(&unlock).code, Some(0), "{example:?}");
            let outcome = waiter.outcome();
            assert_eq!(outcome.code, Some(0), "{example:?}: {outcome}");
            assert_eq!(site.take_log(), example.stubs(), "{example:?}");
        }
        site.assert_free(&example);
        tried += 1;
    }
    assert!(tried >= 8, "only {tried} examples take a lock");
}

#[test]
fn a_lease_that_ended_before_the_work_did_is_a_failure_of_the_lock_example() {
    let site = Site::new();
    let example = all().into_iter().find(|example| example.text.contains("redsync lock")).unwrap();
    let outcome =
        site.run(&example.text.replace("--expiry 1h", "--expiry 300ms").replace("./deploy", "sleep 1"));
    assert_eq!(outcome.code, Some(1), "{outcome}");
    assert!(outcome.stderr.contains("already expired"), "{outcome}");
}

#[test]
fn the_help_of_lock_and_the_manual_show_the_same_examples_as_the_help() {
    let site = Site::new();
    let scripts = |examples: Vec<Example>| examples.into_iter().map(|example| example.text).collect();
    let (help, manual): (BTreeSet<String>, BTreeSet<String>) =
        (scripts(of_help(&site.help(""))), scripts(of_manual(&site.manual())));
    assert_eq!(help, manual);
    assert!(help.len() >= 6, "{help:?}");
    let lock: BTreeSet<String> = scripts(of_help(&site.help("lock")));
    assert!(lock.len() == 1 && lock.is_subset(&help), "{lock:?}");
}

#[test]
fn the_rust_examples_of_the_readme_are_compiled() {
    let readme = read("README.md");
    let fences: Vec<&str> =
        readme.lines().map(str::trim).filter(|line| line.starts_with("```rust")).collect();
    assert!(fences.len() >= 2, "{fences:?}");
    for fence in fences {
        assert!(!fence.contains("ignore") && !fence.contains("text"), "{fence} is not compiled");
    }
    let library = read("crates/redsync/src/lib.rs");
    assert!(
        library.contains("doc = include_str!(\"../../../README.md\")"),
        "rustdoc does not see the README"
    );
}

/// An example as it stands in a text.
#[derive(Debug)]
struct Example {
    /// Lines before it that it needs.
    setup: String,
    text: String,
}

impl Example {
    fn script(&self) -> String {
        format!("{}{}", self.setup, self.text)
    }

    /// The commands that it runs, in order.
    fn stubs(&self) -> Vec<&'static str> {
        let is_word = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
        let words = self.text.split(|c| !is_word(c));
        words.filter_map(|word| STUBS.into_iter().find(|stub| *stub == word)).collect()
    }

    /// The name of its lock, and its nodes as options.
    fn lock(&self) -> (&str, String) {
        let mut words = self.text.split_whitespace().skip_while(|word| !word.ends_with("redsync")).skip(2);
        let mut nodes = String::new();
        loop {
            match words.next().unwrap_or_else(|| panic!("no lock in {self:?}")) {
                "--node" => write!(nodes, " --node {}", words.next().unwrap()).unwrap(),
                "--wait" | "--expiry" | "--owner" | "-E" => _ = words.next(),
                option if option.starts_with('-') => {}
                name => return (name, nodes),
            }
        }
    }
}

/// All examples. One that stands in several places is run once.
fn all() -> Vec<Example> {
    let site = Site::new();
    let mut examples = of_readme();
    for command in site.commands() {
        examples.extend(of_help(&site.help(&command)));
    }
    examples.extend(of_help(&site.help("")));
    examples.extend(of_manual(&site.manual()));
    assert!(examples.len() >= 15, "{examples:?}");
    let mut seen = BTreeSet::new();
    examples.retain(|example| seen.insert(example.script()));
    examples
}

/// Under `Examples:`, each after a comment.
fn of_help(help: &str) -> Vec<Example> {
    let after = help.split("\nExamples:\n").nth(1).unwrap_or_default();
    let lines = after.lines().take_while(|line| line.is_empty() || line.starts_with("  "));
    let mut examples = Vec::new();
    let mut is_new = true;
    for line in lines.filter(|line| !line.is_empty()) {
        let line = line.strip_prefix("  ").unwrap();
        match examples.last_mut() {
            _ if line.starts_with('#') => is_new = true,
            Some(Example { text, .. }) if !is_new => write!(text, "\n{line}").unwrap(),
            _ => {
                is_new = false;
                examples.push(Example { setup: String::new(), text: line.to_owned() });
            }
        }
    }
    examples
}

/// In the section EXAMPLES, each between `.nf` and `.fi`.
fn of_manual(page: &str) -> Vec<Example> {
    let section = page.split("\n.SH EXAMPLES\n").nth(1).unwrap().split("\n.SH ").next().unwrap();
    let blocks = section.split("\n.nf\n").skip(1).map(|block| block.split("\n.fi\n").next().unwrap());
    let plain = |block: &str| {
        let mut text = block.to_owned();
        for (roff, character) in [
            ("\\-", "-"),
            ("\\(aq", "'"),
            ("\\(ga", "`"),
            ("\\(ti", "~"),
            ("\\(ha", "^"),
            ("\\&", ""),
            ("\\e", "\\"),
        ] {
            text = text.replace(roff, character);
        }
        text
    };
    blocks.map(|block| Example { setup: String::new(), text: plain(block) }).collect()
}

/// Each line of a block of shell commands. What it exports, the lines after it see. A script has a test of its own.
fn of_readme() -> Vec<Example> {
    let readme = read("README.md");
    let mut examples = Vec::new();
    for block in readme.split("```sh\n").skip(1).map(|block| block.split("```").next().unwrap()) {
        if block.starts_with("#!") {
            assert!(block.contains("# publish FILE"), "no test runs the script {block}");
            continue;
        }
        let mut setup = String::new();
        for line in block.lines().filter(|line| !line.is_empty()) {
            if line.starts_with("export ") {
                writeln!(setup, "{line}").unwrap();
            } else {
                // The machine's own store is not a test's to write to; `local_stores` tests that option.
                let text = line.replace("--machine", "--node sqlite://$PWD/machine.db");
                examples.push(Example { setup: setup.clone(), text });
            }
        }
    }
    examples
}

/// As it is, but for a wait that a test cannot wait for.
fn shortly(script: &str) -> String {
    let mut words: Vec<&str> = script.split(' ').collect();
    for at in 1..words.len() {
        if words[at - 1] == "--wait" {
            words[at] = if words[at].ends_with(')') { "200ms)" } else { "200ms" };
        }
    }
    words.join(" ")
}

/// What the examples run under their locks. Each writes its name, and exits with `$STUB_EXIT`.
const STUBS: [&str; 5] = ["pg_dump", "make", "./deploy", "./smoke-test", "./backup.sh"];

/// A machine where the examples' commands and nodes are.
struct Site {
    machine: Machine,
    servers: Vec<RedisServer>,
}

impl Site {
    fn new() -> Self {
        let site = Self { machine: Machine::new(), servers: servers(3) };
        fs::create_dir_all(site.machine.path("bin")).unwrap();
        fs::create_dir_all(site.machine.path("scripts")).unwrap();
        symlink(env!("CARGO_BIN_EXE_redsync"), site.machine.path("bin/redsync")).unwrap();
        for stub in STUBS {
            let file = if stub.starts_with('.') { stub.to_owned() } else { format!("bin/{stub}") };
            site.program(&file, &format!("echo {stub} >>\"$SITE/log\"; exit \"${{STUB_EXIT:-0}}\""));
        }
        // What the README says of the repository is true of it; it is not built and tested once more.
        site.program("scripts/test", &format!("test -x {ROOT}/scripts/test && echo tested"));
        site.program(
            "bin/cargo",
            &format!(
                "case \"$*\" in\n\
                 'run --release -- '*) shift 3; exec redsync \"$@\" ;;\n\
                 'install --path '*) test -f \"{ROOT}/$3/Cargo.toml\" && echo installed ;;\n\
                 *) exit 99 ;;\n\
                 esac"
            ),
        );
        site
    }

    fn program(&self, name: &str, script: &str) {
        let path = self.machine.path(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
    }

    fn shell(&self, script: &str) -> Command {
        let mut script = script.to_owned();
        for (number, server) in self.servers.iter().enumerate() {
            let port = server.port();
            script = script.replace(&format!("10.0.0.{}", number + 1), &format!("127.0.0.1:{port}"));
        }
        let mut command = self.machine.shell(&script);
        let path = std::env::var("PATH").unwrap();
        command.env("PATH", format!("{}:{path}", self.machine.path("bin").display()));
        command.env("SITE", self.machine.path(""));
        command
    }

    fn run(&self, script: &str) -> Outcome {
        finish(&mut self.shell(script))
    }

    fn start(&self, script: &str) -> Running {
        Running::start(&mut self.shell(script))
    }

    fn help(&self, command: &str) -> String {
        self.run(&format!("redsync {command} --help")).stdout
    }

    fn manual(&self) -> String {
        self.run("redsync man").stdout
    }

    /// The commands that the help lists.
    fn commands(&self) -> Vec<String> {
        let help = self.help("");
        let section = help.split("\nCommands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
        let lines = section.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
        let commands: Vec<String> =
            lines.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect();
        assert!(commands.iter().any(|command| command == "lock"), "{commands:?}");
        commands.into_iter().filter(|command| command != "help").collect()
    }

    /// What has run since.
    fn take_log(&self) -> Vec<String> {
        let log = self.machine.read("log");
        _ = fs::remove_file(self.machine.path("log"));
        log.lines().map(str::to_owned).collect()
    }

    fn assert_free(&self, example: &Example) {
        for server in &self.servers {
            assert_eq!(locks_on(server), Vec::<String>::new(), "{example:?}");
        }
        for name in ["backup", "nightly-backup", "hello", "deploy"] {
            let status = self.run(&format!("redsync status -q --json {name}"));
            assert!(status.stdout.contains("\"state\":\"free\""), "{example:?}: {status}");
        }
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(path)).unwrap()
}
