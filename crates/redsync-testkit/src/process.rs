//! One run of the server's binary: from spawn to reaped.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::directory::ServerDirectory;
use crate::wait::wait_until;
use crate::watchdog::{Notice, notify};

/// A child process known to the watchdog, killed and reaped on drop.
#[derive(Debug)]
pub(crate) struct ServerProcess {
    child: Child,
}

impl ServerProcess {
    /// Runs `command` in `directory`, where its output goes too. Its program is in Debian's `package`.
    pub(crate) fn spawn(mut command: Command, directory: &ServerDirectory, package: &str) -> Self {
        let output = File::create(directory.output())
            .and_then(|output| Ok((output.try_clone()?, output)))
            .unwrap_or_else(|error| panic!("cannot create {}: {error}", directory.output().display()));
        let child = command
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .stdout(output.0)
            .stderr(output.1)
            .spawn()
            .unwrap_or_else(|error| match error.kind() {
                ErrorKind::NotFound => panic!(
                    "there is no `{}` to run the tests against; install it with: apt-get install {package}",
                    command.get_program().display()
                ),
                _ => panic!("cannot run `{}`: {error}", command.get_program().display()),
            });
        notify(&Notice::ProcessStarted(child.id()));
        Self { child }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// How the process ended, if it has.
    pub(crate) fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap_or_else(|error| panic!("cannot wait for {}: {error}", self.id()))
    }

    /// Returns when the process is really stopped: a signal is delivered some time after it was sent.
    pub(crate) fn pause(&self) {
        self.signal(Signal::STOP);
        wait_until("the server is stopped by SIGSTOP", SIGNAL_DEADLINE, || self.state() == Some('T'));
    }

    pub(crate) fn resume(&self) {
        self.signal(Signal::CONT);
        wait_until("the server goes on after SIGCONT", SIGNAL_DEADLINE, || self.state() != Some('T'));
    }

    /// Asks the process to end, by the signal that means so to it, and waits until it has. False when it does not within
    /// the deadline.
    pub(crate) fn end_in_order(&mut self, signal: Signal) -> bool {
        self.signal(signal);
        self.signal(Signal::CONT); // A paused process gets the other only when it goes on.
        let began = Instant::now();
        while self.exit_status().is_none() {
            if began.elapsed() > SHUTDOWN_DEADLINE {
                return false;
            }
            thread::sleep(Duration::from_millis(3));
        }
        true
    }

    fn signal(&self, signal: Signal) {
        // The child is reaped only through `&mut self` methods whose callers then drop it: the pid is still ours.
        kill_process(Pid::from_child(&self.child), signal)
            .unwrap_or_else(|error| panic!("cannot send {signal:?} to {}: {error}", self.id()));
    }

    /// The state letter of proc(5): `T` is stopped.
    fn state(&self) -> Option<char> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.id())).ok()?;
        // The second field is the command's name in parentheses, which may hold anything.
        let (_, after_name) = stat.rsplit_once(')')?;
        after_name.trim_start().chars().next()
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // Neither is an error for a child that is reaped already. SIGKILL also ends a stopped process.
        let _ = self.child.kill();
        // Before the reaping: from then on the pid may be somebody else's, whom the watchdog must not kill.
        notify(&Notice::ProcessEnded(self.id()));
        let _ = self.child.wait();
    }
}

const SIGNAL_DEADLINE: Duration = Duration::from_secs(10);

/// Redis itself gives its replicas ten seconds to catch up.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(20);
