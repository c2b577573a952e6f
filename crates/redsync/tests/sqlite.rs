//! The embedded store: many processes on one file, kill -9 at any moment, and files that are not what they should be.

mod support;

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use redsync::{Error, ErrorKind, Node, Redsync, SqliteNode};
use rusqlite::Connection;
use support::assert_contains;
use tempfile::TempDir;

fn directory() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn over(path: impl AsRef<Path>) -> Redsync {
    Redsync::new([Arc::new(SqliteNode::new(path)) as Arc<dyn Node>]).expect("one node")
}

async fn failure(redsync: &Redsync) -> Error {
    redsync
        .mutex("name")
        .expiry(Duration::from_secs(60))
        .try_lock()
        .await
        .expect_err("the store cannot be used")
}

#[tokio::test]
async fn two_nodes_on_one_file_are_one_store() {
    let directory = directory();
    let path = directory.path().join("locks.db");
    let (ours, theirs) = (over(&path), over(&path));

    let guard = ours.mutex("name").lock().await.unwrap();

    assert!(theirs.mutex("name").try_lock().await.unwrap().is_none());
    guard.unlock().await.unwrap();
    theirs.mutex("name").try_lock().await.unwrap().expect("it is free").unlock().await.unwrap();
}

#[tokio::test]
async fn one_file_listed_by_two_names_is_refused() {
    let directory = directory();
    let path = directory.path().join("locks.db");
    let link = directory.path().join("link");
    std::os::unix::fs::symlink(directory.path(), &link).unwrap();
    let url = |path: &Path| format!("sqlite://{}", path.display());

    let error = Redsync::connect([url(&path), url(&link.join("locks.db"))]).await.unwrap_err();

    assert!(matches!(error, Error::DuplicateNode { .. }), "{error}");
}

#[tokio::test]
async fn a_reboot_voids_all_leases() {
    let directory = directory();
    let path = directory.path().join("locks.db");
    let redsync = over(&path);
    let _lease = redsync.mutex("name").lock().await.unwrap().into_lease();
    let file = Connection::open(&path).unwrap();

    file.execute("UPDATE redsync_leases SET boot = 'an earlier one'", []).unwrap();

    // By a node that has the file open, so that it is not the sweeping at its opening that tells.
    redsync.mutex("name").try_lock().await.unwrap().expect("its holder is gone").unlock().await.unwrap();
}

#[tokio::test]
async fn a_lease_from_the_future_is_one_from_before_a_reboot() {
    let directory = directory();
    let path = directory.path().join("locks.db");
    let _lease = over(&path).mutex("name").lock().await.unwrap().into_lease();
    let file = Connection::open(&path).unwrap();

    let day = 86_400_000_000_000_i64;
    file.execute("UPDATE redsync_leases SET granted = granted + ?1, ends = ends + ?1", [day]).unwrap();

    over(&path).mutex("name").try_lock().await.unwrap().expect("its holder is gone").unlock().await.unwrap();
}

#[tokio::test]
async fn leases_that_ran_out_are_swept_up_when_the_file_is_opened() {
    let directory = directory();
    let path = directory.path().join("locks.db");
    let _lease = over(&path).mutex("old").lock().await.unwrap().into_lease();
    let file = Connection::open(&path).unwrap();
    file.execute("UPDATE redsync_leases SET ends = granted", []).unwrap();

    over(&path).mutex("new").lock().await.unwrap().unlock().await.unwrap();

    let left: i64 = file.query_row("SELECT count(*) FROM redsync_leases", [], |row| row.get(0)).unwrap();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn processes_agree_again_when_the_file_was_deleted() {
    let directory = directory();
    let path = directory.path().join("locks.db");
    let (ours, theirs) = (over(&path), over(&path));
    ours.mutex("name").lock().await.unwrap().unlock().await.unwrap();
    theirs.mutex("name").lock().await.unwrap().unlock().await.unwrap();

    for file in std::fs::read_dir(directory.path()).unwrap() {
        std::fs::remove_file(file.unwrap().path()).unwrap();
    }

    let guard = ours.mutex("name").lock().await.unwrap();
    assert!(theirs.mutex("name").try_lock().await.unwrap().is_none(), "two files, two locks");
    guard.unlock().await.unwrap();
}

#[tokio::test]
async fn a_relative_path_stays_where_it_was() {
    let node = SqliteNode::new("locks.db");
    let expected = std::env::current_dir().unwrap().join("locks.db");
    assert_eq!(node.to_string(), format!("sqlite://{}", expected.display()));
}

#[tokio::test]
async fn a_missing_directory_is_named() {
    let directory = directory();
    let error = failure(&over(directory.path().join("not/there/locks.db"))).await;
    assert_eq!(error.kind(), ErrorKind::NoQuorum);
    assert_contains(&error.to_string(), &["there is no directory", "/not/there"]);
}

#[tokio::test]
async fn another_file_is_not_taken_for_a_store_and_not_touched() {
    let directory = directory();
    let path = directory.path().join("letter.txt");
    let text = "Dear reader, this is not a database, but it is long enough to look like one. ".repeat(20);
    std::fs::write(&path, &text).unwrap();

    let error = failure(&over(&path)).await;

    assert_contains(&error.to_string(), &["letter.txt is some other file, not a lock store"]);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
}

#[tokio::test]
async fn a_store_of_a_newer_redsync_is_left_alone() {
    let directory = directory();
    let path = directory.path().join("locks.db");
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 7).unwrap();

    let error = failure(&over(&path)).await;

    assert_contains(&error.to_string(), &["made by a newer redsync (format 7); this one knows 1"]);
}

