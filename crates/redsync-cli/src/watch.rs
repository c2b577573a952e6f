//! The process that ends what a redsync leaves behind that was killed by SIGKILL.
//!
//! The kernel tells the command that redsync is gone (`exec`), but nothing that the command started. So `run` starts this
//! program once more, before the command. The watcher holds the reading end of a pipe. redsync writes the command's group,
//! and then, after each renewal, by when nothing of the command may be left. When redsync ends in whatever way, the pipe is closed: the watcher signals the command's
//! group, and kills it in time.
//!
//! What left the group is not below the watcher, and is no longer below redsync then. `remains` finds it.

use std::cell::Cell;
use std::env;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::{self, SigSet};
use redsync::{Clock, Instant, SystemClock, Token};
use rustix::process::{Pid, Signal, getpid, kill_process};

use crate::exit::Exit;
use crate::group::Group;
use crate::nesting::TOKEN;
use crate::processes::Process;
use crate::remains::{Remains, has_other_rights};
use crate::report::Report;

/// The watcher, as redsync has it. Dropped without [`dismiss`](Self::dismiss), it ends the command.
pub(crate) struct Watcher {
    pipe: Option<ChildStdin>,
    told: Cell<Option<Instant>>,
}

impl Watcher {
    /// Starts a watcher. On Linux; elsewhere, nobody watches.
    ///
    /// To be called before the command starts: between its start and [`watch`](Self::watch) nobody watches over it.
    pub(crate) fn start(token: &Token, report: &Report) -> Self {
        if !cfg!(target_os = "linux") {
            return Self::none();
        }
        let started = this_program().ok_or_else(|| io::ErrorKind::NotFound.into());
        let pipe = started.and_then(|program| Self::spawn(&program, token));
        if let Err(error) = &pipe {
            let message = format!(
                "cannot watch over the command ({error}): if redsync is killed by SIGKILL, what the command started goes on"
            );
            report.note("not_watched", &message);
        }
        Self { pipe: pipe.ok(), told: Cell::new(None) }
    }

    /// Nobody watches.
    pub(crate) const fn none() -> Self {
        Self { pipe: None, told: Cell::new(None) }
    }

    /// Nobody waits for it by name: `orphans` reaps it if it ends before redsync does.
    fn spawn(program: &Path, token: &Token) -> io::Result<ChildStdin> {
        let mut watcher = Command::new(program)
            .arg0("redsync")
            .arg(WORD)
            .arg(getpid().as_raw_nonzero().to_string())
            .env_clear()
            .env(TOKEN, token.as_str())
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Signals for redsync's group, from a terminal or by `kill -9 -GROUP`, are not for the watcher.
            .process_group(0)
            .spawn()?;
        let pipe = watcher.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
        // A watcher that is stopped must not stop redsync.
        rustix::io::ioctl_fionbio(&pipe, true)?;
        Ok(pipe)
    }

    /// Has the command watched, which leads this group.
    pub(crate) fn watch(&self, command: Group) {
        self.write(u64::from(command.leader.as_raw_nonzero().get().unsigned_abs()));
    }

    /// Tells by when nothing of the command may be left if redsync is gone.
    pub(crate) fn tell(&self, deadline: Instant) {
        if self.told.replace(Some(deadline)) != Some(deadline) {
            self.write(deadline.as_nanos());
        }
    }

    /// The command has ended, or goes on with our leave. The watcher does nothing more.
    pub(crate) fn dismiss(&self) {
        self.write(DISMISSED);
    }

    fn write(&self, word: u64) {
        if let Some(mut pipe) = self.pipe.as_ref() {
            // It fails where the watcher is gone, or has not read for hours: there is nobody to tell.
            let _ = pipe.write_all(&word.to_le_bytes());
        }
    }
}

/// What makes this program a watcher; as hidden as the word of `exec`.
const WORD: &str = "__watch";

/// In place of a deadline.
const DISMISSED: u64 = u64::MAX;

/// The watcher itself.
#[derive(Debug)]
pub(crate) struct Watching;

impl Watching {
    /// `None` where this program was started to be itself.
    pub(crate) fn asked_for() -> Option<Self> {
        (env::args_os().nth(1)? == WORD).then_some(Self)
    }

