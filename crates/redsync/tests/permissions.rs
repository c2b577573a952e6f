//! A server that lets its users do only what they must: the rules that the documentation gives are enough, and no more.

mod support;

use std::time::{Duration, Instant};

use redsync::Redsync;
use redsync_testkit::RedisServer;
use tokio::time::timeout;

use self::support::{DEADLINE, assert_contains, cluster, over};

const OPERATING: &str = include_str!("../../../docs/operating.md");

/// The rules that `docs/operating.md` gives for a user, as they stand there.
fn documented_rules() -> String {
    let (_, rules) =
        OPERATING.split_once("ACL SETUSER redsync on >PASSWORD").expect("the page has the rules");
    let (rules, _) = rules.split_once("```").expect("they end");
    rules.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A server whose only other user may do this.
fn server_with(rules: &str) -> RedisServer {
    RedisServer::builder().user("redsync", "secret", rules).start()
}

fn is_before_7(server: &RedisServer) -> bool {
    server.info("server").contains("redis_version:6.")
}

fn as_user(server: &RedisServer) -> Redsync {
    over([format!("redis://redsync:secret@{}", server.address())])
}

/// How long a hand-over from `first` to `second` takes, by a lock of this name.
async fn hand_over(first: &Redsync, second: &Redsync, name: &str) -> Duration {
    let holder = first.mutex(name).lock().await.unwrap();
    let mutex = second.mutex(name);
    let waiter = tokio::spawn(async move { (mutex.lock().await.unwrap(), Instant::now()) });
    while first.inspect(name).await.unwrap().waiting() == 0 {
        tokio::task::yield_now().await;
    }
    let released = Instant::now();
    holder.unlock().await.unwrap();
    let (guard, had) = timeout(DEADLINE, waiter).await.expect("it is handed over").unwrap();
    guard.unlock().await.unwrap();
    had.saturating_duration_since(released)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documented_user_can_do_all_that_locks_need() {
    let server = server_with(&documented_rules());
    let (first, second) = (as_user(&server), as_user(&server));
    first.check_nodes().await.unwrap();
    assert!(first.health_warnings().await.unwrap().is_empty());

    let guard = first.mutex("lock:a").lock().await.unwrap();
    guard.extend().await.unwrap();
    assert!(second.mutex("lock:a").try_lock().await.unwrap().is_none());
    assert!(second.inspect("lock:a").await.unwrap().holder().is_some());
    let lease = guard.into_lease();
    second.adopt(&lease).await.unwrap().unlock().await.unwrap();
    hand_over(&first, &second, "lock:a").await;
    assert_eq!(server.command_count("publish"), 1, "the server told the waiter");
    assert_eq!(server.keys(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documented_user_can_do_all_that_locks_with_fences_need() {
    let server = server_with(&documented_rules());
    let (first, second) = (as_user(&server), as_user(&server));
    let guard = first.mutex("lock:a").fenced().lock().await.unwrap();
    let fence = guard.fence();
    guard.extend().await.unwrap();
    assert!(second.mutex("lock:a").fenced().try_lock().await.unwrap().is_none());
    let lease = guard.into_lease();
    let holder = second.mutex("lock:a").fenced().adopt(&lease).await.unwrap();
    assert_eq!(holder.fence(), fence);

    let mutex = first.mutex("lock:a").fenced();
    let waiter = tokio::spawn(async move { mutex.lock().await.unwrap() });
    while second.inspect("lock:a").await.unwrap().waiting() == 0 {
        tokio::task::yield_now().await;
    }
    holder.unlock().await.unwrap();
    let next = timeout(DEADLINE, waiter).await.expect("it is handed over").unwrap();
    assert!(next.fence() > fence);
    assert_eq!(server.command_count("publish"), 1, "the server told the waiter");
    next.unlock().await.unwrap();
    assert_eq!(server.keys(), ["{lock:a}:redsync:fence"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documented_user_can_barge() {
    let server = server_with(&documented_rules());
    let (first, second) = (as_user(&server), as_user(&server));
    let holder = first.mutex("lock:a").barging(true).lock().await.unwrap();
    let mutex = second.mutex("lock:a").barging(true);
    let waiter = tokio::spawn(async move { mutex.lock().await.unwrap() });
    while first.inspect("lock:a").await.unwrap().waiting() == 0 {
        tokio::task::yield_now().await;
    }
    holder.unlock().await.unwrap();
    timeout(DEADLINE, waiter).await.expect("it is told").unwrap().unlock().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documented_user_can_do_nothing_else() {
    let server = server_with(&documented_rules());
    let redsync = as_user(&server);
    let error = redsync.mutex("other:a").try_lock().await.unwrap_err().to_string();
    assert_contains(&error, &["NOPERM"]);
    for command in ["FLUSHALL", "KEYS *", "CONFIG GET *", "SET other:a b", "PUBLISH news b"] {
        let words: Vec<&str> = command.split(' ').collect();
        let denied = server.command_as("redsync", "secret", &words);
        assert!(format!("{denied:?}").contains("NOPERM"), "{command}: {denied:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_documented_command_is_needed() {
    // Sent only now and then: by a script that was forgotten, and by one that barges.
    const SELDOM: [&str; 2] = ["eval", "zrange"];
    let rules = match is_before_7(&RedisServer::start()) {
        // There are no permissions on subcommands then.
        true => documented_rules().replace("+script|load", "+script"),
        false => documented_rules(),
    };
    let commands: Vec<&str> = rules.split(' ').filter_map(|rule| rule.strip_prefix('+')).collect();
    for command in commands.iter().filter(|command| !SELDOM.contains(command)) {
        let server = server_with(&format!("{rules} -{command}"));
        let (first, second) = (as_user(&server), as_user(&server));
        let works = timeout(Duration::from_secs(1), async {
            let guard = first.mutex("lock:a").restart_guard(true).try_lock().await.ok()??;
            guard.extend().await.ok()?;
            second.inspect("lock:a").await.ok()?.nodes()[0].answer.as_ref().ok()?;
            guard.unlock().await.ok()?;
            Some(hand_over(&first, &second, "lock:a").await)
        });
        let works = matches!(works.await, Ok(Some(took)) if took < Duration::from_millis(40));
        let denied = server.command(&["ACL", "LOG", "COUNT", "1"]);
        assert!(!works || format!("{denied:?}").contains(command), "{command} is not needed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_subscribe_asks_again_and_gets_its_turn() {
    let server = server_with(&documented_rules().replace("&redsync:grants:*", ""));
    let (first, second) = (as_user(&server), as_user(&server));
    let took = hand_over(&first, &second, "lock:a").await;
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_cluster_all_keys_of_a_lock_are_in_its_slot_and_waiters_are_told_there() {
    let server = cluster();
    let (first, second) = (over([server.url()]), over([server.url()]));
    for name in ["orders", "{orders}:42", "a{b}c", "{", "é"] {
        let took = hand_over(&first, &second, name).await;
        assert!(took < Duration::from_secs(1), "{name}: {took:?}");
    }
    // Before Redis 7, slots have no channels of their own.
    let told = if is_before_7(&server) { 0 } else { 5 };
    assert_eq!(server.command_counts(["spublish", "publish"]), [told, 0]);
    assert_eq!(server.keys(), Vec::<String>::new());
}
