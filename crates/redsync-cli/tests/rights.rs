//! `redsync run` as an ordinary user, whose command becomes another: what cannot be signalled is told, and nothing is
//! claimed of it that is not so.

mod support;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::time::{Duration, Instant};

use redsync_testkit::{RedisServer, wait_until};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use support::{Machine, Outcome, Running, SOON, is_alive, is_stopped};

/// A machine whose files an ordinary user may use, with a program that makes root of whoever starts it.
struct Shared(Machine);

impl Shared {
    #[track_caller]
    fn new(server: &RedisServer) -> Self {
        assert!(geteuid().is_root(), "these tests make a setuid program: run them as root, as CI does");
        let machine = Machine::with_nodes([server]);
        fs::set_permissions(machine.path("."), Permissions::from_mode(0o777)).unwrap();
        let place = |from: &str, name: &str, mode| {
            fs::copy(from, machine.path(name)).unwrap();
            fs::set_permissions(machine.path(name), Permissions::from_mode(mode)).unwrap();
        };
        place(env!("CARGO_BIN_EXE_redsync"), "redsync", 0o755);
        place("/usr/bin/setpriv", "setpriv", 0o4755);
        let shared = Self(machine);
        let user = support::finish(&mut shared.0.shell(&format!("exec {USER} {ROOT} id -ru")));
        assert_eq!(user.stdout, "0\n", "is the directory for temporary files mounted `nosuid`? {user}");
        shared
    }

    /// A script, where `run` is redsync of an ordinary user, and `root` starts a program as root.
    fn script(script: &str) -> String {
        script.replace("root ", &format!("{ROOT} ")).replace("run ", &format!("exec {USER} ./redsync run "))
    }

    fn start(&self, script: &str) -> Running {
        // A group of its own, as a shell with job control makes it.
        Running::start(self.0.shell(&Self::script(script)).process_group(0))
    }
}

const USER: &str = "/usr/bin/setpriv --reuid 65534 --regid 65534 --clear-groups";
const ROOT: &str = "./setpriv --reuid 0 --regid 0 --clear-groups";

fn kill(pid: &str) {
    kill_process(Pid::from_raw(pid.parse().unwrap()).unwrap(), Signal::KILL).unwrap();
}

fn last_line(outcome: &Outcome) -> &str {
    outcome.stderr.lines().last().unwrap_or_default()
}

#[test]
fn a_command_that_cannot_be_ended_is_told_when_the_lock_is_lost_and_redsync_ends_soon_after() {
    let server = RedisServer::start();
    let shared = Shared::new(&server);
    let running = shared.start("run -q --expiry 3s backup -- root sh -c 'echo $$ > pid; exec sleep 60'");
    let pid = shared.0.wait_for_file("pid");
    server.pause();
    let paused = Instant::now();
    let warning = format!(
        "redsync: lock \"backup\" is lost, and the command (pid {pid}) goes on: not permitted to signal it\n"
    );
    wait_until("it warns", SOON, || running.stderr().contains(&warning));
    let after = paused.elapsed();
    // The lock ends 32 ms before its expiry has passed. The rest is for a busy machine.
    assert!(after < Duration::from_millis(3500), "warned after {after:?}");
    assert!(is_alive(&pid));
    let outcome = running.outcome();
    let took = paused.elapsed();
    let is_left = is_alive(&pid);
    kill(&pid);
    assert_eq!(outcome.code, Some(74), "{outcome}");
    assert!(took < Duration::from_secs(12), "redsync ended {took:?} after its last renewal: {outcome}");
    assert!(is_left, "{outcome}");
    let claim = format!(
        "redsync: lock \"backup\" could not be renewed in time, and the command (pid {pid}) still runs"
    );
    assert!(last_line(&outcome).starts_with(&claim), "{outcome}");
    assert_eq!(outcome.stderr.lines().count(), 2, "{outcome}");
}

