//! The embedded store: many processes on one file, who wait for one another in the queue; kill -9 at any moment, and files that
//! are not what they should be.

mod support;

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use redsync::{Clock, Error, ErrorKind, Guard, Node, Redsync, SqliteNode, SystemClock};
use redsync_testkit::wait_until;
use rusqlite::Connection;
use support::{DEADLINE, assert_contains, median, timed};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::timeout;

fn directory() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn over(path: impl AsRef<Path>) -> Redsync {
    Redsync::new([Arc::new(SqliteNode::new(path)) as Arc<dyn Node>]).expect("one node")
}

/// As another process would be: a connection of its own to the file.
async fn connect(path: &Path) -> Redsync {
    Redsync::connect([format!("sqlite://{}", path.display())]).await.expect("the file can be made")
}

/// How many wait in the queue, by the file itself.
fn waiting(path: &Path) -> i64 {
    let file = Connection::open(path).unwrap();
    file.query_row("SELECT count(*) FROM redsync_line", [], |row| row.get(0)).unwrap()
}

fn wait_until_in_queue(path: &Path, many: i64) {
    wait_until(&format!("{many} are in the queue"), DEADLINE, || waiting(path) == many);
}

/// One more who waits for `name`; in the queue when this returns.
fn queue_up(redsync: &Redsync, path: &Path) -> JoinHandle<Result<Guard, Error>> {
    let before = waiting(path);
    // Nothing but a grant that is told ends the wait within the test's time.
    let mutex = redsync.mutex("name").expiry(LONG);
    let waiter = tokio::spawn(async move { mutex.lock().await });
    wait_until_in_queue(path, before + 1);
    waiter
}

/// What `waiter` gets, in time.
async fn served(waiter: JoinHandle<Result<Guard, Error>>) -> Guard {
    let locked = timeout(DEADLINE, waiter).await.expect("whoever waits is served in time");
    locked.unwrap().unwrap()
}

const LONG: Duration = Duration::from_secs(120);

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

