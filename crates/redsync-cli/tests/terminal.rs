//! At a terminal: what a person sees, and what the terminal's own signals do.

mod support;

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use redsync_testkit::{RedisServer, servers, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use support::{Machine, SOON, is_stopped};

/// A terminal with a shell script in its foreground.
struct Terminal {
    keyboard: File,
    screen: Arc<Mutex<String>>,
    script: Child,
}

impl Terminal {
    fn start(machine: &Machine, script: &str) -> Self {
        let keyboard = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&keyboard).unwrap();
        unlockpt(&keyboard).unwrap();
        let path = ptsname(&keyboard, Vec::new()).unwrap().into_string().unwrap();
        let line = OpenOptions::new().read(true).write(true).open(path).unwrap();
        let inner = machine.shell(script);
        // A session of its own, whose controlling terminal is its stdin.
        let mut command = std::process::Command::new("setsid");
        command.arg("--ctty").arg(inner.get_program()).args(inner.get_args());
        command.current_dir(inner.get_current_dir().unwrap()).env("TERM", "xterm");
        command.envs(inner.get_envs().filter_map(|(key, value)| Some((key.to_owned(), value?.to_owned()))));
        let script = command
            .stdin(Stdio::from(line.try_clone().unwrap()))
            .stdout(Stdio::from(line.try_clone().unwrap()))
            .stderr(Stdio::from(line))
            .spawn()
            .unwrap();
        let keyboard = File::from(keyboard);
        let screen = Arc::new(Mutex::new(String::new()));
        let (mut output, shown) = (keyboard.try_clone().unwrap(), Arc::clone(&screen));
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            // It fails when nobody has the terminal open any more.
            while let Ok(length @ 1..) = output.read(&mut bytes) {
                shown.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..length]));
            }
        });
        Self { keyboard, screen, script }
    }

    fn screen(&self) -> String {
        self.screen.lock().unwrap().clone()
    }

    #[track_caller]
    fn wait_for(&self, text: &str) {
        let deadline = std::time::Instant::now() + SOON;
        while !self.screen().contains(text) {
            assert!(std::time::Instant::now() < deadline, "no {text:?} in {:?}", self.screen());
            // Looks again: what a screen shows is no event.
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.script), signal).unwrap();
    }

    #[track_caller]
    fn exit_code(&mut self) -> Option<i32> {
        let mut status = None;
        wait_until("the script ends", SOON, || {
            status = self.script.try_wait().unwrap();
            status.is_some()
        });
        status.and_then(|status| status.code())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.script.kill();
        let _ = self.script.wait();
    }
}

/// How many wait in the queue.
#[track_caller]
fn waiting(machine: &Machine) -> u64 {
    let outcome = machine.redsync(["status", "--quiet", "--json", "backup"]);
    let status: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
    status["waiting"].as_u64().unwrap()
}

#[test]
fn a_long_wait_shows_who_holds_and_is_cleared() {
    let machine = Machine::new();
    let holder = machine.start_sh("--owner web-2:311 backup", "echo held > held; exec sleep 60");
    machine.wait_for_file("held");
    let mut terminal = Terminal::start(&machine, "exec $redsync run backup -- echo it is mine");
    terminal.wait_for(" s): 1st in queue; held by web-2:311, ");
    terminal.wait_for("waiting for backup (2 s): 1st in queue; held by web-2:311, renewing (");
    drop(holder);
    terminal.wait_for("it is mine");
    assert_eq!(terminal.exit_code(), Some(0));
    let screen = terminal.screen();
    let before = screen.split("it is mine").next().unwrap();
    assert!(
        before.ends_with("\u{1b}[2K") || before.ends_with("\u{1b}[K") || before.ends_with('\r'),
        "{before:?}"
    );
}

#[test]
fn a_name_cannot_change_the_terminal() {
    let machine = Machine::new();
    let name = "a\u{1b}]0;title\u{7}b";
    let _holder = machine.hold(name);
    let script = "exec $redsync run --wait 3s \"$(printf 'a\\033]0;title\\007b')\" -- true";
    let mut terminal = Terminal::start(&machine, script);
    terminal.wait_for("waiting for a\\u{1b}]0;title\\u{7}b (");
    assert_eq!(terminal.exit_code(), Some(75));
    assert!(!terminal.screen().contains("\u{1b}]0"), "{:?}", terminal.screen());
}

#[test]
fn a_long_wait_shows_ones_own_place_in_queue_though_others_have_the_same_label() {
    let servers = servers(3);
    for machine in [Machine::new(), Machine::with_nodes(&servers)] {
        let _holder = machine.start_sh("--owner web-2:311 backup", "echo held > held; exec sleep 60");
        machine.wait_for_file("held");
        let first = machine.start_sh("--owner nightly backup", "true");
        wait_until("it waits in the queue", SOON, || waiting(&machine) == 1);
        let mut terminal = Terminal::start(&machine, "exec $redsync run --owner nightly backup -- true");
        terminal.wait_for(" s): 2nd in queue; held by web-2:311, ");
        let _third = machine.start_sh("--owner nightly backup", "true");
        wait_until("it waits in the queue", SOON, || waiting(&machine) == 3);
        drop(first);
        terminal.wait_for(" s): 1st in queue; held by web-2:311, ");
        assert!(!terminal.screen().contains("3rd"), "{:?}", terminal.screen());
        terminal.press("\u{3}");
        assert_eq!(terminal.exit_code(), Some(130));
        assert_eq!(
            waiting(&machine),
            1,
            "the interrupt key ends the wait, and the place in the queue with it"
        );
    }
}

