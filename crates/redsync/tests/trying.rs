//! How a lock is asked for: what options are refused, how often and how long is tried, how waiting ends.

mod support;

use std::future::{pending, ready};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex as StdMutex};
use std::time::Duration;

use redsync::{Error, ErrorKind, LockOptions, Mutex, NodeError, Redsync};
use redsync_testkit::{RedisServer, servers, wait_until};
use support::{DEADLINE, assert_contains, both_ways, connect, connect_to, timed, wait_until_empty};

const MINUTE: Duration = Duration::from_secs(60);

/// Between two tries of who polls.
const PAUSE: Duration = Duration::from_millis(20);

/// What a busy machine may add to a time that is measured.
const SLACK: Duration = Duration::from_millis(1500);

async fn blocked_server() -> (RedisServer, Redsync) {
    let server = RedisServer::start();
    server.set("name", "5f1c@stranger:1", None);
    let redsync = connect_to(&server).await;
    (server, redsync)
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_is_refused_with_the_reason_before_anything_is_sent() {
    type Options = fn(Mutex) -> Mutex;
    let server = RedisServer::start();
    let redsync = connect_to(&server).await;
    let nonsense: [(Options, &str); 20] = [
        (|m| m.expiry(Duration::ZERO), "invalid expiry: it is zero; the least is 1ms"),
        (|m| m.expiry(Duration::from_micros(999)), "invalid expiry: 999µs is less than the 1ms"),
        (|m| m.expiry(Duration::from_millis(2)), "invalid expiry: 2ms leaves no time to hold"),
        (|m| m.expiry(Duration::from_millis((1 << 53) + 1)), "more than the longest expiry, 2^53 ms"),
        (|m| m.expiry(Duration::MAX), "more than the longest expiry, 2^53 ms"),
        (|m| m.drift_factor(1.0), "invalid drift_factor: 1 is not in [0, 1)"),
        (|m| m.drift_factor(-0.1), "invalid drift_factor: -0.1 is not in [0, 1)"),
        (|m| m.drift_factor(f64::NAN), "invalid drift_factor: NaN is not in [0, 1)"),
        (|m| m.drift_factor(f64::INFINITY), "invalid drift_factor: inf is not in [0, 1)"),
        (|m| m.timeout_factor(0.0), "invalid timeout_factor: 0 is not between 0 and 1"),
        (|m| m.timeout_factor(1.0), "invalid timeout_factor: 1 is not between 0 and 1"),
        (|m| m.timeout_factor(f64::NAN), "invalid timeout_factor: NaN is not between 0 and 1"),
        (|m| m.tries(0), "invalid tries: it is zero; the least is 1"),
        (|m| m.wait_up_to(Duration::ZERO), "invalid wait_up_to: it is zero; use try_lock"),
        (|m| m.retry_delay(Duration::ZERO), "invalid retry_delay: it is zero"),
        (|m| m.retry_delay(Duration::from_secs(3601)), "is longer than an hour"),
        (|m| m.owner(""), "invalid owner: it is empty"),
        (|m| m.owner("two words"), "invalid owner: \"two words\" holds blanks"),
        (|m| m.token_fn(String::new), "invalid token: it is empty"),
        (|m| m.token_fn(|| "t".repeat(513)), "invalid token: it has 513 bytes"),
    ];
    for (options, reason) in nonsense {
        let mutex = options(redsync.mutex("name"));

        let (locked, tried) = (mutex.lock().await, mutex.try_lock().await);

        for error in [locked.unwrap_err(), tried.unwrap_err()] {
            assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
            assert_contains(&error.to_string(), &[reason]);
        }
    }
    assert_eq!(server.command_count("set"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_no_lock_can_have_is_refused_with_the_reason() {
    let server = RedisServer::start();
    let redsync = connect_to(&server).await;
    for (name, reason) in [
        (String::new(), "invalid name: it is empty"),
        ("n".repeat(1025), "invalid name: it has 1025 bytes; the most is 1024"),
    ] {
        let locked = redsync.mutex(&name).lock().await.unwrap_err();
        let inspected = redsync.inspect(&name).await.unwrap_err();

        assert_eq!(locked.to_string(), reason);
        assert_eq!(inspected.to_string(), reason);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_expiry_there_is_can_be_held() {
    let server = RedisServer::start();
    let redsync = connect_to(&server).await;

    let longest = redsync.mutex("name").expiry(Duration::from_millis(1 << 53));
    let guard = longest.lock().await.unwrap();

    assert!(guard.remaining() > MINUTE);
    guard.extend().await.unwrap();
    guard.unlock().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_century_is_held_for_about_a_century() {
    const DAY: Duration = Duration::from_secs(24 * 3600);
    let server = RedisServer::start();
    let redsync = connect_to(&server).await;

    let guard = redsync.mutex("name").expiry(36_500 * DAY).lock().await.unwrap();

    assert!(guard.remaining() > 36_000 * DAY);
    guard.unlock().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn options_can_be_kept_and_used_again() {
    let (_server, redsync) = blocked_server().await;
    let once = LockOptions::new().tries(1).owner("kept");

    let error = redsync.mutex("name").with(once.clone()).lock().await.unwrap_err();
    let guard = redsync.mutex("another").with(once).lock().await.unwrap();

    assert_eq!(error.kind(), ErrorKind::Taken);
    assert_eq!(guard.token().owner(), Some("kept"));
}

#[tokio::test(flavor = "multi_thread")]
async fn three_tries_are_exactly_three() {
    let (server, redsync) = blocked_server().await;
    let before = server.command_count("set");

    let mutex = redsync.mutex("name").tries(3).retry_delay(Duration::from_millis(1));
    mutex.lock().await.unwrap_err();

    assert_eq!(server.command_count("set") - before, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_lock_is_tried_again_until_it_is_free() {
    let (server, redsync) = blocked_server().await;
    let before = server.command_count("set");
    let mutex = redsync.mutex("name").wait_up_to(MINUTE).retry_delay(Duration::from_millis(5));
    let waiting = tokio::spawn(async move { mutex.lock().await });
    wait_until("the lock was tried for twice", DEADLINE, || server.command_count("set") - before >= 2);

    server.flushall();

    waiting.await.unwrap().unwrap().unlock().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_delay_function_is_told_the_number_of_tries_made() {
    let (_server, redsync) = blocked_server().await;
    let told = Arc::new(StdMutex::new(Vec::new()));
    let telling = Arc::clone(&told);
    let mutex = redsync.mutex("name").tries(5).retry_delay_fn(move |tries| {
        telling.lock().unwrap().push(tries);
        Duration::from_millis(1)
    });

    mutex.lock().await.unwrap_err();

    assert_eq!(told.lock().unwrap()[..4], [1, 2, 3, 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_delay_lies_between_the_tries() {
    let (_server, redsync) = blocked_server().await;
    let delay = Duration::from_millis(150);

    let mutex = redsync.mutex("name").tries(3).retry_delay(delay);
    let (took, locked) = timed(mutex.lock()).await;

    locked.unwrap_err();
    assert!(took >= 2 * delay && took < 2 * delay + SLACK, "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_function_is_called_once_for_each_try() {
    let (server, redsync) = blocked_server().await;
    let calls = Arc::new(AtomicU32::new(0));
    let calling = Arc::clone(&calls);
    let mutex = redsync
        .mutex("name")
        .retry_delay(Duration::from_millis(1))
        .token_fn(move || format!("token {}", calling.fetch_add(1, Ordering::SeqCst) + 1));

    mutex.clone().tries(3).lock().await.unwrap_err();
    assert_eq!(calls.load(Ordering::SeqCst), 3);

    server.flushall();
    let guard = mutex.lock().await.unwrap();
    assert_eq!(guard.token().as_str(), "token 4");
    assert_eq!(server.get("name").as_deref(), Some("token 4"));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_try_has_a_token_of_its_own() {
    let server = RedisServer::start();
    let redsync = connect_to(&server).await;
    let mutex = redsync.mutex("name");
    let mut tokens = std::collections::HashSet::new();
    for _ in 0..100 {
        let guard = mutex.lock().await.unwrap();
        assert!(tokens.insert(guard.token().to_string()));
        guard.unlock().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_ends_about_in_time_and_says_who_has_the_lock() {
    let (_server, redsync) = blocked_server().await;
    let most = Duration::from_millis(500);
    for mutex in both_ways(&redsync.mutex("name").wait_up_to(most), PAUSE) {
        let (took, locked) = timed(mutex.lock()).await;

        let error = locked.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Taken);
        assert_contains(&error.to_string(), &["held by stranger:1"]);
        assert!(took >= most && took < most + SLACK, "{took:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_delay_does_not_prolong_the_wait() {
    let (_server, redsync) = blocked_server().await;
    let most = Duration::from_millis(300);

    let mutex = redsync.mutex("name").wait_up_to(most).retry_delay(MINUTE);
    let (took, locked) = timed(mutex.lock()).await;

    assert_eq!(locked.unwrap_err().kind(), ErrorKind::Taken);
    assert!(took >= most && took < most + SLACK, "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn hung_nodes_do_not_prolong_the_wait() {
    let servers = servers(3);
    let redsync = connect(&servers).await;
    servers[0].pause();
    servers[1].pause();
    let most = Duration::from_millis(300);

    // Each node may take 2 s for a lease of an hour.
    let mutex = redsync.mutex("name").expiry(Duration::from_secs(3600)).wait_up_to(most);
    for mutex in both_ways(&mutex, PAUSE) {
        let (took, locked) = timed(mutex.lock()).await;

        assert_eq!(locked.unwrap_err().kind(), ErrorKind::NoQuorum);
        assert!(took >= most && took < most + SLACK, "{took:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_in_vain_names_the_nodes_that_hung_and_no_other() {
    let servers = servers(3);
    let redsync = connect(&servers).await;
    servers[..2].iter().for_each(RedisServer::pause);
    let mut hung = [servers[0].url(), servers[1].url()];
    hung.sort_unstable();

    // Each node may take 2 s for a lease of an hour.
    let mutex =
        redsync.mutex("name").expiry(Duration::from_secs(3600)).wait_up_to(Duration::from_millis(300));
    for mutex in both_ways(&mutex, PAUSE) {
        let error = mutex.lock().await.unwrap_err();

        let mut named: Vec<&str> = error.nodes().iter().map(NodeError::node).collect();
        named.sort_unstable();
        assert_eq!(named, hung, "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_without_limit_ends_when_no_quorum_was_reached_for_longer_than_the_expiry() {
    let server = RedisServer::start();
    let redsync = connect_to(&server).await;
    server.kill();
    let expiry = Duration::from_millis(500);

    let [_, polling] = both_ways(&redsync.mutex("name").expiry(expiry).wait_without_limit(), PAUSE);
    for mutex in [redsync.mutex("name").expiry(expiry), polling] {
        let (took, locked) = timed(mutex.lock()).await;

        assert_eq!(locked.unwrap_err().kind(), ErrorKind::NoQuorum);
        assert!(took >= expiry && took < expiry + SLACK, "{took:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_wait_says_so_and_leaves_only_the_holders_key() {
    let (server, redsync) = blocked_server().await;
    for mutex in both_ways(&redsync.mutex("name").wait_without_limit(), PAUSE) {
        let error = mutex.lock_unless(tokio::time::sleep(Duration::from_millis(100))).await.unwrap_err();

        assert!(matches!(&error, Error::Cancelled { name } if name.as_str() == "name"), "{error:?}");
        assert_eq!(error.to_string(), "waiting for lock \"name\" was cancelled");
        wait_until("only the holder's key is left", DEADLINE, || server.keys() == ["name"]);
        assert_eq!(server.get("name").as_deref(), Some("5f1c@stranger:1"));
    }
    server.flushall();
    assert_eq!(server.keys(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_cancelled_at_once_leaves_no_key() {
    let servers = servers(3);
    let redsync = connect(&servers).await;

    let error = redsync.mutex("name").lock_unless(ready(())).await.unwrap_err();

    assert_eq!(error.kind(), ErrorKind::Cancelled);
    // What is still on its way arrives.
    tokio::time::sleep(Duration::from_millis(100)).await;
    wait_until_empty(&servers, DEADLINE);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_that_never_comes_changes_nothing() {
    let server = RedisServer::start();
    let redsync = connect_to(&server).await;

    let guard = redsync.mutex("name").lock_unless(pending()).await.unwrap();

    guard.unlock().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn shuffled_nodes_keep_their_names() {
    let servers = servers(3);
    let redsync = connect(&servers).await;
    servers[0].set("name", "first", Some(60_000));
    servers[2].set("name", "third", Some(60_000));
    let mutex = redsync.mutex("name").shuffle_nodes(true).fail_fast(false).tries(1);
    for _ in 0..20 {
        let error = mutex.lock().await.unwrap_err().to_string();

        let first = format!("{} is held by token first", servers[0].url());
        let third = format!("{} is held by token third", servers[2].url());
        assert_contains(&error, &[&first, &third]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shuffled_nodes_are_all_asked() {
    let servers = servers(5);
    let redsync = connect(&servers).await;
    let mutex = redsync.mutex("name").shuffle_nodes(true).fail_fast(false);
    for _ in 0..10 {
        let guard = mutex.lock().await.unwrap();
        assert!(servers.iter().all(|server| server.get("name").is_some()));
        guard.extend().await.unwrap();
        guard.unlock().await.unwrap();
        assert!(servers.iter().all(|server| server.get("name").is_none()));
    }
}
