//! What the integration tests share: connecting to the kit's servers, waiting, and reading errors.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::error::Error;
use std::time::{Duration, Instant};

use redsync::{Mutex, Redsync};
use redsync_testkit::{RedisServer, wait_until};

/// How long an event may take on a busy machine before a test calls it missing.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

/// A [`Redsync`] over all of `servers`, with connections of its own. It trusts servers that have just started, as the
/// kit's have.
pub(crate) async fn connect(servers: &[RedisServer]) -> Redsync {
    let redsync = over(servers.iter().map(RedisServer::url));
    redsync.check_nodes().await.expect("the kit's servers answer");
    redsync
}

/// A [`Redsync`] over the nodes that `urls` name, which trusts servers that have just started. Nothing is connected yet.
pub(crate) fn over(urls: impl IntoIterator<Item = String>) -> Redsync {
    let builder = Redsync::builder().restart_guard(false);
    urls.into_iter().fold(builder, redsync::Builder::url).build().expect("the URLs are right")
}

/// A [`Redsync`] over one server, with a connection of its own.
pub(crate) async fn connect_to(server: &RedisServer) -> Redsync {
    connect(std::slice::from_ref(server)).await
}

/// A server that is a whole cluster.
pub(crate) fn cluster() -> RedisServer {
    let server = RedisServer::builder().config("cluster-enabled", "yes").start();
    let slots: Vec<String> = (0..16384).map(|slot| slot.to_string()).collect();
    let words = ["CLUSTER", "ADDSLOTS"].into_iter().chain(slots.iter().map(String::as_str));
    server.command(&words.collect::<Vec<_>>());
    wait_until("the cluster has all its slots", DEADLINE, || {
        server.command(&["CLUSTER", "INFO"]).text().contains("cluster_state:ok")
    });
    server
}

/// All keys on all servers, each with the number of its server.
pub(crate) fn keys_on(servers: &[RedisServer]) -> Vec<(usize, String)> {
    let numbered = servers.iter().enumerate();
    numbered.flat_map(|(number, server)| server.keys().into_iter().map(move |key| (number, key))).collect()
}

/// Waits until none of `servers` has any key.
#[track_caller]
pub(crate) fn wait_until_empty(servers: &[RedisServer], deadline: Duration) {
    wait_until("no key is left on any server", deadline, || keys_on(servers).is_empty());
}

/// The two ways in which `mutex` may wait: in the queue, and by trying again after each `pause`.
pub(crate) fn both_ways(mutex: &Mutex, pause: Duration) -> [Mutex; 2] {
    [mutex.clone(), mutex.clone().retry_delay(pause)]
}

/// How long `future` takes, and what comes of it.
pub(crate) async fn timed<T>(future: impl Future<Output = T>) -> (Duration, T) {
    let began = Instant::now();
    let output = future.await;
    (began.elapsed(), output)
}

/// What a person sees of an error who prints it with all its causes.
pub(crate) fn with_causes(error: &dyn Error) -> String {
    let causes = std::iter::successors(Some(error), |&error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join("\n  caused by: ")
}

/// The value in the middle.
pub(crate) fn median(mut durations: Vec<Duration>) -> Duration {
    durations.sort_unstable();
    durations[durations.len() / 2]
}

/// Fails with the whole text where a part that a person needs is missing.
#[track_caller]
pub(crate) fn assert_contains(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is missing in: {text}");
    }
}
