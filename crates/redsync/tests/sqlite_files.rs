//! The files of the embedded store: who may use them, what is refused, and what becomes of them on a full disk.
#![cfg(unix)]

mod support;

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use redsync::{Acquired, Claim, Expiry, Extended, IfFree, LockName, Node, Redsync, Sharing, SqliteNode};
use rusqlite::Connection;
use support::assert_contains;
use tempfile::TempDir;

fn directory() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn over(node: SqliteNode) -> Redsync {
    Redsync::new([Arc::new(node) as Arc<dyn Node>]).expect("one node")
}

async fn use_once(node: SqliteNode) {
    over(node).mutex("name").lock().await.expect("it is free").unlock().await.unwrap();
}

async fn refusal(path: impl AsRef<Path>) -> String {
    let redsync = over(SqliteNode::new(path));
    redsync.mutex("name").try_lock().await.expect_err("the store cannot be used").to_string()
}

/// The database and the two files beside it.
fn files(path: &Path) -> [PathBuf; 3] {
    ["", "-wal", "-shm"].map(|suffix| PathBuf::from(format!("{}{suffix}", path.display())))
}

fn modes(path: &Path) -> [u32; 3] {
    files(path).map(|file| fs::metadata(file).unwrap().mode() & 0o7777)
}

fn set_modes(path: &Path, mode: u32) {
    for file in files(path) {
        fs::set_permissions(file, Permissions::from_mode(mode)).unwrap();
    }
}

#[tokio::test]
async fn new_files_are_their_users_alone() {
    let directory = directory();
    let path = directory.path().join("locks.db");
    use_once(SqliteNode::new(&path)).await;
    assert_eq!(modes(&path), [0o600; 3]);
}

#[tokio::test]
async fn files_that_others_may_read_are_closed_and_files_that_others_may_write_are_left_as_they_are() {
    let directory = directory();
    let path = directory.path().join("locks.db");
    use_once(SqliteNode::new(&path)).await;
    for (former, present) in [(0o644, 0o600), (0o640, 0o600), (0o660, 0o660), (0o666, 0o666)] {
        set_modes(&path, former);
        use_once(SqliteNode::new(&path)).await;
        assert_eq!(modes(&path), [present; 3], "{former:o}");
    }
}

#[tokio::test]
async fn a_store_that_is_shared_has_its_mode_in_all_files_old_and_new() {
    for (sharing, mode) in [(Sharing::Owner, 0o600), (Sharing::Group, 0o660), (Sharing::All, 0o666)] {
        let directory = directory();
        let path = directory.path().join("locks.db");
        use_once(SqliteNode::new(&path).shared_with(sharing)).await;
        assert_eq!(modes(&path), [mode; 3], "{sharing:?}");
        let names = fs::read_dir(directory.path()).unwrap().count();
        assert_eq!(names, 3, "nothing else is left in the directory");
        set_modes(&path, 0o644);
        use_once(SqliteNode::new(&path).shared_with(sharing)).await;
        assert_eq!(modes(&path), [mode; 3], "{sharing:?}");
    }
}

#[tokio::test]
async fn a_url_says_with_whom_a_store_is_shared() {
    let directory = directory();
    let path = directory.path().join("locks.db");
    let redsync = Redsync::connect([format!("sqlite://{}?mode=0660", path.display())]).await.unwrap();
    redsync.mutex("name").lock().await.unwrap().unlock().await.unwrap();
    assert_eq!(modes(&path), [0o660; 3]);
}

#[tokio::test]
async fn a_symbolic_link_in_the_place_of_any_file_is_not_followed() {
    for at in 0..3 {
        let directory = directory();
        let path = directory.path().join("locks.db");
        use_once(SqliteNode::new(&path)).await;
        let link = &files(&path)[at];
        let elsewhere = directory.path().join("elsewhere");
        for target in [Some(""), None] {
            let _ = fs::remove_file(link);
            let _ = fs::remove_file(&elsewhere);
            if let Some(text) = target {
                fs::write(&elsewhere, text).unwrap();
            }
            symlink(&elsewhere, link).unwrap();

            let message = refusal(&path).await;

            assert_contains(
                &message,
                &["cannot be opened: it is a symbolic link", &link.display().to_string()],
            );
            assert_eq!(fs::read_to_string(&elsewhere).ok().as_deref(), target, "{}", link.display());
        }
    }
}

#[tokio::test]
async fn a_file_that_has_another_name_too_is_not_touched() {
    for at in 0..3 {
        let directory = directory();
        let path = directory.path().join("locks.db");
        use_once(SqliteNode::new(&path)).await;
        let link = &files(&path)[at];
        let elsewhere = directory.path().join("elsewhere");
        fs::remove_file(link).unwrap();
        fs::write(&elsewhere, "").unwrap();
        fs::hard_link(&elsewhere, link).unwrap();

        let message = refusal(&path).await;

        assert_contains(&message, &["several names (hard links)", &link.display().to_string()]);
        assert_contains(&message, &["`find /", &format!(" -xdev -samefile {}` lists them", link.display())]);
        let find = message.split('`').nth(1).unwrap();
        // From the directory that both names are in, in place of the whole file system.
        let find = find.replacen(find.split(' ').nth(1).unwrap(), &directory.path().display().to_string(), 1);
        let found = std::process::Command::new("sh").args(["-c", &find]).output().unwrap();
        assert_contains(&String::from_utf8_lossy(&found.stdout), &[&elsewhere.display().to_string()]);
        assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "");
        assert_eq!(fs::metadata(&elsewhere).unwrap().mode() & 0o777, 0o644 & !umask());
    }
}

