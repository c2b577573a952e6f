//! The `redsync` command as a process of the test's own.
#![allow(dead_code, reason = "each test file uses its part")]

use std::borrow::Borrow;
use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use redsync_testkit::{RedisServer, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// How long an event may take before a test fails: long, since nothing waits for it to pass.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A machine with `redsync` on it: a directory for its state and for the test's files, and the nodes it is told.
pub(crate) struct Machine {
    directory: TempDir,
    nodes: String,
    /// The servers of most tests have just been started: all of them would be distrusted for a while.
    restart_guard: &'static str,
}

impl Machine {
    /// Without nodes: the embedded store.
    pub(crate) fn new() -> Self {
        Self { directory: TempDir::new().unwrap(), nodes: String::new(), restart_guard: "off" }
    }

    /// With these servers for nodes.
    pub(crate) fn with_nodes(servers: impl IntoIterator<Item = impl Borrow<RedisServer>>) -> Self {
        let urls: Vec<String> = servers.into_iter().map(|server| server.borrow().url()).collect();
        Self { nodes: urls.join(","), ..Self::new() }
    }

    /// With these URLs for nodes.
    pub(crate) fn with_urls(urls: &str) -> Self {
        Self { nodes: urls.to_owned(), ..Self::new() }
    }

    /// As somebody has it who says nothing of the restart guard.
    pub(crate) fn with_restart_guard(self) -> Self {
        Self { restart_guard: "", ..self }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// Waits until a command wrote something to a file.
    #[track_caller]
    pub(crate) fn wait_for_file(&self, name: &str) -> String {
        wait_until(&format!("{name} is written"), SOON, || self.read(name).ends_with('\n'));
        self.read(name).trim().to_owned()
    }

    /// The command, not started yet. Its directory is the test's own.
    pub(crate) fn command<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut command = self.environment();
        command.arg(env!("CARGO_BIN_EXE_redsync")).args(arguments);
        command
    }

    /// A shell script that finds the command as `$redsync`.
    pub(crate) fn shell(&self, script: &str) -> Command {
        let mut command = self.environment();
        command.args(["sh", "-c", script]).env("redsync", env!("CARGO_BIN_EXE_redsync"));
        command
    }

    fn environment(&self) -> Command {
        // A test runner that was started with `&` ignores INT and QUIT, and so would all that it starts.
        let mut command = Command::new("env");
        command
            .arg("--default-signal=INT,QUIT,HUP,TERM,USR1,USR2,TSTP,TTIN,TTOU,CONT")
            .current_dir(self.directory.path())
            .env("HOME", self.directory.path())
            .env("XDG_STATE_HOME", self.directory.path().join("state"))
            .env_remove("REDSYNC_NODES")
            .env_remove("REDSYNC_MACHINE")
            .env("REDSYNC_RESTART_GUARD", self.restart_guard)
            .stdin(Stdio::null());
        if !self.nodes.is_empty() {
            command.env("REDSYNC_NODES", &self.nodes);
        }
        command
    }

    /// A pipe by name, which a command can wait at.
    pub(crate) fn fifo(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        path
    }

    /// Runs it to its end.
    #[track_caller]
    pub(crate) fn redsync<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Outcome {
        finish(&mut self.command(arguments))
    }

    /// Runs a shell command while the lock is held, to its end.
    #[track_caller]
    pub(crate) fn run_sh(&self, options: &str, script: &str) -> Outcome {
        self.redsync(run_arguments(options, script))
    }

    /// Starts it.
    #[track_caller]
    pub(crate) fn start<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Running {
        Running::start(&mut self.command(arguments))
    }

    #[track_caller]
    pub(crate) fn start_sh(&self, options: &str, script: &str) -> Running {
        self.start(run_arguments(options, script))
    }

    /// What `lock` printed.
    #[track_caller]
    pub(crate) fn lock(&self, options: &str) -> String {
        let outcome = self.redsync(["lock"].into_iter().chain(options.split_whitespace()));
        assert_eq!(outcome.code, Some(0), "{outcome}");
        outcome.stdout.trim().to_owned()
    }

    /// The lock is held by a command until this is dropped.
    #[track_caller]
    pub(crate) fn hold(&self, name: &str) -> Running {
        let running = self.start_sh(name, "echo $$ > held; exec sleep 60");
        self.wait_for_file("held");
        running
    }
}

/// `run`, options and the name as words, and a script for `sh`.
pub(crate) fn run_arguments<'a>(options: &'a str, script: &'a str) -> Vec<&'a str> {
    let mut arguments = vec!["run"];
    arguments.extend(options.split_whitespace());
    arguments.extend(["--", "sh", "-c", script]);
    arguments
}

#[track_caller]
pub(crate) fn finish(command: &mut Command) -> Outcome {
    Running::start(command).outcome()
}

/// How it ended, and all it said.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) took: Duration,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { status, stdout, stderr, took, .. } = self;
        write!(f, "{status} after {took:?}\n--- stdout ---\n{stdout}\n--- stderr ---\n{stderr}")
    }
}