#[test]
fn a_command_that_ends_by_itself_after_the_loss_is_told_to_have_gone_on() {
    let server = RedisServer::start();
    let shared = Shared::new(&server);
    let go = shared.0.fifo("go");
    let running = shared.start("run -q --expiry 1s backup -- root sh -c 'echo $$ > pid; read line < go'");
    let pid = shared.0.wait_for_file("pid");
    server.set("backup", "a stranger's token", None);
    wait_until("it warns", SOON, || running.stderr().contains("goes on: not permitted to signal it"));
    fs::write(go, "go\n").unwrap();
    let outcome = running.outcome();
    assert_eq!(outcome.code, Some(74), "{outcome}");
    let claim =
        format!("redsync: lock \"backup\" was lost, and the command (pid {pid}) went on without it for ");
    assert!(last_line(&outcome).starts_with(&claim), "{outcome}");
    assert!(!outcome.stderr.contains("was ended"), "{outcome}");
}

#[test]
fn a_part_of_the_command_that_cannot_be_ended_is_found_though_the_command_is() {
    let server = RedisServer::start();
    let shared = Shared::new(&server);
    let running = shared
        .start("run -q --expiry 1s backup -- sh -c 'echo $$ > pid; root sh -c \"echo \\$\\$ > child; exec sleep 60\"; :'");
    let (pid, child) = (shared.0.wait_for_file("pid"), shared.0.wait_for_file("child"));
    server.pause();
    let warning = format!("is lost, and the command (pid {child}) goes on: not permitted to signal it");
    wait_until("it warns", SOON, || running.stderr().contains(&warning));
    assert!(!is_alive(&pid) && is_alive(&child));
    let outcome = running.outcome();
    kill(&child);
    assert_eq!(outcome.code, Some(74), "{outcome}");
    assert!(last_line(&outcome).contains(&format!("(pid {child}) still runs")), "{outcome}");
}

#[test]
fn a_lock_that_is_renewed_after_all_is_kept_as_long_as_a_command_that_cannot_be_ended() {
    let server = RedisServer::start();
    let shared = Shared::new(&server);
    let go = shared.0.fifo("go");
    // A second child says when TERM comes; then the lock has a sixth of its expiry left.
    let teller = "(trap \"echo term > term\" TERM; while :; do sleep 0.02; done) & echo $! > teller;";
    let running = shared.start(&format!(
        "run -q --expiry 6s backup -- sh -c '{teller} echo $$ > pid; root sh -c \"echo \\$\\$ > child; read line < go\"'"
    ));
    let (teller, child) = (shared.0.wait_for_file("teller"), shared.0.wait_for_file("child"));
    server.pause();
    shared.0.wait_for_file("term");
    server.resume();
    wait_until("what can be killed is", SOON, || !is_alive(&teller));
    assert!(is_alive(&child));
    wait_until("the lock is renewed", SOON, || server.pttl("backup") > 3000);
    let warning = format!(
        "redsync: the command (pid {child}) goes on: not permitted to signal it; lock \"backup\" was renewed after all, and is kept until that command ends\n"
    );
    wait_until("it warns", SOON, || running.stderr().contains(&warning));
    fs::write(go, "go\n").unwrap();
    let outcome = running.outcome();
    assert_eq!(outcome.code, Some(74), "{outcome}");
    let claim =
        format!("and the command (pid {child}) ended by itself, since redsync is not permitted to signal it");
    assert!(last_line(&outcome).contains(&claim), "{outcome}");
}

#[test]
fn a_signal_that_cannot_be_sent_on_is_told() {
    let server = RedisServer::start();
    let shared = Shared::new(&server);
    let go = shared.0.fifo("go");
    let running =
        shared.start("run -q --expiry 1h backup -- root sh -c 'echo $$ > pid; read line < go; exit 3'");
    let pid = shared.0.wait_for_file("pid");
    for (signal, name) in [(Signal::TERM, "SIGTERM"), (Signal::INT, "SIGINT")] {
        running.signal(signal);
        let warning = format!(
            "redsync: {name} was not sent on to the command (pid {pid}): not permitted to signal it\n"
        );
        wait_until("it says so", SOON, || running.stderr().contains(&warning));
    }
    fs::write(go, "go\n").unwrap();
    let outcome = running.outcome();
    assert_eq!(outcome.code, Some(3), "{outcome}");
}

