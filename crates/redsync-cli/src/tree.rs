//! All that the command started and that still lives, in whatever process group or session.
//!
//! su(1), setsid(1), a shell with job control and another redsync put what they start outside the command's group. On
//! Linux, redsync is made a subreaper before the command starts: what loses its parent becomes a child of redsync. So
//! all that the command started is found below redsync. Elsewhere, or without /proc, there is only the group.

use rustix::process::{Pid, Signal, getpid, kill_process};

use crate::group::{Group, is_forbidden};
use crate::processes::{Identity, Process};

/// The command, and all that it started.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    pub(crate) group: Group,
    others: Others,
}

/// Children of this process that the command did not start: the watcher, and those of a program that became redsync.
#[derive(Clone, Debug)]
pub(crate) struct Others(Vec<Identity>);

impl Others {
    /// To be called before the command starts. From then on, what loses its parent below this process stays below it.
    pub(crate) fn before_command() -> Self {
        // Where it fails, what left the group and lost its parent is out of sight.
        #[cfg(target_os = "linux")]
        let _ = rustix::process::set_child_subreaper(Some(getpid()));
        Self(Process::all().filter(is_own_child).map(|process| process.identity()).collect())
    }

    pub(crate) const fn with_command(self, group: Group) -> Tree {
        Tree { group, others: self }
    }
}

impl Tree {
    /// Sends a signal to all that this process may signal.
    pub(crate) fn send(&self, signal: Signal) {
        // Looked for first: a member of the group that ends is no link any more to those that it started.
        let outside = self.outside();
        self.group.send(signal);
        for process in outside {
            let _ = kill_process(process.pid, signal);
        }
    }

    /// Whether nothing lives any more.
    ///
    /// A process whose parent ends while /proc is read may be missed: to be sure, ask twice.
    pub(crate) fn is_gone(&self) -> bool {
        // Zombies may stay for ever, where the process that inherits them does not reap.
        (self.group.is_empty() || self.group.living().is_empty()) && self.outside().is_empty()
    }

    /// All that live, zombies not counted.
    pub(crate) fn living(&self) -> Vec<Pid> {
        let outside = self.outside();
        self.group.living().into_iter().chain(outside.iter().map(|process| process.pid)).collect()
    }

    /// The living that this process may not signal.
    pub(crate) fn out_of_reach(&self) -> Vec<Pid> {
        let outside = self.outside().into_iter().map(|process| process.pid).filter(|pid| is_forbidden(*pid));
        self.group.out_of_reach().into_iter().chain(outside).collect()
    }

    /// The living that left the group.
    fn outside(&self) -> Vec<Process> {
        let all: Vec<Process> = Process::all().collect();
        let is_root = |process: &Process| {
            process.group == Some(self.group.leader)
                || (is_own_child(process) && !self.others.0.contains(&process.identity()))
        };
        let mut found = Process::below(&all, is_root);
        found.retain(|process| process.group != Some(self.group.leader) && !process.is_zombie());
        found
    }
}

fn is_own_child(process: &Process) -> bool {
    process.parent == Some(getpid())
}
