//! The command's process group: who is in it, and whom this process may signal.
//!
//! kill(2) reports success as soon as one member got the signal. A member with other rights (setuid, sudo) shows only in
//! proc(5), or as EPERM once nobody else is left.

use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, kill_process, kill_process_group, test_kill_process, test_kill_process_group,
};

use crate::processes::Process;

/// The command, which leads the group, and all that it started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Group {
    pub(crate) leader: Pid,
}

impl Group {
    /// Sends a signal to all members that this process may signal.
    pub(crate) fn send(self, signal: Signal) {
        // It fails where nobody is left, or where this process may signal none of them: `out_of_reach`.
        let _ = kill_process_group(self.leader, signal);
    }

    /// Sends a signal to all members but the leader.
    pub(crate) fn send_to_followers(self, signal: Signal) {
        for member in self.members().filter(|member| member.pid != self.leader) {
            let _ = kill_process(member.pid, signal);
        }
    }

    /// Whether nobody is left: no process, and no zombie that waits to be reaped.
    ///
    /// EPERM means that there is somebody whom this process may not signal.
    pub(crate) fn is_empty(self) -> bool {
        test_kill_process_group(self.leader) == Err(Errno::SRCH)
    }

    /// The members that live, zombies not counted.
    pub(crate) fn living(self) -> Vec<Pid> {
        self.or_leader(self.members().map(|member| member.pid).collect(), |tested| tested != Err(Errno::SRCH))
    }

    /// The living members that this process may not signal.
    pub(crate) fn out_of_reach(self) -> Vec<Pid> {
        let pids = self.members().map(|member| member.pid).filter(|pid| is_forbidden(*pid)).collect();
        self.or_leader(pids, |tested| tested == Err(Errno::PERM))
    }

    /// The members that run on after a signal that stops, because this process may not signal them.
    pub(crate) fn not_stopped(self) -> Vec<Pid> {
        let running = self.members().filter(|member| !matches!(member.state, 'T' | 't'));
        running.map(|member| member.pid).filter(|pid| is_forbidden(*pid)).collect()
    }

    /// Where /proc shows no members (it may be missing, or hide the processes of other users), asks the kernel about
    /// the group as a whole. Its leader stands for it then.
    fn or_leader(self, pids: Vec<Pid>, is_meant: impl Fn(Result<(), Errno>) -> bool) -> Vec<Pid> {
        if pids.is_empty() && !Process::are_all_shown() && is_meant(test_kill_process_group(self.leader)) {
            vec![self.leader]
        } else {
            pids
        }
    }

    fn members(self) -> impl Iterator<Item = Process> {
        Process::all().filter(move |process| process.group == Some(self.leader) && !process.is_zombie())
    }
}

/// The command as messages name it: `the command (pid 4711)`, with the processes that are meant.
pub(crate) fn named(pids: &[Pid]) -> String {
    let numbers: Vec<String> = pids.iter().map(|pid| pid.as_raw_nonzero().to_string()).collect();
    let word = if pids.len() == 1 { "pid" } else { "pids" };
    format!("the command ({word} {})", numbers.join(", "))
}

pub(crate) fn is_forbidden(pid: Pid) -> bool {
    test_kill_process(pid) == Err(Errno::PERM)
}