/// A `redsync` that runs. What it says goes to files, so that it never waits for the test to read.
pub(crate) struct Running {
    child: Option<Child>,
    output: TempDir,
    began: Instant,
}

impl Running {
    #[track_caller]
    pub(crate) fn start(command: &mut Command) -> Self {
        let output = TempDir::new().unwrap();
        let file = |name| File::create(output.path().join(name)).unwrap();
        let began = Instant::now();
        let child = command.stdout(file("stdout")).stderr(file("stderr")).spawn().unwrap();
        Self { child: Some(child), output, began }
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(self.child.as_ref().unwrap())
    }

    #[track_caller]
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    #[track_caller]
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.as_mut().unwrap().try_wait().unwrap().is_none()
    }

    pub(crate) fn stderr(&self) -> String {
        self.said("stderr")
    }

    pub(crate) fn stdout(&self) -> String {
        self.said("stdout")
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn outcome(mut self) -> Outcome {
        let deadline = Instant::now() + Duration::from_secs(120);
        let mut child = self.child.take().unwrap();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > deadline {
                let _ = child.kill();
                let _ = child.wait();
                panic!("it does not end; it said {:?} and {:?}", self.said("stdout"), self.said("stderr"));
            }
            // Looks again: a child that is not waited for blocking tells nobody of its end.
            std::thread::sleep(Duration::from_millis(2));
        };
        let took = self.began.elapsed();
        Outcome {
            code: status.code(),
            status,
            stdout: self.said("stdout"),
            stderr: self.said("stderr"),
            took,
        }
    }

    fn said(&self, stream: &str) -> String {
        fs::read_to_string(self.output.path().join(stream)).unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        // TERM first, which the command hears of too.
        let _ = kill_process(Pid::from_child(&child), Signal::TERM);
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline && child.try_wait().is_ok_and(|status| status.is_none()) {
            // Looks again, as above.
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Whether there is such a process. A zombie is none.
pub(crate) fn is_alive(pid: &str) -> bool {
    state(pid).is_some_and(|state| !['Z', 'X'].contains(&state))
}

/// Whether there is such a process, and it is stopped.
pub(crate) fn is_stopped(pid: &str) -> bool {
    state(pid) == Some('T')
}

/// The state letter of proc(5).
fn state(pid: &str) -> Option<char> {
    let stat = fs::read_to_string(Path::new("/proc").join(pid).join("stat")).ok()?;
    // The second field is the command's name in parentheses, which may hold anything.
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.trim_start().chars().next()
}

/// What is kept on a server of locks that are held or waited for: all but the counters of fences, which stay.
#[track_caller]
pub(crate) fn locks_on(server: &RedisServer) -> Vec<String> {
    let mut keys = server.keys();
    keys.retain(|key| !key.ends_with(":fence"));
    keys
}

/// The signal that ended it, if one did.
pub(crate) fn ended_by(outcome: &Outcome) -> Option<i32> {
    outcome.status.signal()
}
