//! The processes of this machine, as proc(5) shows them.

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
    threads: u32,
}

impl Process {
    /// All that can be seen. None where /proc is missing, or shows another PID namespace.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        let entries = shows_this_process().then(|| fs::read_dir("/proc")).and_then(Result::ok);
        entries.into_iter().flatten().flatten().filter_map(|entry| {
            let pid = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?;
            let stat = fs::read(entry.path().join("stat")).ok()?;
            Self::parse(pid, &String::from_utf8_lossy(&stat))
        })
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
        Some(Self { pid, state, parent, group, threads })
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
        let sleeping = Process { pid: pid(42), state: 'S', parent, group, threads: 1 };
        assert_eq!(parse('S', 1), sleeping);
        assert!(!sleeping.is_zombie());
        assert!(parse('Z', 1).is_zombie());
        assert!(!parse('Z', 2).is_zombie(), "its other threads run");
        assert_eq!(Process::parse(pid(42), "42 (sh"), None);
    }

    #[test]
    fn this_process_is_seen() {
        let own = Process::all().find(|process| process.pid == getpid()).unwrap();
        assert!(own.threads >= 1 && !own.is_zombie(), "{own:?}");
    }
}
