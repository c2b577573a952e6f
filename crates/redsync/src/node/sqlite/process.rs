//! Which process waits, and whether it is gone.

#[cfg(unix)]
use rustix::process::Pid;

/// A process of this machine, so that others can find out whether it is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Process {
    pub(super) pid: i64,
    /// Whose numbers they are: a container counts its own processes. Unknown where the system does not say, and then
    /// nobody judges.
    pub(super) namespace: Option<i64>,
    /// When it began, by the kernel's count: numbers are used again. Unknown where the system does not say.
    pub(super) begun: Option<i64>,
}

impl Process {
    pub(super) fn this() -> Self {
        let pid = i64::from(std::process::id());
        Self { pid, namespace: namespace(), begun: begun_of_this(pid) }
    }

    /// Whether it is gone for certain, as far as `judge` can see. When unconfirmed, it is not.
    pub(super) fn is_gone(self, judge: Self) -> bool {
        if self == judge || self.namespace.is_none() || self.namespace != judge.namespace {
            return false;
        }
        #[cfg(unix)]
        if let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw)
            && rustix::process::test_kill_process(pid) == Err(rustix::io::Errno::SRCH)
        {
            return true;
        }
        // One whose parent has not taken note of its end can still be signalled, and so can one that has its number now.
        match (self.begun, judge.begun) {
            (Some(begun), Some(_)) => {
                Shown::of(&self.pid.to_string()).is_some_and(|shown| shown.has_ended || shown.begun != begun)
            }
            _ => false,
        }
    }
}

/// What `/proc/PID/stat` shows of a process.
struct Shown {
    pid: i64,
    begun: i64,
    has_ended: bool,
}

impl Shown {
    fn of(process: &str) -> Option<Self> {
        Self::read(&std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?)
    }

    /// `PID (NAME) STATE …`, of which the 20th is the number of threads and the 22nd the beginning. proc_pid_stat(5).
    fn read(stat: &str) -> Option<Self> {
        let pid = stat.split(' ').next()?.parse().ok()?;
        // A name may hold anything, closing brackets too.
        let (_, rest) = stat.rsplit_once(") ")?;
        let mut fields = rest.split(' ');
        let state = fields.next()?;
        let threads: u64 = fields.nth(16)?.parse().ok()?;
        let begun = fields.nth(1)?.parse().ok()?;
        // A first thread that has ended before the others is shown as ended, too.
        let has_ended = matches!(state, "Z" | "X" | "x") && threads <= 1;
        Some(Self { pid, begun, has_ended })
    }
}

/// Nothing where `/proc` shows the processes of another namespace: nobody's beginning can be looked up there.
fn begun_of_this(pid: i64) -> Option<i64> {
    Shown::of("self").filter(|shown| shown.pid == pid).map(|shown| shown.begun)
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn namespace() -> Option<i64> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self/ns/pid").ok().map(|namespace| namespace.ino().cast_signed())
}

/// Here all processes of a machine are counted together.
#[cfg(target_vendor = "apple")]
fn namespace() -> Option<i64> {
    Some(0)
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
fn namespace() -> Option<i64> {
    None
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// One that ends at once.
    fn child() -> (std::process::Child, Process) {
        let child = Command::new("sleep").arg("60").spawn().expect("sleep is everywhere");
        let pid = i64::from(child.id());
        let begun = Shown::of(&pid.to_string()).map(|shown| shown.begun);
        (child, Process { pid, begun, ..Process::this() })
    }

    #[test]
    fn whoever_runs_is_not_gone_and_whoever_was_killed_is() {
        let (mut child, process) = child();
        assert!(!process.is_gone(Process::this()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(process.is_gone(Process::this()));
    }

    #[test]
    fn one_whose_end_its_parent_has_not_noticed_is_gone() {
        let (mut child, process) = child();
        child.kill().unwrap();
        let has_ended = || process.is_gone(Process::this());
        redsync_testkit::wait_until(
            "the killed process is gone",
            std::time::Duration::from_secs(5),
            has_ended,
        );
        child.wait().unwrap();
    }

    #[test]
    fn a_number_that_another_has_now_is_that_of_one_who_is_gone() {
        let this = Process::this();
        let former = Process { begun: this.begun.map(|begun| begun - 1), ..this };
        assert!(former.is_gone(this));
        assert!(!this.is_gone(this));
    }

    #[test]
    fn processes_of_other_namespaces_are_not_judged() {
        let (this, nobody) = (Process::this(), i64::from(i32::MAX));
        let gone = Process { pid: nobody, ..this };
        assert!(gone.is_gone(this));
        assert!(!Process { namespace: this.namespace.map(|inode| inode + 1), ..gone }.is_gone(this));
        assert!(!Process { namespace: None, ..gone }.is_gone(this));
    }

    #[test]
    fn what_is_shown_is_read_whatever_the_process_is_called() {
        let stat = "7 (a) Z (b) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 3 0 4711 0 0";
        let shown = Shown::read(stat).unwrap();
        assert_eq!((shown.pid, shown.begun, shown.has_ended), (7, 4711, false));
        let first_thread_ended = stat.replace(") S ", ") Z ");
        assert!(!Shown::read(&first_thread_ended).unwrap().has_ended);
        assert!(Shown::read(&first_thread_ended.replace(" 20 0 3 ", " 20 0 1 ")).unwrap().has_ended);
        assert!(Shown::read("").is_none());
    }
}
