//! Servers that answer, but refuse: what a person is told, and that nothing is changed by it.

mod support;

use std::thread;
use std::time::{Duration, Instant};

use redsync::{Error, ErrorKind, FaultKind, Fence, FencedGuard, Lease, NodeError, Redsync, Remedy};
use redsync_testkit::{RedisServer, servers, wait_until};
use tokio::time::timeout;

use self::support::{DEADLINE, assert_contains, connect, connect_to, with_causes};

/// What the only node's failure says.
#[track_caller]
fn refusal(error: &Error) -> String {
    let [NodeError::Failed { source, .. }] = error.nodes() else {
        panic!("not the failure of one node: {error:?}");
    };
    assert_eq!(source.kind(), FaultKind::Refused, "{error:?}");
    assert_contains(&error.to_string(), &[&source.to_string()]);
    with_causes(error)
}

fn url_of(server: &RedisServer, user: &str, password: &str) -> String {
    format!("redis://{user}:{password}@{}", server.address())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_called_that() {
    let server = RedisServer::builder().password("right").start();

    let error = Redsync::connect([url_of(&server, "", "wrong")]).await.unwrap_err();

    assert_contains(&refusal(&error), &["wrong user or password", "WRONGPASS"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_password_is_called_that() {
    let server = RedisServer::builder().password("right").start();

    let error = Redsync::connect([format!("redis://{}", server.address())]).await.unwrap_err();

    assert_contains(&refusal(&error), &["the server wants a password", "NOAUTH"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_may_not_set_is_told_so() {
    let server = RedisServer::builder().user("ann", "secret", "~* +@all -set").start();
    let redsync = Redsync::connect([url_of(&server, "ann", "secret")]).await.unwrap();

    let error = redsync.mutex("name").tries(1).lock().await.unwrap_err();

    assert_contains(&refusal(&error), &["user ann lacks permissions", "NOPERM", "ACL SETUSER ann +set"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_may_not_run_scripts_is_told_so_before_it_is_granted_anything() {
    let server = RedisServer::builder().user("ann", "secret", "~* +@all -evalsha -eval").start();
    let redsync = Redsync::connect([url_of(&server, "ann", "secret")]).await.unwrap();

    let error = redsync.mutex("name").lock().await.unwrap_err();

    assert_contains(&refusal(&error), &["user ann lacks a permission", "NOPERM", "ACL SETUSER ann +evalsha"]);
    assert_eq!(server.get("name"), None, "what cannot be released is not granted");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_user_may_not_release_is_not_granted_and_the_missing_rules_are_named() {
    for (rules, missing) in [
        ("~lock:* &* +@all", "ACL SETUSER ann ~{lock:a}:redsync:*"),
        ("~lock:* ~{lock:*}:redsync:* &* +@all -del", "ACL SETUSER ann +del"),
        ("~lock:* ~{lock:*}:redsync:* &* +@all -pexpire -zpopmin", "ACL SETUSER ann +pexpire +zpopmin"),
        ("~{lock:*}:redsync:* &* +@all", "ACL SETUSER ann ~lock:a"),
    ] {
        let server = RedisServer::builder().user("ann", "secret", rules).start();
        let redsync = Redsync::connect([url_of(&server, "ann", "secret")]).await.unwrap();
        let mutex = redsync.mutex("lock:a");

        for (way, error) in [
            ("plain", mutex.lock().await.unwrap_err()),
            ("fenced", mutex.clone().fenced().lock().await.unwrap_err()),
            ("polling", mutex.clone().retry_delay(Duration::from_millis(10)).lock().await.unwrap_err()),
        ] {
            assert_contains(&refusal(&error), &[missing, "NOPERM", "user ann lacks permissions"]);
            assert_eq!(error.remedy(), Some(Remedy::Access), "{way}: {error}");
        }
        assert_eq!(server.keys(), [""; 0], "{rules}: nothing is granted");
        server.command(&["ACL", "SETUSER", "ann", "allkeys", "+@all"]);
        mutex.lock().await.expect("it is looked at anew").unlock().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_who_waits_is_not_granted_what_it_may_not_release() {
    let server = RedisServer::builder().user("ann", "secret", "~lock:* &* +@all -del").start();
    let all = connect_to_as_kit(&server).await;
    let holder = all.mutex("lock:a").lock().await.unwrap();
    let redsync = Redsync::connect([url_of(&server, "ann", "secret")]).await.unwrap();

    let error = timeout(DEADLINE, redsync.mutex("lock:a").lock()).await.expect("it ends").unwrap_err();

    assert_contains(&refusal(&error), &["ACL SETUSER ann +del ~{lock:a}:redsync:*"]);
    holder.unlock().await.unwrap();
    assert_eq!(server.get("lock:a"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn permissions_are_looked_at_once_for_each_beginning_of_a_name() {
    let server = RedisServer::builder().user("ann", "secret", format!("{FEW_PERMISSIONS} +script")).start();
    let redsync = Redsync::connect([url_of(&server, "ann", "secret")]).await.unwrap();
    redsync.mutex("orders:1").lock().await.unwrap().unlock().await.unwrap();
    let scripts = || server.command_counts(["evalsha", "eval"]).iter().sum::<u64>();
    let before = scripts();

    for number in 0..10 {
        redsync.mutex(format!("orders:{number}")).lock().await.unwrap().unlock().await.unwrap();
    }

    assert_eq!(scripts() - before, 10, "the releases");
    assert_eq!(server.command(&["ACL", "LOG"]).array().len(), 0, "nothing is tried that is denied");
}

async fn connect_to_as_kit(server: &RedisServer) -> Redsync {
    let kit = "redsync-testkit";
    Redsync::connect([url_of(server, kit, kit)]).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_may_not_use_the_key_is_told_so() {
    let server = RedisServer::builder().user("ann", "secret", "~orders:* +@all").start();
    let redsync = Redsync::connect([url_of(&server, "ann", "secret")]).await.unwrap();

    let error = redsync.mutex("report").tries(1).lock().await.unwrap_err();

    assert_contains(
        &refusal(&error),
        &["user ann lacks permissions", "NOPERM", "~report ~{report}:redsync:*"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn few_permissions_are_enough() {
    let server = RedisServer::builder().user("ann", "secret", FEW_PERMISSIONS).start();
    let redsync = Redsync::connect([url_of(&server, "ann", "secret")]).await.unwrap();

    let guard = redsync.mutex("orders:42").lock().await.unwrap();
    guard.extend().await.unwrap();
    redsync.inspect("orders:42").await.unwrap().holder().unwrap();
    guard.unlock().await.unwrap();

    assert_eq!(server.keys(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn few_permissions_are_enough_to_wait_in_queue() {
    for telling in ["", "&redsync:grants:* +subscribe +publish"] {
        let rules = format!("{FEW_PERMISSIONS} {telling}");
        let server = RedisServer::builder().user("ann", "secret", &rules).start();
        let redsync = Redsync::connect([url_of(&server, "ann", "secret")]).await.unwrap();
        let guard = redsync.mutex("orders:42").lock().await.unwrap();
        let next = redsync.mutex("orders:42");
        let waiting = tokio::spawn(async move { next.lock().await });
        wait_until("it is in the queue", DEADLINE, || server.keys().len() > 1);

        guard.unlock().await.unwrap();

        // Far less than the refresh of its place, or the lease that a lost grant would have left.
        let next = tokio::time::timeout(Duration::from_secs(1), waiting).await.expect("it is its turn");
        next.unwrap().unwrap().unlock().await.unwrap();
        assert_eq!(server.keys(), [""; 0], "{rules}");
    }
}

/// What a user needs for locks whose names begin with `orders:`. Where it may not subscribe, those who wait ask now and
/// then.
const FEW_PERMISSIONS: &str = "resetchannels ~orders:* ~{orders:* +hello +info +eval +evalsha +time \
    +set +get +del +pexpire +pttl \
    +zadd +zrem +zrank +zscore +zrange +zrangebyscore +zcard +zpopmin";

#[tokio::test(flavor = "multi_thread")]
async fn a_full_server_is_called_that() {
    let server = full_server();
    let redsync = connect_to(&server).await;

    let error = redsync.mutex("name").tries(1).lock().await.unwrap_err();

    assert_contains(&refusal(&error), &["the server is out of memory", "OOM"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_on_a_server_that_became_full_can_be_extended_and_released() {
    let server = RedisServer::builder().config("maxmemory-policy", "noeviction").start();
    let redsync = connect_to(&server).await;
    let guard = redsync.mutex("name").lock().await.unwrap();
    server.command(&["CONFIG", "SET", "maxmemory", "1mb"]);
    fill(&server);

    guard.extend().await.unwrap();
    guard.unlock().await.unwrap();

    assert_eq!(server.get("name"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_server_among_three_does_not_matter() {
    let mut servers = servers(2);
    servers.push(full_server());
    let redsync = connect(&servers).await;

    let guard = redsync.mutex("name").lock().await.unwrap();
    guard.extend().await.unwrap();
    guard.unlock().await.unwrap();
}

/// A server that can keep nothing more.
fn full_server() -> RedisServer {
    let server =
        RedisServer::builder().config("maxmemory", "1mb").config("maxmemory-policy", "noeviction").start();
    fill(&server);
    server
}

/// Fills `server` until it refuses. A server that is over its limit from the beginning is full at once.
fn fill(server: &RedisServer) {
    let value = "x".repeat(1000);
    for number in 0..10_000 {
        let reply = server.command(&["SET", &format!("filling:{number}"), &value]);
        if reply.error().is_some_and(|error| error.starts_with("OOM")) {
            return;
        }
    }
    panic!("the server is never full");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_is_called_read_only_and_its_primary_is_asked_for() {
    let primary = RedisServer::start();
    let replica = RedisServer::builder().replica_of(&primary).start();
    let redsync = connect_to(&replica).await;

    let error = redsync.mutex("name").tries(1).lock().await.unwrap_err();

    assert_contains(&refusal(&error), &["read-only replica", "name its primary instead", "READONLY"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_still_loads_its_data_is_called_that() {
    // One tenth of a millisecond per command, so that loading takes more than a second.
    let server = RedisServer::builder().persistent().config("key-load-delay", "100").start();
    let script = "for n = 1, 12000 do redis.call('SET', 'key:' .. n, n) end";
    server.command(&["EVAL", script, "0"]);
    let redsync = connect_to(&server).await;
    let mutex = redsync.mutex("name").tries(1);
    let began = Instant::now();

    let said = thread::scope(|scope| {
        // Returns when the server has loaded everything.
        let restarting = scope.spawn(|| server.restart());
        let mut said = Vec::new();
        while !restarting.is_finished() && began.elapsed() < DEADLINE {
            let locked =
                tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(mutex.lock()));
            if let Err(error) = locked {
                said.push(with_causes(&error));
            }
            // The pause between two tries, a small part of what loading takes.
            thread::sleep(Duration::from_millis(20));
        }
        said
    });

    let said = said.iter().find(|said| said.contains("LOADING")).unwrap_or_else(|| {
        panic!("no attempt met the server while it was loading: {said:?}");
    });
    assert_contains(said, &["the server is still loading its data"]);
    let guard = redsync.mutex("another").lock().await.unwrap();
    guard.unlock().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_another_type_is_called_that_and_left_as_it_is() {
    let server = RedisServer::start();
    server.command(&["RPUSH", "name", "first", "second"]);
    let redsync = connect_to(&server).await;

    let error = redsync.mutex("name").tries(1).lock().await.unwrap_err();

    assert_contains(
        &refusal(&error),
        &["the key of this name holds something else than a lock", "WRONGTYPE"],
    );
    assert_eq!(list(&server), ["first", "second"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_became_another_type_is_neither_extended_nor_released() {
    let server = RedisServer::start();
    let redsync = connect_to(&server).await;
    let guard = redsync.mutex("name").lock().await.unwrap();
    server.command(&["DEL", "name"]);
    server.command(&["RPUSH", "name", "first", "second"]);

    let extended = guard.extend().await.unwrap_err();
    let unlocked = guard.unlock().await.unwrap_err();

    assert_contains(&refusal(&extended), &["WRONGTYPE"]);
    assert_contains(&refusal(&unlocked), &["WRONGTYPE"]);
    assert_eq!(list(&server), ["first", "second"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_key_of_the_queue_has_another_type_that_key_is_named() {
    for (name, line) in [("name", "{name}:redsync:line"), ("{a}:1", "{a}:1:redsync:tagged:line")] {
        let server = RedisServer::start();
        let redsync = connect_to(&server).await;
        let holder = redsync.mutex(name).lock().await.unwrap();
        server.command(&["SET", line, "something else"]);

        let waiting = redsync.mutex(name).expiry(Duration::from_secs(2)).lock().await.unwrap_err();
        let unlocked = holder.unlock().await.unwrap_err();

        let said = format!("the key {line:?} holds something else than the queue of this lock; delete it");
        assert_contains(&refusal(&waiting), &[&said, "WRONGTYPE"]);
        assert_contains(&refusal(&unlocked), &[&said, "WRONGTYPE"]);
        assert_eq!(server.get(line).as_deref(), Some("something else"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_another_locks_key_is_refused_wherever_a_name_is_given() {
    let server = RedisServer::start();
    let redsync = connect_to(&server).await;
    let said = "invalid name: it contains \"}:redsync:\"";
    for name in ["{x}:redsync:line", "{x}:redsync:fence", "{x}:redsync:redsync:grants:0"] {
        for error in [
            redsync.mutex(name).try_lock().await.unwrap_err(),
            redsync.mutex(name).fenced().lock().await.unwrap_err(),
            redsync.inspect(name).await.unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::Invalid, "{name}: {error}");
            assert_contains(&error.to_string(), &[said]);
        }
        let line = format!("redsync:8000:{}:1700000000000000", name.replace(':', "%3A"));
        assert_contains(&line.parse::<Lease>().unwrap_err().to_string(), &["invalid lease: ", said]);
        let parts = Lease::from_parts(name, "1700000000000000", Duration::from_secs(8));
        assert_contains(&parts.unwrap_err().to_string(), &[said]);
    }
    assert_eq!(server.keys(), Vec::<String>::new());
}

fn list(server: &RedisServer) -> Vec<String> {
    let reply = server.command(&["LRANGE", "name", "0", "-1"]);
    reply.array().iter().map(|element| element.text().to_owned()).collect()
}

/// What is found in the place of a lock's counter that is none.
const NO_COUNTERS: [&[&str]; 6] = [
    &["RPUSH", COUNTER, "first"],
    &["SET", COUNTER, "junk"],
    &["SET", COUNTER, "9007199254740993"],
    &["HSET", COUNTER, "field", "1"],
    &["SET", COUNTER, "-5"],
    &["SET", COUNTER, "1e3"],
];

/// There is no larger one. Whoever had it let go of the lock.
const AT_ITS_END: &[&str] = &["SET", COUNTER, "9007199254740991"];

const COUNTER: &str = "{name}:redsync:fence";

const EXPIRY: Duration = Duration::from_secs(2);

fn spoil(server: &RedisServer, command: &[&str]) {
    server.command(&["DEL", COUNTER]);
    assert!(server.command(command).error().is_none(), "{command:?}");
}

/// Whether the server's counter is what a majority agreed on.
fn counts_to(server: &RedisServer, fence: Fence) -> bool {
    server.command(&["TYPE", COUNTER]).text() == "string" && server.get(COUNTER) == Some(fence.to_string())
}

/// A lock that is held, one who waits for it with a fence, and counters in that state when it is handed over.
async fn handed_over_where(
    servers: &[RedisServer],
    spoilt: &[RedisServer],
    command: &[&str],
) -> Result<FencedGuard, Error> {
    let redsync = connect(servers).await;
    let holder = redsync.mutex("name").lock().await.unwrap();
    let next = redsync.mutex("name").fenced();
    let waiting = tokio::spawn(async move { next.lock().await });
    wait_until("it is in the queue everywhere", DEADLINE, || {
        servers.iter().all(|server| server.waiting("name") == 1)
    });
    spoilt.iter().for_each(|server| spoil(server, command));
    holder.unlock().await.unwrap();
    timeout(DEADLINE, waiting).await.expect("it is its turn").unwrap()
}

/// Of so many servers as decide, `error` names each, and says what is wrong there.
#[track_caller]
fn assert_says_that_counters_are_none(error: &Error, servers: &[RedisServer]) {
    assert_eq!(error.kind(), ErrorKind::NoQuorum, "{error}");
    let text = error.to_string();
    let named = servers.iter().filter(|server| text.contains(&server.address())).count();
    assert!(named >= servers.len().min(2), "{named} are named in: {text}");
    assert_contains(&text, &["fence", "counter", "no number"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_counter_that_is_none_is_repaired_where_the_lock_is_free() {
    let servers = servers(3);
    for command in NO_COUNTERS {
        spoil(&servers[0], command);
        let redsync = connect(&servers).await;

        // It is repaired when the guard is renewed.
        let guard = redsync.mutex("name").expiry(EXPIRY).fenced().lock().await.unwrap();

        wait_until("the counter is repaired", DEADLINE, || counts_to(&servers[0], guard.fence()));
        assert!(guard.is_valid(), "{command:?}");
        let former = guard.fence();
        guard.unlock().await.unwrap();
        let guard = redsync.mutex("name").fenced().lock().await.unwrap();
        assert!(guard.fence() > former, "{command:?}");
        guard.unlock().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_counter_that_is_none_is_repaired_where_the_lock_is_handed_over() {
    let servers = servers(3);
    for command in NO_COUNTERS {
        let guard = handed_over_where(&servers, &servers[..1], command).await.unwrap();

        wait_until("the counter is repaired", DEADLINE, || counts_to(&servers[0], guard.fence()));
        assert!(guard.is_valid(), "{command:?}");
        guard.unlock().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_most_counters_are_none_a_free_lock_is_not_granted_with_a_fence() {
    for (nodes, spoilt) in [(1, 1), (3, 2), (3, 3)] {
        let servers = servers(nodes);
        for command in NO_COUNTERS.into_iter().chain([AT_ITS_END]) {
            servers[..spoilt].iter().for_each(|server| spoil(server, command));
            let kept = || {
                let of = |server: &RedisServer| {
                    ["DUMP", "PTTL"].map(|command| server.command(&[command, COUNTER]))
                };
                servers.iter().map(of).take(spoilt)
            };
            let before: Vec<_> = kept().collect();
            let redsync = connect(&servers).await;

            let error = redsync.mutex("name").fenced().tries(1).lock().await.unwrap_err();

            assert_says_that_counters_are_none(&error, &servers[..spoilt]);
            assert!(kept().eq(before), "{command:?}: what is there instead stays as it is");
            wait_until("it is given back", DEADLINE, || {
                servers.iter().all(|server| server.get("name").is_none())
            });
            redsync.mutex("name").lock().await.unwrap().unlock().await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_all_counters_are_none_a_lock_that_is_handed_over_is_given_back() {
    for nodes in [1, 3] {
        let servers = servers(nodes);
        for command in NO_COUNTERS.into_iter().chain([AT_ITS_END]) {
            let error = handed_over_where(&servers, &servers, command).await.unwrap_err();

            assert_says_that_counters_are_none(&error, &servers);
            wait_until("it is given back", DEADLINE, || {
                servers.iter().all(|server| server.get("name").is_none())
            });
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn flushed_scripts_are_unnoticed_and_cost_one_eval() {
    let server = RedisServer::start();
    let redsync = connect_to(&server).await;
    let mutex = redsync.mutex("name");
    mutex.lock().await.unwrap().unlock().await.unwrap();
    let guard = mutex.lock().await.unwrap();
    server.command(&["SCRIPT", "FLUSH"]);
    let evals = server.command_count("eval");

    guard.unlock().await.unwrap();
    assert_eq!(server.command_count("eval"), evals + 1);

    mutex.lock().await.unwrap().unlock().await.unwrap();
    assert_eq!(server.command_count("eval"), evals + 1, "the server has learnt it");
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_flushed_all_the_time_are_unnoticed() {
    let servers = servers(3);
    let redsync = connect(&servers).await;
    for _ in 0..20 {
        let guard = redsync.mutex("name").lock().await.unwrap();
        servers.iter().for_each(|server| drop(server.command(&["SCRIPT", "FLUSH"])));
        guard.extend().await.unwrap();
        servers.iter().for_each(|server| drop(server.command(&["SCRIPT", "FLUSH"])));
        guard.unlock().await.unwrap();
    }
}