#[tokio::test]
async fn a_directory_in_the_files_place_is_an_error() {
    let directory = directory();
    let error = failure(&over(directory.path())).await;
    assert_contains(&error.to_string(), &["cannot be opened"]);
}

#[tokio::test]
async fn a_file_that_another_keeps_locked_ends_in_an_error_in_time() {
    let directory = directory();
    let path = directory.path().join("locks.db");
    let redsync = over(&path);
    redsync.mutex("name").lock().await.unwrap().unlock().await.unwrap();
    let hog = Connection::open(&path).unwrap();
    hog.execute_batch("BEGIN IMMEDIATE").unwrap();

    // A fifth of the expiry is more than the store waits for others.
    let (took, error) = support::timed(redsync.mutex("name").timeout_factor(0.5).try_lock()).await;

    let error = error.unwrap_err();
    assert!(took < Duration::from_secs(4), "{took:?}");
    assert_eq!(error.kind(), ErrorKind::NoQuorum);
    hog.execute_batch("ROLLBACK").unwrap();
    redsync.mutex("name").lock().await.expect("it is free again").unlock().await.unwrap();
}

/// What a process does that this test kills: it locks and unlocks, again and again.
const WORKER: &str = "REDSYNC_TEST_SQLITE_WORKER";

#[test]
fn a_process_killed_at_any_moment_leaves_a_store_that_the_others_go_on_with() {
    if let Ok(path) = std::env::var(WORKER) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let redsync = over(path);
            loop {
                let mutex = redsync.mutex("shared").expiry(Duration::from_millis(300));
                if let Ok(Some(guard)) = mutex.timeout_factor(0.9).try_lock().await {
                    let _ = guard.unlock().await;
                }
            }
        });
    }
    let directory = directory();
    let path = directory.path().join("locks.db");
    let start = || {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_process_killed_at_any_moment_leaves_a_store_that_the_others_go_on_with"])
            .env(WORKER, &path)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("this test starts itself")
    };
    let mut workers: Vec<_> = (0..3).map(|_| start()).collect();
    for round in 0..60_u64 {
        // The moment of the kill is the point: every round another, from before the file is open to well within.
        std::thread::sleep(Duration::from_micros(3_000 + 700 * round));
        let mut killed = std::mem::replace(&mut workers[round as usize % 3], start());
        killed.kill().unwrap();
        killed.wait().unwrap();
    }
    for worker in &mut workers {
        worker.kill().unwrap();
        worker.wait().unwrap();
    }

    let file = Connection::open(&path).unwrap();
    let check: String = file.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let locked = runtime.block_on(over(&path).mutex("shared").wait_up_to(Duration::from_secs(10)).lock());
    drop(locked.expect("the last holder's lease runs out after 300 ms"));
}

/// What a process does that this test gives no disk: it tries to lock once, and prints the message.
const NO_DISK: &str = "REDSYNC_TEST_SQLITE_NO_DISK";

#[test]
fn a_full_disk_is_called_that_and_grants_nothing() {
    if let Ok(path) = std::env::var(NO_DISK) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let error = runtime.block_on(failure(&over(path)));
        println!("message: {error}");
        return;
    }
    let directory = directory();
    let path = directory.path().join("locks.db");
    // A limit of zero on the size of files stands for the full disk; the signal that comes with it is ignored.
    let output = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 0; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "a_full_disk_is_called_that_and_grants_nothing", "--nocapture"])
        .env(NO_DISK, &path)
        .output()
        .expect("sh runs");

    let text = String::from_utf8_lossy(&output.stdout);
    assert_contains(&text, &["message: no quorum", "is the disk full?", "locks.db"]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let locked = runtime.block_on(over(&path).mutex("name").try_lock()).unwrap();
    drop(locked.expect("with room again, the lock is free"));
}