#[test]
fn a_long_wait_in_a_very_long_line_shows_that() {
    let server = RedisServer::start();
    let machine = Machine::with_nodes([&server]);
    let _holder = machine.hold("backup");
    let stranger = |n: u32| {
        let place = format!("token{n}\09999999999999999:1:8000:0:0:");
        [n.to_string(), format!("token{n}"), n.to_string(), place]
    };
    let strangers: Vec<[String; 4]> = (1..=100).map(stranger).collect();
    let places = strangers.iter().flatten().map(String::as_str);
    server.command(&["ZADD", "{backup}:redsync:line"].into_iter().chain(places).collect::<Vec<_>>());
    let mut terminal = Terminal::start(&machine, "exec $redsync lock backup");
    terminal.wait_for(" s): more than 100 before us; held by ");
    terminal.press("\u{3}");
    assert_eq!(terminal.exit_code(), Some(130));
}

#[test]
fn a_long_wait_shows_which_nodes_are_out_of_reach() {
    let machine = Machine::with_urls("redis://:hunter2@127.0.0.1:1,redis://127.0.0.1:2,redis://127.0.0.1:3");
    let mut terminal = Terminal::start(&machine, "exec $redsync lock backup");
    terminal.wait_for(" s): cannot reach 3 of 3 nodes: redis://127.0.0.1:1, redi");
    terminal.press("\u{3}");
    assert_eq!(terminal.exit_code(), Some(130));
    assert!(!terminal.screen().contains("hunter2"));
}

#[test]
fn a_long_wait_shows_which_nodes_restarted_and_for_how_much_longer_they_do_not_vote() {
    let servers = servers(3);
    let machine = Machine::with_nodes(&servers).with_restart_guard();
    let mut terminal =
        Terminal::start(&machine, "stty rows 24 cols 200; exec $redsync lock --expiry 1h backup");
    let nodes: Vec<String> = servers.iter().map(RedisServer::url).collect();
    terminal.wait_for(" s): restarted nodes do not vote for another 1 h 0 min: ");
    terminal.wait_for(&nodes.join(", "));
    terminal.press("\u{3}");
    assert_eq!(terminal.exit_code(), Some(130));
}

#[test]
fn quiet_shows_nothing_even_at_a_terminal() {
    let machine = Machine::new();
    let _holder = machine.hold("backup");
    let mut terminal = Terminal::start(&machine, "exec $redsync run --quiet --wait 2s backup -- true");
    assert_eq!(terminal.exit_code(), Some(75));
    assert!(!terminal.screen().contains("waiting"), "{:?}", terminal.screen());
}

#[test]
fn a_command_can_ask_questions_at_the_terminal() {
    let machine = Machine::new();
    let mut terminal = Terminal::start(
        &machine,
        "exec $redsync run backup -- sh -c 'echo name?; read name; echo hello $name'",
    );
    terminal.wait_for("name?");
    terminal.press("Ada\n");
    terminal.wait_for("hello Ada");
    assert_eq!(terminal.exit_code(), Some(0));
}

#[test]
fn the_interrupt_key_reaches_the_command_once() {
    let machine = Machine::new();
    let script = "n=0; trap \"n=\\$((n+1)); echo interrupt \\$n\" INT; trap \"exit 9\" TERM; \
                  echo ready; while :; do sleep 0.02; done";
    let mut terminal = Terminal::start(&machine, &format!("exec $redsync run backup -- sh -c '{script}'"));
    terminal.wait_for("ready");
    terminal.press("\u{3}");
    terminal.wait_for("interrupt 1");
    terminal.signal(Signal::TERM);
    assert_eq!(terminal.exit_code(), Some(9));
    assert!(!terminal.screen().contains("interrupt 2"), "{}", terminal.screen());
}

#[test]
fn a_signal_to_run_reaches_the_command_at_a_terminal_too() {
    let machine = Machine::new();
    let script = "trap \"echo heard it; exit 4\" INT; echo ready; while :; do sleep 0.02; done";
    let mut terminal = Terminal::start(&machine, &format!("exec $redsync run backup -- sh -c '{script}'"));
    terminal.wait_for("ready");
    terminal.signal(Signal::INT);
    terminal.wait_for("heard it");
    assert_eq!(terminal.exit_code(), Some(4));
}