#[test]
fn a_command_that_cannot_be_stopped_keeps_its_lock_renewed() {
    let server = RedisServer::start();
    let shared = Shared::new(&server);
    let go = shared.0.fifo("go");
    let running =
        shared.start("run -q --expiry 1h backup -- root sh -c 'echo $$ > pid; read line < go; exit 3'");
    let pid = shared.0.wait_for_file("pid");
    running.signal(Signal::TSTP);
    let warning =
        format!("redsync: not stopped, since the command (pid {pid}) goes on: not permitted to signal it\n");
    wait_until("it says so", SOON, || running.stderr().contains(&warning));
    assert!(!is_stopped(&running.pid().as_raw_nonzero().to_string()));
    fs::write(go, "go\n").unwrap();
    let outcome = running.outcome();
    assert_eq!(outcome.code, Some(3), "{outcome}");
}

#[test]
fn a_setuid_command_is_noted_before_it_starts() {
    let server = RedisServer::start();
    let shared = Shared::new(&server);
    let note = "command \"./setpriv\" runs with the rights of root (its file is setuid): redsync may not be permitted to end it when the lock is lost";
    for (options, is_noted) in [("", true), ("-q", false)] {
        let outcome = shared.start(&format!("run {options} backup -- root true")).outcome();
        assert_eq!(outcome.code, Some(0), "{outcome}");
        assert_eq!(outcome.stderr.contains(note), is_noted, "{outcome}");
    }
    // Found in PATH, as sudo is.
    let outcome = shared.start("PATH=.:$PATH; run backup -- setpriv --reuid 0 true").outcome();
    assert!(outcome.stderr.contains("command \"setpriv\" runs with the rights of root"), "{outcome}");
    // Root may signal everyone.
    let outcome = support::finish(&mut shared.0.shell(&format!("exec ./redsync run backup -- {ROOT} true")));
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""), "{outcome}");
}

/// What becomes another user with su(1) has a session of its own, and so a group of its own.
const SU: &str = "su -s /bin/sh nobody -c";

#[test]
fn a_command_that_su_put_into_another_session_is_ended_with_its_lock() {
    let server = RedisServer::start();
    let shared = Shared::new(&server);
    let script =
        format!("exec ./redsync run -q --expiry 2s backup -- {SU} 'trap \"\" TERM; echo $$ > pid; {LOOP}'");
    let running = Running::start(&mut shared.0.shell(&script));
    let pid = shared.0.wait_for_file("pid");
    server.pause();
    let outcome = running.outcome();
    let is_left = is_alive(&pid);
    assert_eq!(outcome.code, Some(74), "{outcome}");
    assert!(!is_left, "{outcome}");
    assert!(last_line(&outcome).contains("so the command was ended"), "{outcome}");
}

#[test]
fn what_left_the_group_and_cannot_be_ended_is_told_too() {
    let server = RedisServer::start();
    let shared = Shared::new(&server);
    let running = shared.start(
        "run -q --expiry 1s backup -- sh -c 'root setsid sh -c \"echo \\$\\$ > child; exec sleep 60\"'",
    );
    let child = shared.0.wait_for_file("child");
    server.pause();
    let warning = format!("(pid {child}) goes on: not permitted to signal it");
    wait_until("it warns", SOON, || running.stderr().contains(&warning));
    let outcome = running.outcome();
    kill(&child);
    assert!(last_line(&outcome).contains(&format!("(pid {child}) still runs")), "{outcome}");
}

#[test]
fn a_command_that_became_another_user_gets_term_when_redsync_is_killed() {
    let server = RedisServer::start();
    let shared = Shared::new(&server);
    let script = format!(
        "exec ./redsync run -q --expiry 1h backup -- {USER} sh -c 'trap \"echo told > told; exit\" TERM; echo $$ > pid; {LOOP}'"
    );
    let running = Running::start(&mut shared.0.shell(&script));
    shared.0.wait_for_file("pid");
    running.signal(Signal::KILL);
    assert_eq!(shared.0.wait_for_file("told"), "told");
}

#[test]
fn what_su_put_into_another_session_is_ended_when_redsync_is_killed() {
    let server = RedisServer::start();
    let shared = Shared::new(&server);
    let script =
        format!("exec ./redsync run -q --expiry 2s backup -- {SU} 'trap \"\" TERM; echo $$ > pid; {LOOP}'");
    let running = Running::start(&mut shared.0.shell(&script));
    let pid = shared.0.wait_for_file("pid");
    running.signal(Signal::KILL);
    wait_until("it is gone", SOON, || !is_alive(&pid));
}

const LOOP: &str = "while :; do sleep 0.02; done";