#[tokio::test(flavor = "multi_thread")]
async fn those_who_wait_are_served_in_the_order_in_which_they_came() {
    let directory = directory();
    let path = directory.path().join("locks.db");
    let fleet = [connect(&path).await, connect(&path).await, connect(&path).await];
    let holder = fleet[0].mutex("name").lock().await.unwrap();

    let waiters: Vec<_> = (0..9).map(|number| queue_up(&fleet[number % 3], &path)).collect();
    holder.unlock().await.unwrap();

    for (number, waiter) in waiters.into_iter().enumerate() {
        let guard = served(waiter).await;
        // Those who came later wait as long as it is held.
        assert_eq!(waiting(&path), 8 - number as i64);
        guard.unlock().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_in_the_file_once_all_have_left() {
    let directory = directory();
    let path = directory.path().join("locks.db");
    let (ours, theirs) = (connect(&path).await, connect(&path).await);
    let holder = ours.mutex("name").lock().await.unwrap();
    let (served_one, gives_up) = (queue_up(&ours, &path), queue_up(&theirs, &path));

    gives_up.abort();
    wait_until_in_queue(&path, 1);
    holder.unlock().await.unwrap();
    served(served_one).await.unlock().await.unwrap();

    let file = Connection::open(&path).unwrap();
    for table in ["redsync_leases", "redsync_line", "redsync_lengths"] {
        let rows: i64 =
            file.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap();
        assert_eq!(rows, 0, "{table}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_is_handed_over_to_another_process_within_milliseconds() {
    let directory = directory();
    let path = directory.path().join("locks.db");
    let (ours, theirs) = (connect(&path).await, connect(&path).await);
    let mut took = Vec::new();
    for _ in 0..20 {
        let holder = ours.mutex("name").lock().await.unwrap();
        let waiter = queue_up(&theirs, &path);
        // So long that the waiter looks as seldom as it does while a lock is held.
        tokio::time::sleep(Duration::from_millis(40)).await;
        let (taken, guard) = timed(async {
            holder.unlock().await.unwrap();
            served(waiter).await
        })
        .await;
        took.push(taken);
        guard.unlock().await.unwrap();
    }
    let median = median(took);
    assert!(median < Duration::from_millis(25), "{median:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_is_let_go_of_is_open_to_whoever_asks_first_and_the_queue_is_told() {
    let directory = directory();
    let path = directory.path().join("locks.db");
    let (ours, theirs) = (connect(&path).await, connect(&path).await);
    let holder = ours.mutex("name").barging(true).lock().await.unwrap();
    let waiter = queue_up(&theirs, &path);

    holder.unlock().await.unwrap();

    served(waiter).await.unlock().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_wait_line_up_anew_when_the_file_was_deleted() {
    let directory = directory();
    let path = directory.path().join("locks.db");
    let (ours, theirs) = (connect(&path).await, connect(&path).await);
    let holder = ours.mutex("name").expiry(LONG).lock().await.unwrap();
    let waiter = queue_up(&theirs, &path);

    for file in std::fs::read_dir(directory.path()).unwrap() {
        std::fs::remove_file(file.unwrap().path()).unwrap();
    }

    // The lease went with the file.
    served(waiter).await.unlock().await.unwrap();
    drop(holder);
}

/// What a process does that this test kills: it waits in the queue.
const WAITER: &str = "REDSYNC_TEST_SQLITE_WAITER";

#[test]
fn a_waiter_whose_process_was_killed_is_skipped_at_once() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    if let Ok(path) = std::env::var(WAITER) {
        let locked = runtime.block_on(over(path).mutex("name").expiry(LONG).lock());
        panic!("it is killed before it is served: {locked:?}");
    }
    let directory = directory();
    let path = directory.path().join("locks.db");
    runtime.block_on(async {
        let (ours, theirs) = (connect(&path).await, connect(&path).await);
        let holder = ours.mutex("name").expiry(LONG).lock().await.unwrap();
        let mut killed = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_waiter_whose_process_was_killed_is_skipped_at_once"])
            .env(WAITER, &path)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("this test starts itself");
        wait_until_in_queue(&path, 1);
        let waiter = queue_up(&theirs, &path);
        killed.kill().unwrap();
        killed.wait().unwrap();
        assert_eq!(waiting(&path), 2, "the dead are still in the queue");

        holder.unlock().await.unwrap();

        served(waiter).await.unlock().await.unwrap();
        assert_eq!(waiting(&path), 0);
    });
}

/// What the former version made of an empty file, before there were lines.
const FORMER_FORMAT: &str = "
PRAGMA journal_mode = WAL;
CREATE TABLE redsync_meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
INSERT INTO redsync_meta VALUES ('identity', '0123456789abcdef');
CREATE TABLE redsync_leases (
    name TEXT PRIMARY KEY,
    token TEXT NOT NULL,
    granted INTEGER NOT NULL,
    ends INTEGER NOT NULL,
    boot TEXT NOT NULL
) STRICT, WITHOUT ROWID;
PRAGMA user_version = 1;
";

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_the_former_format_is_upgraded_with_its_leases() {
    let directory = directory();
    let path = directory.path().join("locks.db");
    let file = Connection::open(&path).unwrap();
    file.execute_batch(FORMER_FORMAT).unwrap();
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let now = i64::try_from(SystemClock.now().as_nanos()).unwrap();
    let lease = ("name", "token@former", now, now + 3_000_000_000, boot.trim());
    file.execute("INSERT INTO redsync_leases VALUES (?1, ?2, ?3, ?4, ?5)", lease).unwrap();

    let (ours, theirs) = (connect(&path).await, connect(&path).await);

    assert!(ours.mutex("name").try_lock().await.unwrap().is_none(), "the lease stands");
    let inspection = ours.inspect("name").await.unwrap();
    let holder = inspection.nodes()[0].answer.clone().unwrap().expect("it is held");
    assert_eq!(holder.owner(), Some("former"));
    // When it has run out, the queue goes on.
    let (first, second) = (queue_up(&ours, &path), queue_up(&theirs, &path));
    served(first).await.unlock().await.unwrap();
    served(second).await.unlock().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_of_the_former_version_that_has_the_file_open_goes_on() {
    let directory = directory();
    let path = directory.path().join("locks.db");
    let former = Connection::open(&path).unwrap();
    former.execute_batch(FORMER_FORMAT).unwrap();
    let grant = "INSERT OR REPLACE INTO redsync_leases (name, token, granted, ends, boot) VALUES (?1, ?2, ?3, ?4, ?5)";
    let mut grant = former.prepare(grant).unwrap();
    let ours = connect(&path).await;

    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let now = i64::try_from(SystemClock.now().as_nanos()).unwrap();
    grant.execute(("name", "token@former", now, now + 60_000_000_000, boot.trim())).unwrap();
    assert!(ours.mutex("name").try_lock().await.unwrap().is_none());
    former.execute("DELETE FROM redsync_leases WHERE name = 'name'", []).unwrap();

    ours.mutex("name").try_lock().await.unwrap().expect("it is free").unlock().await.unwrap();
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

    assert_contains(&error.to_string(), &["made by a newer redsync (format 7); this one knows 3"]);
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
    let (took, error) = timed(redsync.mutex("name").timeout_factor(0.5).try_lock()).await;

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
