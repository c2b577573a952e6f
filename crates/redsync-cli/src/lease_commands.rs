//! `lock`, `extend` and `unlock`: a lock whose holder is a line of text.

use std::fs::{self, File};
use std::io::{self, BufRead, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use redsync::{Guard, Lease};
use rustix::fs::{OFlags, fcntl_getfl};
use serde_json::{Map, Value, json};

use crate::acquire::{Keeping, acquire};
use crate::cli::{ExtendArgs, LockArgs, UnlockArgs};
use crate::exit::Exit;
use crate::nodes::Fleet;
use crate::report::{Failure, Report, millis};
use crate::signals::Signals;

pub(crate) async fn lock(
    fleet: &Fleet,
    args: &LockArgs,
    signals: &mut Signals,
    report: &Report,
) -> Result<Exit, Failure> {
    refuse_closed_stdout()?;
    let guard = acquire(fleet, &args.name, &args.acquire, Keeping::UntilExpiry, signals, report).await?;
    // First of all: until somebody has the line, nobody can release the lock.
    let lease = guard.lease();
    if let Err(failure) = report.result(&lease, || Value::Object(description(&guard, &lease))) {
        let _ = guard.unlock().await;
        return Err(failure);
    }
    let _ = guard.into_lease();
    Ok(Exit::Success)
}

pub(crate) async fn extend(fleet: &Fleet, args: &ExtendArgs, report: &Report) -> Result<Exit, Failure> {
    let lease = read(&args.lease)?;
    let mutex = fleet.mutex(lease.name().as_str(), args.expiry.unwrap_or(lease.expiry()));
    let guard = mutex.adopt(&lease).await?;
    let lease = guard.lease();
    let mut description = description(&guard, &lease);
    // The lock was held before, and goes on to be, whether or not the line can be written.
    let _ = guard.into_lease();
    description.insert("outcome".into(), json!("extended"));
    report.result(&lease, || Value::Object(description))?;
    Ok(Exit::Success)
}

pub(crate) async fn unlock(fleet: &Fleet, args: &UnlockArgs, report: &Report) -> Result<Exit, Failure> {
    let lease = read(&args.lease)?;
    // The expiry bounds how long a node may take to answer, and how long the release is tried.
    let mutex = fleet.mutex(lease.name().as_str(), lease.expiry()).barging(args.release.barging);
    mutex.release(&lease).await?;
    if report.json {
        report.result("", || json!({ "name": lease.name().as_str(), "outcome": "released" }))?;
    }
    Ok(Exit::Success)
}

fn description(guard: &Guard, lease: &Lease) -> Map<String, Value> {
    let members = [
        ("lease", json!(lease.to_string())),
        ("name", json!(lease.name().as_str())),
        ("token", json!(lease.token().as_str())),
        ("fence", json!(lease.fence())),
        ("expiry_ms", millis(lease.expiry())),
        ("valid_for_ms", millis(guard.remaining())),
    ];
    members.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// Fails where stdout was closed when this process started, because the lease would be lost and the lock would stay taken
/// until its expiry.
///
/// The Rust runtime has opened `/dev/null` in place of a closed stdout, for reading and writing. A shell's `> /dev/null`
/// opens it for writing only, and is allowed: scripts hold a lock until its expiry that way.
fn refuse_closed_stdout() -> Result<(), Failure> {
    let stdout = io::stdout();
    let is_null = || {
        let null = fs::metadata("/dev/null")?;
        let device = File::from(stdout.as_fd().try_clone_to_owned()?).metadata()?;
        io::Result::Ok(device.file_type().is_char_device() && device.rdev() == null.rdev())
    };
    let is_read = fcntl_getfl(&stdout).is_ok_and(|flags| flags.contains(OFlags::RDWR));
    if is_read && is_null().unwrap_or(false) {
        return Err(Failure::new(
            Exit::Failure,
            "output",
            "stdout is closed, so the lease would be lost; the lock was not taken (to hold a lock until its expiry and \
             throw the lease away, write `> /dev/null`)",
        ));
    }
    Ok(())
}

/// The lease that was given, or the one in a line of stdin: as `lock` prints it, with or without `--json`.
fn read(given: &str) -> Result<Lease, Failure> {
    if given.trim().is_empty() {
        return Err(Failure::usage(
            "the lease is empty; did `redsync lock` fail? `redsync lock --help` shows how a script checks it",
        ));
    }
    if given != "-" {
        return Ok(given.parse()?);
    }
    let mut line = String::new();
    let read = io::stdin().lock().take(LONGEST_LINE + 1).read_line(&mut line);
    let length = read.map_err(|error| Failure::usage(format!("cannot read a lease from stdin: {error}")))?;
    if length as u64 > LONGEST_LINE {
        return Err(Failure::usage(format!(
            "the line on stdin is longer than {} KiB and so is no lease; give the line that `redsync lock` printed",
            LONGEST_LINE / 1024
        )));
    }
    lease_in(&line)
}

/// The lease in a line, of either form.
pub(crate) fn lease_in(line: &str) -> Result<Lease, Failure> {
    if line.trim().is_empty() {
        return Err(Failure::usage("there is no lease on stdin; did `redsync lock` fail?"));
    }
    if !line.trim_start().starts_with('{') {
        return Ok(line.parse()?);
    }
    let object: Value = serde_json::from_str(line)
        .map_err(|error| Failure::usage(format!("the line on stdin is no JSON object: {error}")))?;
    match object.get("lease").and_then(Value::as_str) {
        Some(lease) => Ok(lease.parse()?),
        None => Err(Failure::usage("the JSON object on stdin has no \"lease\"")),
    }
}

/// In bytes. The longest name and token, percent-encoded, and what JSON adds, have less than a fifth of it.
const LONGEST_LINE: u64 = 64 * 1024;
