//! A guard's life: taken, extended, lost, released, dropped; each against real servers.

mod support;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use redsync::{Error, ErrorKind, Guard, Mutex, NodeError, Redsync};
use redsync_testkit::{RedisServer, servers, wait_until};
use support::{DEADLINE, assert_contains, connect, connect_to, keys_on, timed, wait_until_empty};

const MINUTE: Duration = Duration::from_secs(60);

/// Long enough to take a lock on a busy machine, short enough to wait for its end.
const SHORT: Duration = Duration::from_millis(300);

/// A guard whose time is over, on its own clock and on `server`'s.
async fn expired(mutex: Mutex, server: &RedisServer) -> Guard {
    let name = mutex.name().to_owned();
    let guard = mutex.expiry(SHORT).renew(false).lock().await.unwrap();
    wait_until("the guard and its key have expired", DEADLINE, || {
        !guard.is_valid() && server.get(&name).is_none()
    });
    guard
}

#[tokio::test(flavor = "multi_thread")]
async fn trying_a_held_lock_gives_none() {
    let server = RedisServer::start();
    let redsync = connect_to(&server).await;
    let _held = redsync.mutex("name").lock().await.unwrap();

    let tried = redsync.mutex("name").try_lock().await.unwrap();

    assert!(tried.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_lock_is_taken_and_its_holder_is_named() {
    let server = RedisServer::start();
    let redsync = connect_to(&server).await;
    let _held = redsync.mutex("name").owner("web-2:311").lock().await.unwrap();

    let error = redsync.mutex("name").tries(2).lock().await.unwrap_err();

    assert_eq!(error.kind(), ErrorKind::Taken);
    assert_contains(&error.to_string(), &["lock \"name\" is taken", &server.url(), "is held by web-2:311"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unlocked_lock_is_free_at_once() {
    let servers = servers(3);
    let (ann, bob) = (connect(&servers).await, connect(&servers).await);
    for _ in 0..50 {
        ann.mutex("name").lock().await.unwrap().unlock().await.unwrap();

        let tried = bob.mutex("name").try_lock().await.unwrap();

        tried.expect("the lock is free").unlock().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_owners_label_is_part_of_the_key() {
    let server = RedisServer::start();
    let redsync = Redsync::builder().url(server.url()).owner("batch").build().unwrap();

    let _default = redsync.mutex("default").lock().await.unwrap();
    let _own = redsync.mutex("own").owner("web-2:311").lock().await.unwrap();

    assert!(server.get("default").unwrap().ends_with("@batch"));
    assert!(server.get("own").unwrap().ends_with("@web-2:311"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_is_the_keys_value() {
    let server = RedisServer::start();
    let redsync = connect_to(&server).await;

    let guard = redsync.mutex("name").lock().await.unwrap();

    assert_eq!(server.get("name").as_deref(), Some(guard.token().as_str()));
}

#[tokio::test(flavor = "multi_thread")]
async fn extending_lengthens_the_time_on_every_node() {
    for nodes in [1, 3] {
        let servers = servers(nodes);
        let redsync = connect(&servers).await;
        let mutex = redsync.mutex("name").expiry(MINUTE).fail_fast(false);
        let guard = mutex.lock().await.unwrap();
        for server in &servers {
            server.command(&["PEXPIRE", "name", "20000"]);
        }

        guard.extend().await.unwrap();

        for server in &servers {
            let left = server.pttl("name");
            assert!((50_000..=60_000).contains(&left), "{left} ms on one of {nodes}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn extending_by_a_time_lasts_that_long() {
    let server = RedisServer::start();
    let redsync = connect_to(&server).await;
    let guard = redsync.mutex("name").lock().await.unwrap();

    guard.extend_by(MINUTE).await.unwrap();
    assert!((50_000..=60_000).contains(&server.pttl("name")));
    assert!(guard.remaining() > Duration::from_secs(50));

    guard.extend_by(Duration::from_secs(2)).await.unwrap();
    assert!((1..=2_000).contains(&server.pttl("name")));
    assert!(guard.remaining() < Duration::from_secs(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn extending_by_nonsense_is_refused_and_changes_nothing() {
    let server = RedisServer::start();
    let redsync = connect_to(&server).await;
    let guard = redsync.mutex("name").expiry(MINUTE).lock().await.unwrap();
    for (nonsense, reason) in [
        (Duration::ZERO, "invalid expiry: it is zero"),
        (Duration::from_micros(999), "999µs is less than the 1ms"),
        (Duration::from_millis(2), "leaves no time to hold"),
        (Duration::MAX, "more than the longest expiry"),
    ] {
        let error = guard.extend_by(nonsense).await.unwrap_err();

        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert_contains(&error.to_string(), &[reason]);
    }
    assert!(server.pttl("name") > 50_000);
    assert!(guard.remaining() > Duration::from_secs(50));
}

#[tokio::test(flavor = "multi_thread")]
async fn extending_after_the_expiry_asks_no_server_and_brings_nothing_back() {
    let server = RedisServer::start();
    let redsync = connect_to(&server).await;
    for repair in [false, true] {
        let guard = expired(redsync.mutex("name").repair_on_extend(repair), &server).await;
        let asked = server.command_count("evalsha") + server.command_count("eval");

        let error = guard.extend().await.unwrap_err();

        assert!(
            matches!(&error, Error::Lost(lost) if !lost.was_released() && lost.cause().is_none()),
            "{error:?}"
        );
        assert_eq!(error.to_string(), "lock \"name\" was lost: its time ran out");
        assert_eq!(server.command_count("evalsha") + server.command_count("eval"), asked);
        assert_eq!(server.get("name"), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_past_its_time_is_not_revived_though_its_key_still_stands() {
    let server = RedisServer::start();
    let redsync = connect_to(&server).await;
    // Trusted for 300 ms of 60 s.
    let mutex = redsync.mutex("name").expiry(MINUTE).drift_factor(0.995).renew(false);
    let guard = mutex.lock().await.unwrap();
    wait_until("the guard is past its time", DEADLINE, || !guard.is_valid());
    let before = server.pttl("name");

    let error = guard.extend().await.unwrap_err();

    assert_eq!(error.kind(), ErrorKind::Lost);
    assert!(!guard.is_valid());
    assert!(server.pttl("name") <= before);
}

#[tokio::test(flavor = "multi_thread")]
async fn unlocking_after_the_loss_says_so_at_once() {
    let server = RedisServer::start();
    let redsync = connect_to(&server).await;
    let guard = expired(redsync.mutex("name"), &server).await;
    server.pause();

    let (took, unlocked) = timed(guard.unlock()).await;

    let error = unlocked.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Lost);
    assert_eq!(error.to_string(), "lock \"name\" was lost: its time ran out");
    assert!(took < Duration::from_millis(40), "{took:?}: no server was asked");
    server.resume();
}

#[tokio::test(flavor = "multi_thread")]
async fn unlocking_what_the_server_has_lost_says_that_it_had_expired() {
    let server = RedisServer::start();
    let redsync = connect_to(&server).await;
    let guard = redsync.mutex("name").lock().await.unwrap();
    server.flushall();

    let error = guard.unlock().await.unwrap_err();

    assert_eq!(error.kind(), ErrorKind::AlreadyExpired);
    assert_contains(&error.to_string(), &["cannot release lock \"name\": it had already expired"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn unlocking_what_another_took_over_says_so_and_leaves_it() {
    let server = RedisServer::start();
    let redsync = connect_to(&server).await;
    let guard = redsync.mutex("name").lock().await.unwrap();
    server.set("name", "5f1c@thief:1", Some(60_000));

    let error = guard.unlock().await.unwrap_err();

    assert_eq!(error.kind(), ErrorKind::Taken);
    assert_contains(&error.to_string(), &["cannot release lock \"name\": another has it", "held by thief:1"]);
    assert_eq!(server.get("name").as_deref(), Some("5f1c@thief:1"));
    assert!(server.pttl("name") > 50_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn extending_what_another_took_over_says_so_and_leaves_it() {
    let server = RedisServer::start();
    let redsync = connect_to(&server).await;
    for repair in [false, true] {
        let guard = redsync.mutex("name").repair_on_extend(repair).lock().await.unwrap();
        server.set("name", "5f1c@thief:1", Some(60_000));

        let error = guard.extend().await.unwrap_err();

        assert_eq!(error.kind(), ErrorKind::Taken);
        assert_contains(
            &error.to_string(),
            &["cannot extend lock \"name\": another has it", "held by thief:1"],
        );
        assert!(!guard.is_valid(), "the server itself said that it is lost");
        assert_eq!(server.get("name").as_deref(), Some("5f1c@thief:1"));
        drop(guard);
        redsync.drain(DEADLINE).await;
        assert_eq!(server.get("name").as_deref(), Some("5f1c@thief:1"));
        server.flushall();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_what_another_took_over_leaves_it() {
    let server = RedisServer::start();
    let redsync = connect_to(&server).await;
    let guard = redsync.mutex("name").lock().await.unwrap();
    server.set("name", "thief", Some(60_000));

    drop(guard);

    assert!(redsync.drain(DEADLINE).await);
    assert_eq!(server.get("name").as_deref(), Some("thief"));
}

#[tokio::test(flavor = "multi_thread")]
async fn repairing_puts_the_key_back_on_a_node_that_lost_it() {
    let servers = servers(3);
    let redsync = connect(&servers).await;
    let mutex = redsync.mutex("name").fail_fast(false);
    let guard = mutex.lock().await.unwrap();
    servers[1].flushall();

    guard.extend().await.unwrap();

    assert_eq!(servers[1].get("name").as_deref(), Some(guard.token().as_str()));
    assert!((1..=8_000).contains(&servers[1].pttl("name")));
    guard.unlock().await.unwrap();
    assert_eq!(keys_on(&servers), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn repairing_puts_the_key_on_a_node_that_was_down_when_the_lock_was_taken() {
    let servers = servers(3);
    let redsync = connect(&servers).await;
    servers[1].kill();
    let guard = redsync.mutex("name").lock().await.unwrap();
    servers[1].restart();

    wait_until_repaired(&guard, &servers[1]).await;

    guard.unlock().await.unwrap();
    wait_until_empty(&servers, DEADLINE);
}

/// Extends until `server` has the key: its connection comes back after a short pause.
async fn wait_until_repaired(guard: &Guard, server: &RedisServer) {
    let began = std::time::Instant::now();
    while server.get(guard.name().as_str()).is_none() {
        assert!(began.elapsed() < DEADLINE, "the key is never put back");
        guard.extend().await.unwrap();
        // The pause between two extensions.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn repairing_never_overwrites_a_strangers_key() {
    let servers = servers(3);
    let redsync = connect(&servers).await;
    let mutex = redsync.mutex("name").fail_fast(false);
    let guard = mutex.lock().await.unwrap();
    servers[1].set("name", "a-stranger", Some(60_000));

    guard.extend().await.unwrap();
    guard.unlock().await.unwrap();

    assert_eq!(servers[1].get("name").as_deref(), Some("a-stranger"));
    assert!(servers[1].pttl("name") > 50_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_repairing_a_node_that_lost_the_key_stays_empty() {
    let servers = servers(3);
    let redsync = connect(&servers).await;
    let mutex = redsync.mutex("name").repair_on_extend(false).fail_fast(false);
    let guard = mutex.lock().await.unwrap();
    servers[1].flushall();

    guard.extend().await.unwrap();

    assert_eq!(servers[1].get("name"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn extending_what_a_majority_lost_says_that_it_had_expired() {
    let servers = servers(3);
    let redsync = connect(&servers).await;
    let guard = redsync.mutex("name").lock().await.unwrap();
    servers[0].flushall();
    servers[1].flushall();

    let error = guard.extend().await.unwrap_err();

    assert!(
        matches!(&error, Error::AlreadyExpired { nodes, .. }
            if nodes.iter().all(|node| matches!(node, NodeError::NotHeld { .. }))),
        "{error:?}"
    );
    assert!(!guard.is_valid());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_lost_once_is_never_valid_again() {
    let servers = servers(3);
    let redsync = connect(&servers).await;
    let mutex = redsync.mutex("name").repair_on_extend(false).fail_fast(false);
    let guard = mutex.lock().await.unwrap();
    let token = guard.token().to_string();
    servers[0].flushall();
    servers[1].flushall();
    guard.extend().await.unwrap_err();

    // As if the nodes had remembered.
    servers[0].set("name", &token, Some(60_000));
    servers[1].set("name", &token, Some(60_000));

    guard.extend().await.unwrap_err();
    assert!(!guard.is_valid());
    assert_eq!(guard.remaining(), Duration::ZERO);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_guard_releases_soon() {
    for nodes in [1, 3] {
        let servers = servers(nodes);
        let redsync = connect(&servers).await;
        let guard = redsync.mutex("name").expiry(MINUTE).lock().await.unwrap();

        drop(guard);

        wait_until_empty(&servers, DEADLINE);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_dropped_outside_the_runtime_releases_soon() {
    for nodes in [1, 3] {
        let servers = servers(nodes);
        let redsync = connect(&servers).await;
        let guard = redsync.mutex("name").expiry(MINUTE).lock().await.unwrap();

        thread::spawn(move || drop(guard)).join().unwrap();

        wait_until_empty(&servers, DEADLINE);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn draining_waits_for_the_releases_of_dropped_guards() {
    let servers = servers(3);
    let redsync = connect(&servers).await;
    for number in 0..100 {
        drop(redsync.mutex(format!("name {number}")).lock().await.unwrap());
    }

    assert!(redsync.drain(DEADLINE).await);

    assert_eq!(keys_on(&servers), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_is_never_valid_longer_than_its_key() {
    let server = RedisServer::start();
    let redsync = connect_to(&server).await;
    // Drift counts for this side; without it, hardly anything hides a bound that is counted from too late.
    let mutex = redsync.mutex("name").drift_factor(0.0).expiry(Duration::from_secs(5));
    for round in 0..300 {
        let guard = mutex.lock().await.unwrap();
        if round % 2 == 1 {
            guard.extend().await.unwrap();
        }
        // The server is asked first: by the time `remaining` is read, its own time left can only be less.
        let server_says = Duration::from_millis(u64::try_from(server.pttl("name")).unwrap());
        let guard_says = guard.remaining();
        assert!(guard_says <= server_says, "{guard_says:?} of {server_says:?}, round {round}");
        guard.unlock().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_that_share_a_mutex_have_guards_of_their_own() {
    let server = RedisServer::start();
    let mutex = connect_to(&server).await.mutex("name").expiry(MINUTE);
    let stale = expired(mutex.clone(), &server).await;
    let sibling = mutex.lock().await.unwrap();

    assert_ne!(stale.token(), sibling.token());
    assert!(sibling.is_valid() && !stale.is_valid());
    stale.unlock().await.unwrap_err();

    assert_eq!(server.get("name").as_deref(), Some(sibling.token().as_str()));
    sibling.unlock().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_hundred_who_try_at_once_exactly_one_holds() {
    let server = RedisServer::start();
    let mut trying = Vec::new();
    for _ in 0..10 {
        let redsync = connect_to(&server).await;
        for _ in 0..10 {
            let mutex = redsync.mutex("name").expiry(MINUTE).tries(1);
            trying.push(tokio::spawn(async move { mutex.lock().await }));
        }
    }

    let mut tried = Vec::new();
    for trying in trying {
        tried.push(trying.await.unwrap());
    }

    assert_eq!(tried.iter().filter(|locked| locked.is_ok()).count(), 1);
    assert!(
        tried.iter().filter_map(|locked| locked.as_ref().err()).all(|error| error.kind() == ErrorKind::Taken)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_is_exclusive_under_load() {
    assert_exclusive_under_load(|_, mutex| mutex).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_is_polled_for_is_exclusive_under_load() {
    assert_exclusive_under_load(|_, mutex| polling(mutex)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_wait_and_those_who_poll_exclude_one_another_under_load() {
    assert_exclusive_under_load(|task, mutex| if task % 2 == 0 { mutex } else { polling(mutex) }).await;
}

fn polling(mutex: Mutex) -> Mutex {
    mutex.wait_up_to(MINUTE).retry_delay_fn(|_| Duration::from_micros(rand::random_range(1_000..5_000)))
}

/// Has tasks increment a counter under one lock, each as `with` says.
async fn assert_exclusive_under_load(with: fn(u32, Mutex) -> Mutex) {
    const TASKS: u32 = 8;
    const ROUNDS: u32 = 50;
    let servers = servers(3);
    // Read and written in two steps, so that an increment that is not alone is lost.
    let counter = Arc::new(AtomicU32::new(0));
    let mut tasks = Vec::new();
    for task in 0..TASKS {
        let mutex = with(task, connect(&servers).await.mutex("counter"));
        let counter = Arc::clone(&counter);
        tasks.push(tokio::spawn(async move {
            for _ in 0..ROUNDS {
                let guard = mutex.lock().await.unwrap();
                let read = counter.load(Ordering::Relaxed);
                tokio::task::yield_now().await;
                counter.store(read + 1, Ordering::Relaxed);
                guard.unlock().await.unwrap();
            }
        }));
    }

    for task in tasks {
        task.await.unwrap();
    }

    assert_eq!(counter.load(Ordering::Relaxed), TASKS * ROUNDS);
    wait_until_empty(&servers, DEADLINE);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_may_hold_any_character() {
    let server = RedisServer::start();
    let redsync = connect_to(&server).await;
    let names = [
        " ",
        "two words",
        "new\nline",
        "\r\n",
        "nul\0byte",
        "{tag}rest",
        "*",
        "--",
        "$(rm -rf)",
        "%41",
        "\"quoted\"",
        "héllo 🔒",
        "\u{202e}",
        "0",
        &"long".repeat(256),
    ];
    for name in names {
        let guard = redsync.mutex(name).lock().await.unwrap();
        assert_eq!(server.keys(), [name]);
        assert!(redsync.mutex(name).try_lock().await.unwrap().is_none(), "{name:?}");
        guard.extend().await.unwrap();
        guard.unlock().await.unwrap();
        assert_eq!(server.keys(), [""; 0], "{name:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_begin_alike_are_different_locks() {
    let server = RedisServer::start();
    let redsync = connect_to(&server).await;
    let _longer = redsync.mutex("foobar").lock().await.unwrap();

    let shorter = redsync.mutex("foo").try_lock().await.unwrap();

    shorter.expect("foo is free").unlock().await.unwrap();
    assert_eq!(server.keys(), ["foobar"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn threads_with_runtimes_of_their_own_exclude_one_another() {
    let server = RedisServer::start();
    let (url, start) = (server.url(), Barrier::new(4));
    let holders = thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let runtime = tokio::runtime::Builder::new_current_thread();
                    let runtime = { runtime }.enable_all().build().unwrap();
                    start.wait();
                    runtime.block_on(async {
                        let redsync = Redsync::connect([&url]).await.unwrap();
                        let tried = redsync.mutex("name").expiry(MINUTE).try_lock().await.unwrap();
                        tried.map(Guard::into_lease)
                    })
                })
            })
            .collect();
        threads.into_iter().filter_map(|thread| thread.join().unwrap()).count()
    });
    assert_eq!(holders, 1);
}