    /// Waits until redsync is gone, and ends what is left of its command.
    pub(crate) fn begin(self) -> Exit {
        // Who ends redsync by its name, or a whole session, means no watcher: it goes when redsync does.
        let _ = spared().thread_block();
        // Else `ps -e` and the like show the name of the link that it was started by.
        #[cfg(target_os = "linux")]
        let _ = rustix::thread::set_name(c"redsync-watch");
        let redsync = env::args().nth(2).and_then(|pid| Pid::from_raw(pid.parse().ok()?));
        let mut remains = Remains::new(redsync, env::var(TOKEN).ok().as_deref());
        let left = left_behind(&mut io::stdin().lock(), |command| remains.look(command));
        if let Some((command, deadline)) = left {
            end(command, &mut remains, deadline);
        }
        Exit::Success
    }
}

fn spared() -> SigSet {
    use signal::Signal::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGUSR1, SIGUSR2};
    [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGUSR1, SIGUSR2].into_iter().collect()
}

/// The command that redsync left behind, and the deadline that it wrote last. `None` where the watcher was dismissed, or
/// no command had begun. Without a deadline, nothing is known, and there is no time.
///
/// `look` is called with the command's group after each word but the first.
fn left_behind(pipe: &mut impl Read, mut look: impl FnMut(Group)) -> Option<(Group, Instant)> {
    let group = i32::try_from(read_word(pipe)?).ok()?;
    // kill(2) takes the group 1 for all processes.
    let leader = Pid::from_raw(group).filter(|leader| !leader.is_init())?;
    let mut deadline = 0;
    while let Some(word) = read_word(pipe) {
        deadline = word;
        if deadline == DISMISSED {
            return None;
        }
        look(Group { leader });
    }
    Some((Group { leader }, Instant::from_nanos(deadline)))
}

fn read_word(pipe: &mut impl Read) -> Option<u64> {
    let mut word = [0; size_of::<u64>()];
    pipe.read_exact(&mut word).ok()?;
    Some(u64::from_le_bytes(word))
}

/// SIGTERM, and SIGKILL at the deadline to what is left.
fn end(command: Group, remains: &mut Remains, deadline: Instant) {
    if SystemClock.now() < deadline {
        let outside = remains.find(command);
        // The leader has SIGTERM from the kernel, and some programs take a second one for an order to be quick. But the
        // kernel forgets to send it when a process gets other rights.
        if has_other_rights(command.leader) {
            command.send(Signal::TERM);
        } else {
            command.send_to_followers(Signal::TERM);
        }
        send(&outside, Signal::TERM);
        command.send(Signal::CONT);
        send(&outside, Signal::CONT);
        while SystemClock.now() < deadline && !(command.is_empty() && remains.are_gone()) {
            sleep(POLL);
        }
    }
    // Where the deadline is over, another may hold the lock already. What is stopped must not go on first.
    for _ in 0..KILLS {
        // Looked for first: a process that ends is no link any more to those that it started.
        let outside = remains.find(command);
        command.send(Signal::KILL);
        send(&outside, Signal::KILL);
        if outside.is_empty() {
            return;
        }
        sleep(POLL);
    }
}

fn send(processes: &[Process], signal: Signal) {
    for process in processes {
        let _ = kill_process(process.pid, signal);
    }
}

/// How often SIGKILL is sent while there is somebody to send it to. What is being started at that moment is found by the
/// next look; and a process that waits for a disk, or may not be signalled, is not gone soon.
const KILLS: usize = 20;

/// Groups have no event for their end.
const POLL: Duration = Duration::from_millis(5);

/// This program's file. By its link in proc(5), it is found even if it was replaced or deleted meanwhile. `None` where
/// nothing says where it is, as in a chroot without /proc.
pub(crate) fn this_program() -> Option<PathBuf> {
    let link = Path::new("/proc/self/exe");
    if link.exists() { Some(link.to_owned()) } else { env::current_exe().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_deadline_counts_unless_the_watcher_was_dismissed() {
        let read = |words: &[u64], rest: &[u8]| {
            let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            bytes.extend(rest);
            left_behind(&mut bytes.as_slice(), |_| {})
                .map(|(group, deadline)| (group.leader.as_raw_nonzero().get(), deadline))
        };
        let at = Instant::from_nanos;
        assert_eq!(read(&[42, 5, 9], &[]), Some((42, at(9))));
        assert_eq!(read(&[42, 5, 9], &[1, 2, 3]), Some((42, at(9))), "half a word is none");
        assert_eq!(read(&[42], &[]), Some((42, at(0))));
        assert_eq!(read(&[42, 5, DISMISSED], &[]), None);
        assert_eq!(read(&[DISMISSED], &[]), None);
        for no_group in [0, 1, u64::from(u32::MAX)] {
            assert_eq!(read(&[no_group, 5], &[]), None);
        }
        assert_eq!(read(&[], &[]), None);
    }
}
