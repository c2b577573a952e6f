//! `lock`, `extend` and `unlock`: a lock whose holder is a line of text.

use std::io::{self, BufRead};

use redsync::{Guard, Lease};
use serde_json::{Map, Value, json};

use crate::acquire::acquire;
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
    let guard = acquire(fleet, &args.name, &args.acquire, None, signals, report).await?;
    let lease = guard.lease();
    if let Err(failure) = report.result(&lease, || Value::Object(description(&guard, &lease))) {
        // Nobody has the line, so nobody could release it.
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

/// The lease that was given, or the one in a line of stdin: as `lock` prints it, with or without `--json`.
fn read(given: &str) -> Result<Lease, Failure> {
    if given != "-" {
        return Ok(given.parse()?);
    }
    let mut line = String::new();
    let read = io::stdin().lock().read_line(&mut line);
    read.map_err(|error| Failure::usage(format!("cannot read a lease from stdin: {error}")))?;
    if line.trim().is_empty() {
        return Err(Failure::usage("there is no lease on stdin; did `redsync lock` fail?"));
    }
    if !line.trim_start().starts_with('{') {
        return Ok(line.parse()?);
    }
    let object: Value = serde_json::from_str(&line)
        .map_err(|error| Failure::usage(format!("the line on stdin is no JSON object: {error}")))?;
    match object.get("lease").and_then(Value::as_str) {
        Some(lease) => Ok(lease.parse()?),
        None => Err(Failure::usage("the JSON object on stdin has no \"lease\"")),
    }
}
