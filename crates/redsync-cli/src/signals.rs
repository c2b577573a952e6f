//! Signals as events, from before the first attempt on.

use std::fs;
use std::future::{Future, pending, poll_fn};
use std::task::Poll;
use std::time::Duration;

use rustix::process::Signal;
use tokio::signal::unix::{self, SignalKind};
use tokio::time::timeout;

use crate::exit::Exit;
use crate::report::Failure;

/// The signals that end a wait, and that a running command is sent on. While one of these is listened to, they do
/// not end this process.
pub(crate) struct Signals {
    listened_to: Vec<(Signal, unix::Signal)>,
}

impl Signals {
    const ALL: [Signal; 6] =
        [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT, Signal::USR1, Signal::USR2];

    /// Listens from now on.
    ///
    /// A signal that was ignored when this process started is left ignored, and so the command inherits it: that is
    /// what `nohup` asks for, and what a script's shell does with INT and QUIT for everything after which it puts `&`.
    pub(crate) fn listen() -> Result<Self, Failure> {
        let ignored = ignored();
        let wanted = Self::ALL.into_iter().filter(|signal| !ignored.contains(*signal));
        let listened_to =
            wanted.map(|signal| Ok((signal, stream(signal)?))).collect::<Result<_, Failure>>()?;
        Ok(Self { listened_to })
    }

    /// The next signal. Cancel safe: none is lost.
    pub(crate) async fn next(&mut self) -> Signal {
        poll_fn(|context| {
            for (signal, stream) in &mut self.listened_to {
                if stream.poll_recv(context).is_ready() {
                    return Poll::Ready(*signal);
                }
            }
            Poll::Pending
        })
        .await
    }

    /// What comes of `work`, unless a signal comes first: that ends the wait for it at once.
    pub(crate) async fn unless_one_comes<T>(
        &mut self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        tokio::select! {
            biased;
            signal = self.next() => Err(Failure::silent(Exit::Signal(signal))),
            outcome = work => outcome,
        }
    }
}

/// The signals by which a command and its keeper stop and go on. Listened to only while a command runs: what stops
/// this process while it waits for the lock, stops nothing else.
pub(crate) struct JobSignals {
    /// TSTP. `None` where it was ignored from the start.
    asked_to_stop: Option<unix::Signal>,
    /// CONT.
    continued: unix::Signal,
    /// CHLD: the command stopped, went on or ended.
    command_changed: unix::Signal,
}

impl JobSignals {
    /// Listens from now on, which is before the command starts.
    pub(crate) fn listen() -> Result<Self, Failure> {
        let is_stop_ignored = ignored().contains(Signal::TSTP);
        Ok(Self {
            asked_to_stop: if is_stop_ignored { None } else { Some(stream(Signal::TSTP)?) },
            continued: stream(Signal::CONT)?,
            command_changed: stream(Signal::CHILD)?,
        })
    }

    /// The next of them. Cancel safe: none is lost.
    pub(crate) async fn next(&mut self) -> JobSignal {
        tokio::select! {
            biased;
            () = next_or_never(self.asked_to_stop.as_mut()) => JobSignal::AskedToStop,
            _ = self.continued.recv() => JobSignal::Continued,
            _ = self.command_changed.recv() => JobSignal::CommandChanged,
        }
    }

    /// The next time that the command stopped, went on or ended. Cancel safe.
    pub(crate) async fn command_changed(&mut self) {
        self.command_changed.recv().await;
    }

    /// Whether CONT came, or comes before `within` has passed.
    pub(crate) async fn continued(&mut self, within: Duration) -> bool {
        timeout(within, self.continued.recv()).await.is_ok()
    }

    /// Forgets that this process was asked to stop: it has been.
    pub(crate) async fn forget_stop(&mut self) {
        let _ = timeout(Duration::ZERO, next_or_never(self.asked_to_stop.as_mut())).await;
    }
}

/// What came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum JobSignal {
    AskedToStop,
    Continued,
    CommandChanged,
}

async fn next_or_never(stream: Option<&mut unix::Signal>) {
    match stream {
        Some(stream) => drop(stream.recv().await),
        None => pending().await,
    }
}

fn stream(signal: Signal) -> Result<unix::Signal, Failure> {
    let stream = unix::signal(SignalKind::from_raw(signal.as_raw()));
    stream.map_err(|error| Failure::system("cannot listen to signals", &error))
}

/// A set of signals as the kernel shows it: bit S - 1 stands for signal S.
struct SignalSet(u64);

impl SignalSet {
    fn contains(&self, signal: Signal) -> bool {
        self.0 >> (signal.as_raw() - 1) & 1 == 1
    }
}

/// What this process ignores. proc_pid_status(5), `SigIgn`; where there is no such file, nothing is assumed.
fn ignored() -> SignalSet {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    SignalSet(mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0))
}