#[test]
fn the_interrupt_key_ends_the_script_around_it_too() {
    let machine = Machine::new();
    let mut terminal =
        Terminal::start(&machine, "$redsync run backup -- sh -c 'echo ready; exec sleep 60'; echo went on");
    terminal.wait_for("ready");
    terminal.press("\u{3}");
    assert_eq!(terminal.exit_code(), None);
    assert!(!terminal.screen().contains("went on"), "{}", terminal.screen());
}

#[test]
fn a_command_can_ask_at_the_terminal_while_its_stdin_is_a_pipe() {
    let machine = Machine::new();
    let script = "read first; echo name?; read name < /dev/tty; echo hello $name, $first";
    let mut terminal = Terminal::start(
        &machine,
        &format!("echo piped | $redsync run backup -- sh -c '{script}'; echo over"),
    );
    terminal.wait_for("name?");
    terminal.press("Ada\n");
    terminal.wait_for("hello Ada, piped");
    terminal.wait_for("over");
    assert_eq!(terminal.exit_code(), Some(0));
}

#[test]
fn a_command_that_asks_nothing_leaves_the_terminal_to_the_rest_of_its_pipe() {
    let machine = Machine::new();
    machine.fifo("go");
    let pager = "read first; echo $first; read key < /dev/tty; echo key $key; echo > go";
    let mut terminal = Terminal::start(
        &machine,
        &format!("$redsync run backup -- sh -c 'echo output; read line < go' | sh -c '{pager}'; echo over"),
    );
    terminal.wait_for("output");
    terminal.press("q\n");
    terminal.wait_for("key q");
    terminal.wait_for("over");
    assert_eq!(terminal.exit_code(), Some(0));
}

#[test]
fn the_suspend_key_stops_both_and_the_shell_brings_both_back() {
    let machine = Machine::new();
    let command = "echo $$ > pid; echo $PPID > parent; echo ready; read name; echo hello $name";
    let mut terminal = Terminal::start(
        &machine,
        &format!(
            "set -m; $redsync run --expiry 1m backup -- sh -c '{command}'; echo stopped; \
             read back; fg; echo stopped again; read back; fg; echo over $?"
        ),
    );
    terminal.wait_for("ready");
    let processes = [machine.wait_for_file("pid"), machine.wait_for_file("parent")];
    for shown in ["stopped", "stopped again"] {
        terminal.press("\u{1a}");
        terminal.wait_for(shown);
        assert!(processes.iter().all(|pid| is_stopped(pid)));
        terminal.press("back\n");
        wait_until("both go on", SOON, || !processes.iter().any(|pid| is_stopped(pid)));
    }
    terminal.press("Ada\n");
    terminal.wait_for("hello Ada");
    terminal.wait_for("over 0");
    assert_eq!(terminal.exit_code(), Some(0));
}

#[test]
fn the_suspend_key_stops_a_script_around_it_too() {
    let machine = Machine::new();
    let inner = "$redsync run backup -- sh -c \"echo ready; read name; echo hello \\$name\"; echo went on";
    let mut terminal = Terminal::start(
        &machine,
        &format!("set -m; sh -c '{inner}'; echo stopped; read back; fg; echo over"),
    );
    terminal.wait_for("ready");
    terminal.press("\u{1a}");
    terminal.wait_for("stopped");
    assert!(!terminal.screen().contains("went on"), "{}", terminal.screen());
    terminal.press("back\n");
    terminal.press("Ada\n");
    terminal.wait_for("hello Ada");
    terminal.wait_for("went on");
    terminal.wait_for("over");
    assert_eq!(terminal.exit_code(), Some(0));
}

#[test]
fn the_suspend_key_stops_nothing_where_no_shell_could_bring_it_back() {
    let machine = Machine::new();
    let mut terminal = Terminal::start(
        &machine,
        "exec $redsync run backup -- sh -c 'echo ready; read name; echo hello $name'",
    );
    terminal.wait_for("ready");
    terminal.press("\u{1a}");
    terminal.wait_for("^Z");
    terminal.press("Ada\n");
    terminal.wait_for("hello Ada");
    assert_eq!(terminal.exit_code(), Some(0));
}

#[test]
fn a_lock_is_taken_away_from_its_holder_only_after_a_yes() {
    let server = RedisServer::start();
    let machine = Machine::with_nodes([&server]);
    machine.lock("--owner web-2:311 --expiry 1h backup");
    for (answer, code) in [("\r", 1), ("no\r", 1), ("y\r", 0)] {
        let mut terminal = Terminal::start(&machine, "$redsync unlock --force backup; exit $?");
        terminal.wait_for("lock \"backup\" is held by web-2:311 for another 59 min ");
        terminal.wait_for("which may still be working? [y/N] ");
        assert!(server.get("backup").is_some());
        terminal.press(answer);
        if code == 1 {
            terminal.wait_for("lock \"backup\" was left to its holder");
        }
        assert_eq!(terminal.exit_code(), Some(code), "{}", terminal.screen());
        assert_eq!(server.get("backup").is_some(), code == 1, "{}", terminal.screen());
    }
}
