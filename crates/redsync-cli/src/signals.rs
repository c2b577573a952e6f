//! Signals as events, from before the first attempt on.

use std::fs;
use std::future::poll_fn;
use std::io;
use std::task::Poll;

use rustix::process::Signal;
use tokio::signal::unix::{self, SignalKind};

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
        let listened_to = wanted
            .map(|signal| Ok((signal, unix::signal(SignalKind::from_raw(signal.as_raw()))?)))
            .collect::<io::Result<_>>();
        listened_to
            .map(|listened_to| Self { listened_to })
            .map_err(|error| Failure::system("cannot listen to signals", &error))
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
