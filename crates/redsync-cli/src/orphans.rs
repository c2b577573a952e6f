//! Children that this process did not start: it inherits them as a container's first process, as a subreaper, or from a
//! shell that became redsync. For its command it is a subreaper (`tree`). It reaps those that end, so that they do not stay as zombies.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::pending;

use rustix::process::{Pid, WaitId, WaitIdOptions, WaitOptions, getpid, waitid, waitpid};
use tokio::signal::unix::{SignalKind, signal};

use crate::processes::Process;

/// The children that no other part of this program waits for.
pub(crate) struct Orphans {
    /// The command, whose status `child` waits for.
    spared: Cell<Option<Pid>>,
}

impl Orphans {
    pub(crate) const fn new() -> Self {
        Self { spared: Cell::new(None) }
    }

    /// Leaves this child to `child`. To be called when it has been started, before anything is awaited.
    pub(crate) fn spare(&self, command: Pid) {
        self.spared.set(Some(command));
    }

    /// Reaps each child that ends, but the one that is spared. Cancel safe.
    pub(crate) async fn reap(&self) -> Infallible {
        // Without the signal, nothing tells when to look; a command runs nevertheless.
        let Ok(mut changes) = signal(SignalKind::child()) else { return pending().await };
        loop {
            self.reap_ended();
            changes.recv().await;
        }
    }

    fn reap_ended(&self) {
        // To read all of /proc takes some milliseconds on a large machine: not when the command itself has ended.
        let is_command = |child| has_ended(WaitId::Pid(child));
        if !has_ended(WaitId::All) || self.spared.get().is_some_and(is_command) {
            return;
        }
        #[cfg(target_os = "linux")]
        if !Process::are_any_shown() {
            return self.reap_unseen();
        }
        let is_ours = |process: &Process| process.parent == Some(getpid()) && process.is_zombie();
        for child in Process::all().filter(is_ours).filter(|child| self.spared.get() != Some(child.pid)) {
            let _ = waitpid(Some(child.pid), WaitOptions::NOHANG);
        }
    }
}

#[cfg(target_os = "linux")]
impl Orphans {
    /// Without /proc, the kernel names one child that has ended, and always the same until that is reaped. Where it names
    /// the command, the others wait for `child` to reap that.
    fn reap_unseen(&self) {
        use nix::sys::wait::{Id, WaitPidFlag, waitid};
        let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        while let Some(ended) = waitid(Id::All, look).ok().and_then(|status| status.pid()) {
            let child = Pid::from_raw(ended.as_raw()).filter(|child| self.spared.get() != Some(*child));
            if child.is_none_or(|child| !matches!(waitpid(Some(child), WaitOptions::NOHANG), Ok(Some(_)))) {
                return;
            }
        }
    }
}

/// Only looks, so that the status stays.
fn has_ended(child: WaitId<'_>) -> bool {
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    matches!(waitid(child, look), Ok(Some(_)))
}
