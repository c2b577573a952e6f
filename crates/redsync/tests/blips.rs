//! Blips: all servers are out of reach for a while and come back, or restart one after the other. A lock that is held
//! stays held, and nobody else gets in.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use redsync::{Clock, Guard, Redsync, SystemClock};
use redsync_testkit::{Proxy, RedisServer, servers, wait_until};
use support::{DEADLINE, over};
use tokio::time::timeout;

const SECOND: Duration = Duration::from_secs(1);
const EXPIRY: Duration = Duration::from_secs(3);

/// Three fifths of the expiry: the first renewal and many after it fail.
const BLIP: Duration = Duration::from_millis(1800);

/// Holds a lock through a blip that `begins` and `ends`, and fails unless it is renewed after it and no key was deleted.
async fn survives(begins: impl Fn(&RedisServer, &Proxy), ends: impl Fn(&RedisServer, &Proxy)) {
    let servers = servers(3);
    let proxies: Vec<Proxy> = servers.iter().map(Proxy::before).collect();
    let redsync = over(proxies.iter().map(Proxy::url));
    let guard = redsync.mutex("name").expiry(EXPIRY).lock().await.unwrap();
    // A majority is enough to hold it; the third is still on its way.
    wait_until("all have the key", DEADLINE, || servers.iter().all(|server| server.get("name").is_some()));
    let each = |does: &dyn Fn(&RedisServer, &Proxy)| {
        servers.iter().zip(&proxies).for_each(|(server, proxy)| does(server, proxy));
    };

    each(&begins);
    // The blip goes on for that long.
    tokio::time::sleep(BLIP).await;
    each(&ends);
    let end_of_blip = SystemClock.now();
    // Only what was asked for after the blip lasts for so long.
    wait_until("it is renewed, or lost", DEADLINE, || {
        guard.valid_until() > end_of_blip + EXPIRY || !guard.is_valid()
    });

    assert!(guard.is_valid(), "{}", guard.lost().await);
    for server in &servers {
        assert_eq!(server.get("name").as_deref(), Some(guard.token().as_str()));
        assert_eq!(server.command_count("del"), 0, "the key was deleted meanwhile");
        assert_eq!(server.command_count("set"), 1, "the key was set anew meanwhile");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_survives_a_pause_of_all_servers() {
    survives(|server, _| server.pause(), |server, _| server.resume()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_survives_a_network_that_keeps_everything_back() {
    survives(|_, proxy| proxy.hold(), |_, proxy| proxy.pass()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_survives_a_network_that_swallows_everything() {
    survives(|_, proxy| proxy.black_hole(), |_, proxy| proxy.pass()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_survives_servers_that_reset_and_refuse() {
    let reset_and_refuse = |_: &RedisServer, proxy: &Proxy| {
        proxy.reset();
        proxy.refuse();
    };
    survives(reset_and_refuse, |_, proxy| proxy.pass()).await;
}

/// One who tries to take "name" all the time, with connections of its own.
struct Rival {
    tries: Arc<AtomicUsize>,
    got_in: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

impl Rival {
    fn of(redsync: &Redsync, expiry: Duration) -> Self {
        let (tries, got_in) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let task = tokio::spawn({
            let (tries, got_in) = (Arc::clone(&tries), Arc::clone(&got_in));
            let mutex = redsync.mutex("name").expiry(expiry);
            async move {
                let mut guard = None;
                while guard.is_none() {
                    // Errors are part of it: servers are down, votes withheld.
                    guard = mutex.try_lock().await.ok().flatten();
                    tries.fetch_add(1, Ordering::SeqCst);
                    // The pause between two tries.
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                got_in.store(true, Ordering::SeqCst);
            }
        });
        Self { tries, got_in, task }
    }
}

fn guarded(servers: &[RedisServer]) -> Redsync {
    let builder = Redsync::builder().restart_guard(true);
    servers.iter().fold(builder, |builder, server| builder.url(server.url())).build().unwrap()
}

/// Waits until `server` has the guard's key.
async fn wait_until_there(server: &RedisServer, guard: &Guard) {
    let is_there = async {
        while server.get("name").as_deref() != Some(guard.token().as_str()) {
            // The pause between two looks.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(DEADLINE, is_there).await.expect("the key is repaired");
}

/// What came of a rolling restart under a held lock.
struct Rolled {
    is_valid: bool,
    got_in: bool,
    tries: usize,
    after_unlock: bool,
}

/// Kills each of three servers in turn, starts it again without its data, and goes on when it has the key again.
async fn rolling_restart() -> Rolled {
    const EXPIRY: Duration = Duration::from_secs(2);
    let servers = servers(3);
    let guard = guarded(&servers).mutex("name").expiry(EXPIRY).lock().await.unwrap();
    let rival = Rival::of(&guarded(&servers), EXPIRY);
    for server in &servers {
        wait_until_there(server, &guard).await;
    }

    for server in &servers {
        server.kill();
        server.restart();
        wait_until_there(server, &guard).await;
    }

    let (is_valid, got_in) = (guard.is_valid(), rival.got_in.load(Ordering::SeqCst));
    let tries = rival.tries.load(Ordering::SeqCst);
    guard.unlock().await.unwrap();
    let after_unlock = timeout(DEADLINE, rival.task).await.is_ok();
    Rolled { is_valid, got_in, tries, after_unlock }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_costs_no_lock_and_lets_no_rival_in() {
    let rolled = rolling_restart().await;

    assert!(rolled.is_valid, "the lock was lost");
    assert!(!rolled.got_in, "the rival got in");
    assert!(rolled.tries > 20 && rolled.after_unlock, "the rival did try: {} times", rolled.tries);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_down_for_an_expiry_gets_its_key_back() {
    let servers = servers(3);
    let redsync = over(servers.iter().map(RedisServer::url));
    let guard = redsync.mutex("name").expiry(SECOND).lock().await.unwrap();
    servers[1].kill();
    // It is down for that long.
    tokio::time::sleep(SECOND).await;

    servers[1].restart();

    wait_until_there(&servers[1], &guard).await;
    assert!(guard.is_valid());
}