fn umask() -> u32 {
    let directory = directory();
    let path = directory.path().join("file");
    fs::write(&path, "").unwrap();
    0o666 & !(fs::metadata(path).unwrap().mode() & 0o777)
}

#[tokio::test]
async fn what_is_no_regular_file_is_refused_at_once() {
    let directory = directory();
    let path = directory.path().join("locks.db");
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    assert_contains(&refusal(&path).await, &["it is no regular file"]);
}

#[tokio::test]
async fn the_log_has_room_on_disk_before_a_lease_is_granted() {
    let directory = directory();
    let path = directory.path().join("locks.db");
    let redsync = over(SqliteNode::new(&path));
    redsync.inspect("name").await.unwrap();
    assert!(fs::metadata(&files(&path)[1]).unwrap().len() < 100_000, "looking reserves nothing");

    let guard = redsync.mutex("name").lock().await.unwrap();

    let log = fs::metadata(&files(&path)[1]).unwrap();
    assert!(log.len() > 1_000_000 && log.blocks() * 512 > 1_000_000, "{} {}", log.len(), log.blocks());
    let free: i64 = Connection::open(&path)
        .unwrap()
        .pragma_query_value(None, "freelist_count", |row| row.get(0))
        .unwrap();
    assert!(free > 16, "{free}");
    guard.unlock().await.unwrap();
}

/// Names the disk for a process of this test's own.
const SMALL_DISK: &str = "REDSYNC_TEST_SMALL_DISK";

#[test]
fn renewals_go_on_past_the_end_of_the_log_though_the_disk_is_full() {
    if let Ok(disk) = std::env::var(SMALL_DISK) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(renew_on_a_full_disk(Path::new(&disk)));
        println!("renewed");
        return;
    }
    let disk = directory();
    // A file system of its own, which is gone with its mount namespace.
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c"])
        .arg("mount -t tmpfs -o size=3m disk \"$DISK\" || exit 99; DISK= exec \"$0\" \"$@\"")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "renewals_go_on_past_the_end_of_the_log_though_the_disk_is_full", "--nocapture"])
        .env("DISK", disk.path())
        .env(SMALL_DISK, disk.path())
        .output();
    match output {
        Ok(output) if output.status.code() != Some(99) && rustix::process::geteuid().is_root() => {
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(text.contains("renewed"), "{text}{}", String::from_utf8_lossy(&output.stderr));
        }
        _ => eprintln!("not tested: needs root, unshare(1) and the right to mount a tmpfs"),
    }
}

async fn renew_on_a_full_disk(disk: &Path) {
    let path = disk.join("locks.db");
    let node = SqliteNode::new(&path);
    let claim = claim("name");
    assert!(matches!(node.acquire(&claim).await.unwrap(), Acquired::Granted(_)));
    fill(disk);
    let size = fs::metadata(&files(&path)[1]).unwrap().len();
    // Each renewal appends a page: far more than the log has room for.
    for renewal in 0..2_000 {
        let extended = node.extend(&claim, IfFree::Leave).await;
        assert!(matches!(extended, Ok(Extended::Extended(_))), "renewal {renewal}: {extended:?}");
    }
    assert_eq!(fs::metadata(&files(&path)[1]).unwrap().len(), size);
    // A reader who stays keeps the log from starting anew, until the log is at its end. That passes with the reader.
    let reader = Connection::open(&path).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM redsync_leases").unwrap();
    let mut renewals = 0;
    while node.extend(&claim, IfFree::Leave).await.is_ok() {
        renewals += 1;
        assert!(renewals < 1_000, "the log has an end");
    }
    reader.execute_batch("COMMIT").unwrap();
    let extended = node.extend(&claim, IfFree::Leave).await;
    assert!(matches!(extended, Ok(Extended::Extended(_))), "{extended:?}");
    // Others find it taken, and take other locks as long as there are pages.
    let other = SqliteNode::new(&path);
    assert!(matches!(other.acquire(&self::claim("name")).await.unwrap(), Acquired::Taken(_)));
    // In a store that has no room yet, nothing is granted.
    let error = SqliteNode::new(disk.join("another.db")).acquire(&claim).await.unwrap_err();
    assert!(error.to_string().contains("full"), "{error}");
}

fn claim(name: &str) -> Claim {
    let owner = redsync::this_process();
    let expiry = Expiry::new(Duration::from_secs(60)).unwrap();
    Claim::new(LockName::new(name).unwrap(), redsync::random_token(&owner), expiry)
}

fn fill(disk: &Path) {
    let mut file = fs::File::create(disk.join("filling")).unwrap();
    for size in [65_536, 4_096, 1] {
        while file.write_all(&vec![b'x'; size]).is_ok() {}
    }
    assert!(fs::write(disk.join("more"), [b'x'; 4_096]).is_err(), "the disk is full");
}
