//! Job control: the command stops and goes on together with this process, without which nobody extends its lock.

use std::future::Future;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, getpgrp, getpid, kill_process, kill_process_group, waitid,
};
use tokio::time::sleep;

use crate::group::{Group, named};
use crate::report::Report;
use crate::signals::{JobSignal, JobSignals};
use crate::terminal::Terminal;

/// A running command as one job with this process.
pub(crate) struct Job {
    command: Group,
    signals: JobSignals,
    terminal: Option<Terminal>,
    /// The last signal that was sent on to the command.
    forwarded: Option<Signal>,
    report: Report,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// This process was asked to stop, or the command has been stopped at its terminal: [`Job::stop`].
    Stop,
    /// This process was continued, after whatever time, and the command is to be: [`Job::go_on`].
    GoOn,
}

impl Job {
    /// Begins with a command that has just been started, and lets it have the terminal if it is to.
    pub(crate) fn new(command: Group, signals: JobSignals, report: Report) -> Self {
        Self { command, signals, terminal: Terminal::open(command.leader), forwarded: None, report }
    }

    /// Sends on a signal that came to us. Says so where the command may not be signalled, or a part of it.
    pub(crate) fn forward(&mut self, signal: Signal) {
        let out_of_reach = self.command.out_of_reach();
        self.command.send(signal);
        self.forwarded = Some(signal);
        if !out_of_reach.is_empty() {
            let (name, command) = (name(signal), named(&out_of_reach));
            let message = format!("{name} was not sent on to {command}: not permitted to signal it");
            self.report.warning("not_forwarded", &message);
        }
    }

    /// What is to be done next. Cancel safe.
    pub(crate) async fn next(&mut self) -> Turn {
        loop {
            // Without a terminal, there is no shell that waits for this job to stop.
            if let (Some(terminal), State::Stopped(by)) = (&mut self.terminal, state(self.command.leader)) {
                let asks_for_it = [Signal::TTIN, Signal::TTOU].contains(&by);
                if !(asks_for_it && terminal.lend()) {
                    return Turn::Stop;
                }
                self.command.send(Signal::CONT);
            }
            match self.signals.next().await {
                JobSignal::AskedToStop => return Turn::Stop,
                JobSignal::Continued => return Turn::GoOn,
                JobSignal::CommandChanged => {}
            }
        }
    }

    /// Stops the command, and with it this process. Completes when this process is continued, with the command still
    /// stopped. A command that would rather tidy up first has until `patience` completes, and no longer than a moment.
    pub(crate) async fn stop(&mut self, patience: impl Future<Output = ()>) {
        let has_stopped_by_itself = matches!(state(self.command.leader), State::Stopped(_));
        if !has_stopped_by_itself {
            self.command.send(Signal::TSTP);
            tokio::select! {
                biased;
                () = self.command_stopped() => {}
                () = patience => {}
                () = sleep(TIDYING) => {}
            }
        }
        // Whoever is left that caught TSTP or ignores it would go on without the lock.
        self.command.send(Signal::STOP);
        if state(self.command.leader) == State::Ended {
            return;
        }
        let mut not_stopped = self.command.not_stopped();
        if !not_stopped.is_empty() && has_stopped_by_itself {
            // The terminal stopped it too, which may take a moment.
            sleep(TIDYING).await;
            not_stopped = self.command.not_stopped();
        }
        if !not_stopped.is_empty() {
            // It would go on while nobody renews its lock. The caller continues those that did stop.
            let message =
                format!("not stopped, since {} goes on: not permitted to signal it", named(&not_stopped));
            self.report.warning("not_stopped", &message);
            return self.signals.forget_stop().await;
        }
        if let Some(terminal) = &self.terminal {
            terminal.take_back();
        }
        if has_stopped_by_itself {
            // The terminal stopped the group in its foreground, which is the command's. The shell waits for ours, and
            // perhaps for a script in it that waits for us.
            let _ = kill_process_group(getpgrp(), Signal::TSTP);
        }
        // Unless it was continued meanwhile.
        if !self.signals.continued(Duration::ZERO).await {
            // Not STOP: like TSTP, which we listen to, and unlike STOP, TTIN does not stop a process that nobody
            // would continue, in an orphaned group or as a container's first. Then it goes on at once.
            let _ = kill_process(getpid(), Signal::TTIN);
            self.signals.continued(NOT_STOPPED).await;
        }
        self.signals.forget_stop().await;
    }

    /// Lets the command go on, at the terminal if it was there.
    pub(crate) fn go_on(&mut self) {
        if let Some(terminal) = &mut self.terminal {
            terminal.lend_again();
        }
        self.command.send(Signal::CONT);
    }

    /// The command has ended, and its terminal is ours again.
    pub(crate) fn ended(self, status: ExitStatus) {
        let Some(terminal) = &self.terminal else { return };
        let key = status
            .signal()
            .and_then(|signal| [Signal::INT, Signal::QUIT].into_iter().find(|key| key.as_raw() == signal));
        let Some(key) = key.filter(|key| self.forwarded != Some(*key)) else { return };
        if terminal.take_back() {
            // The key that ended the command was meant for the whole job: a script in our group would else go on.
            let _ = kill_process_group(getpgrp(), key);
        }
    }

    async fn command_stopped(&mut self) {
        while state(self.command.leader) == State::Running {
            self.signals.command_changed().await;
        }
    }
}

/// The name of a signal that is sent on.
fn name(signal: Signal) -> String {
    let known = [
        (Signal::INT, "SIGINT"),
        (Signal::TERM, "SIGTERM"),
        (Signal::HUP, "SIGHUP"),
        (Signal::QUIT, "SIGQUIT"),
        (Signal::USR1, "SIGUSR1"),
        (Signal::USR2, "SIGUSR2"),
    ];
    let name = known.iter().find(|(known, _)| *known == signal).map(|(_, name)| (*name).to_owned());
    name.unwrap_or_else(|| format!("signal {}", signal.as_raw()))
}

/// How a child stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Running,
    /// By this signal.
    Stopped(Signal),
    Ended,
}

/// Only looks, so that it can be asked again and the child still has to be reaped.
fn state(child: Pid) -> State {
    let look = WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    match waitid(WaitId::Pid(child), look) {
        Ok(None) => State::Running,
        Ok(Some(status)) => match status.stopping_signal() {
            Some(signal) => State::Stopped(Signal::from_named_raw(signal).unwrap_or(Signal::STOP)),
            None => State::Ended,
        },
        Err(_) => State::Ended,
    }
}

/// How long a command has to stop by itself, as an editor does after it has put the screen in order.
const TIDYING: Duration = Duration::from_millis(100);

/// After what time this process was not stopped by a signal that should have stopped it.
const NOT_STOPPED: Duration = Duration::from_millis(100);
