//! What a killed redsync leaves behind outside the command's group.
//!
//! While redsync lives, all that the command started is below it. After its end, what lost its parent belongs to init, like
//! many others. The watcher takes three things for a sign: it was below redsync at an earlier look, it has the lock's
//! token in its environment, or it is below one of these. What has none of them is not found: it was started with an
//! empty environment (`su -`, `env -i`) after the last look, and its parent is gone.

use std::fs;

use rustix::process::{Pid, getpid};

use crate::group::Group;
use crate::processes::{Identity, Process};

/// What the watcher knows of processes outside the command's group.
#[derive(Debug)]
pub(crate) struct Remains {
    redsync: Option<Pid>,
    /// The part of the token that no other lock's has.
    token: Vec<u8>,
    known: Vec<Identity>,
}

impl Remains {
    pub(crate) fn new(redsync: Option<Pid>, token: Option<&str>) -> Self {
        let token =
            token.and_then(|token| token.split('@').next()).filter(|token| token.len() >= SHORTEST_TOKEN);
        Self { redsync, token: token.unwrap_or_default().as_bytes().to_vec(), known: Vec::new() }
    }

    /// Looks what is below redsync now.
    pub(crate) fn look(&mut self, command: Group) {
        let all: Vec<Process> = Process::all().collect();
        // Before the command, there were other children: the watcher, and those of a program that became redsync.
        let leader = all.iter().find(|process| process.pid == command.leader);
        let Some(since) = leader.map(|leader| leader.started) else { return };
        let is_inherited = |process: &Process| process.parent == self.redsync && process.started > since;
        self.known = outside(command, &all, |process| self.redsync.is_some() && is_inherited(process));
    }

    /// What lives of it, after redsync's end.
    pub(crate) fn find(&mut self, command: Group) -> Vec<Process> {
        let all: Vec<Process> = Process::all().collect();
        let ids = outside(command, &all, |process| {
            self.known.contains(&process.identity()) || has_in_environment(process.pid, &self.token)
        });
        self.known.clone_from(&ids);
        all.into_iter().filter(|process| ids.contains(&process.identity())).collect()
    }

    /// Whether nothing lives of what was found.
    pub(crate) fn are_gone(&self) -> bool {
        let lives = |(pid, started): &Identity| {
            Process::of(*pid).is_some_and(|process| process.started == *started && !process.is_zombie())
        };
        !self.known.iter().any(lives)
    }
}

/// All that live outside the group, below it or below a root. Never this process.
fn outside(command: Group, all: &[Process], is_root: impl Fn(&Process) -> bool) -> Vec<Identity> {
    let is_member = |process: &Process| process.group == Some(command.leader);
    let found = Process::below(all, |process| is_member(process) || is_root(process));
    let left = found.iter().filter(|process| !is_member(process) && !process.is_zombie());
    left.filter(|process| process.pid != getpid()).map(Process::identity).collect()
}

fn has_in_environment(pid: Pid, token: &[u8]) -> bool {
    if token.is_empty() || pid == getpid() {
        return false;
    }
    let environment = fs::read(format!("/proc/{}/environ", pid.as_raw_nonzero())).unwrap_or_default();
    environment.windows(token.len()).any(|part| part == token)
}

/// Whether the kernel has forgotten that this process asked for a signal at the end of its parent: it does so when a
/// process changes its user or group, or gains capabilities. prctl(2), PR_SET_PDEATHSIG.
pub(crate) fn has_other_rights(pid: Pid) -> bool {
    let rights = |who: &str| {
        let status = fs::read_to_string(format!("/proc/{who}/status")).ok()?;
        let is_right = |line: &&str| ["Uid:", "Gid:", "CapPrm:"].iter().any(|key| line.starts_with(key));
        Some(status.lines().filter(is_right).map(str::to_owned).collect::<Vec<_>>())
    };
    rights(&pid.as_raw_nonzero().to_string()).is_some_and(|others| rights("self") != Some(others))
}

/// Tokens of `run` have 40 digits at least.
const SHORTEST_TOKEN: usize = 40;
