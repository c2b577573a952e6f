//! The processes of this machine, as proc(5) shows them.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use rustix::process::{Pid, getpid};

/// A process, as it was when it was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: Pid,
    pub(crate) state: char,
    /// `None` where the parent is in another PID namespace.
    pub(crate) parent: Option<Pid>,
    pub(crate) group: Option<Pid>,
    /// In clock ticks since the machine's start. With the number, it tells processes apart whose number is the same.
    pub(crate) started: u64,
    threads: u32,
}

/// A process, whoever gets its number later.
pub(crate) type Identity = (Pid, u64);

impl Process {
    /// All that can be seen. None where /proc is missing, or shows another PID namespace.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        let entries = shows_this_process().then(|| fs::read_dir("/proc")).and_then(Result::ok);
        entries
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| Self::of(Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?))
    }

    /// `None` where there is no such process, or it cannot be seen.
    pub(crate) fn of(pid: Pid) -> Option<Self> {
        let stat = fs::read(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
        Self::parse(pid, &String::from_utf8_lossy(&stat))
    }

    /// The processes among `all` of which `is_root` is true, and all below them.
    pub(crate) fn below(all: &[Self], is_root: impl Fn(&Self) -> bool) -> Vec<Self> {
        let mut found: Vec<Self> = all.iter().filter(|process| is_root(process)).copied().collect();
        let mut seen: HashSet<Pid> = found.iter().map(|process| process.pid).collect();
        let mut next = 0;
        while let Some(parent) = found.get(next).copied() {
            let children = all.iter().filter(|process| process.parent == Some(parent.pid));
            found.extend(children.filter(|child| seen.insert(child.pid)));
            next += 1;
        }
        found
    }

    pub(crate) fn identity(&self) -> Identity {
        (self.pid, self.started)
    }

    /// Whether `all` shows any process.
    pub(crate) fn are_any_shown() -> bool {
        shows_this_process()
    }

    /// Whether `all` shows the processes of all users. /proc may be mounted with `hidepid`.
    pub(crate) fn are_all_shown() -> bool {
        shows_this_process() && fs::exists("/proc/1/stat").unwrap_or(false)
    }

    /// Whether it has ended, and waits to be reaped.
    pub(crate) fn is_zombie(&self) -> bool {
        // Where only the first thread has ended, the process lives on and is shown as a zombie.
        matches!(self.state, 'X' | 'x') || (self.state == 'Z' && self.threads <= 1)
    }

    /// proc_pid_stat(5).
    fn parse(pid: Pid, stat: &str) -> Option<Self> {
        // The second field is the program's name in parentheses, which may hold anything.
        let (_, after_name) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = after_name.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3).copied();
        let state = field(3)?.chars().next()?;
        let parent = Pid::from_raw(field(4)?.parse().ok()?);
        let group = Pid::from_raw(field(5)?.parse().ok()?);
        let threads = field(20)?.parse().ok()?;
        let started = field(22)?.parse().ok()?;
        Some(Self { pid, state, parent, group, started, threads })
    }
}

fn shows_this_process() -> bool {
    let own = getpid().as_raw_nonzero().to_string();
    fs::read_link("/proc/self").is_ok_and(|link| link == Path::new(&own))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_its_name_holds() {
        let pid = |number| Pid::from_raw(number).unwrap();
        let parse = |state: char, threads: u32| {
            let stat = format!(
                "42 (a) S 1) {state} 7 40 39 0 -1 4194304 0 0 0 0 0 0 0 0 20 0 {threads} 0 1234 0 0\n"
            );
            Process::parse(pid(42), &stat).unwrap()
        };
        let (parent, group) = (Some(pid(7)), Some(pid(40)));
        let sleeping = Process { pid: pid(42), state: 'S', parent, group, started: 1234, threads: 1 };
        assert_eq!(parse('S', 1), sleeping);
        assert!(!sleeping.is_zombie());
        assert!(parse('Z', 1).is_zombie());
        assert!(!parse('Z', 2).is_zombie(), "its other threads run");
        assert_eq!(Process::parse(pid(42), "42 (sh"), None);
    }

    #[test]
    fn what_is_below_is_found_at_any_depth_and_in_any_order() {
        let process = |(number, parent)| Process {
            pid: Pid::from_raw(number).unwrap(),
            state: 'S',
            parent: Pid::from_raw(parent),
            group: None,
            started: 0,
            threads: 1,
        };
        let all = [(9, 8), (8, 7), (7, 1), (6, 1), (5, 6), (4, 7)].map(process);
        let below = Process::below(&all, |process| process.pid.as_raw_nonzero().get() == 7);
        let mut numbers: Vec<i32> = below.iter().map(|process| process.pid.as_raw_nonzero().get()).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, [4, 7, 8, 9]);
    }

    #[test]
    fn this_process_is_seen() {
        let own = Process::all().find(|process| process.pid == getpid()).unwrap();
        assert!(own.threads >= 1 && !own.is_zombie(), "{own:?}");
    }
}
