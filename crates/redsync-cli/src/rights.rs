//! A command that runs with the rights of another user: kill(2) may refuse to signal it.

use std::ffi::{OsStr, OsString};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::{env, fs};

use rustix::process::geteuid;

use crate::report::Report;

/// Notes, before the command starts, that redsync may not be permitted to end it.
///
/// That can be known of the command's own file (setuid), as of sudo(8); not of what it starts.
pub(crate) fn note(command: &[OsString], report: &Report) {
    let Some(program) = command.first() else { return };
    if let Some(owner) = foreign_owner(program) {
        let user = if owner == 0 { "root".to_owned() } else { format!("user {owner}") };
        report.note(
            "other_rights",
            &format!(
                "command {program:?} runs with the rights of {user} (its file is setuid): redsync may not be permitted to end it when the lock is lost; start redsync itself as {user} instead"
            ),
        );
    }
}

/// The user that the program becomes, unless this process may signal that user's processes.
fn foreign_owner(program: &OsStr) -> Option<u32> {
    let user = geteuid();
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    if user.is_root() || may_signal_all(&status) || is_setuid_ignored(&status) {
        return None;
    }
    let file = fs::metadata(found(program)?).ok()?;
    let is_setuid = file.mode() & 0o4000 != 0;
    (is_setuid && file.uid() != user.as_raw()).then(|| file.uid())
}

/// Where execvp(3) finds the program.
fn found(program: &OsStr) -> Option<PathBuf> {
    if program.as_encoded_bytes().contains(&b'/') {
        return Some(Path::new(program).to_owned());
    }
    let is_program =
        |path: &PathBuf| fs::metadata(path).is_ok_and(|file| file.is_file() && file.mode() & 0o111 != 0);
    env::split_paths(&env::var_os("PATH")?).map(|directory| directory.join(program)).find(is_program)
}

/// CAP_KILL is effective. proc_pid_status(5).
fn may_signal_all(status: &str) -> bool {
    const CAP_KILL: u32 = 5;
    let effective = value(status, "CapEff:").and_then(|mask| u64::from_str_radix(mask, 16).ok());
    effective.is_some_and(|mask| mask >> CAP_KILL & 1 == 1)
}

/// This process and its children gain no rights from files: PR_SET_NO_NEW_PRIVS, as in many containers.
fn is_setuid_ignored(status: &str) -> bool {
    value(status, "NoNewPrivs:") == Some("1")
}

fn value<'a>(status: &'a str, key: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(key)).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_are_read_from_the_status() {
        let status = |capabilities: &str, no_new: &str| {
            format!("Name:\tredsync\nCapEff:\t{capabilities}\nNoNewPrivs:\t{no_new}\n")
        };
        assert!(may_signal_all(&status("0000000000000020", "0")));
        assert!(!may_signal_all(&status("000001ffffffffdf", "0")));
        assert!(!may_signal_all(""));
        assert!(is_setuid_ignored(&status("0000000000000000", "1")));
        assert!(!is_setuid_ignored(&status("0000000000000000", "0")));
    }
}
