//! What operators are told: names and fields of events and numbers that dashboards and alerts are built on.
//! `docs/operating.md` lists them all.

mod support;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::Duration;

use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use redsync::Redsync;
use redsync_testkit::{Proxy, RedisServer, servers};
use support::{DEADLINE, over};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

const SHORT: Duration = Duration::from_millis(300);

/// Keeps what is told.
#[derive(Clone, Default)]
struct GrantListener(Arc<Mutex<Vec<Told>>>);

#[derive(Clone, Debug)]
struct Told {
    level: Level,
    /// The event's message, or the span's name.
    name: String,
    fields: BTreeMap<&'static str, String>,
}

impl GrantListener {
    /// All that was told under `name`.
    fn heard(&self, name: &str) -> Vec<Told> {
        let told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.iter().filter(|told| told.name == name).cloned().collect()
    }

    /// Fails with all that was told where `name` was not.
    #[track_caller]
    fn one(&self, name: &str) -> Told {
        let heard = self.heard(name);
        assert_eq!(heard.len(), 1, "{name:?} in {:#?}", self.0.lock().unwrap());
        heard[0].clone()
    }
}

thread_local! {
    /// Who listens to what is told on this thread.
    static LISTENING: RefCell<Option<GrantListener>> = const { RefCell::new(None) };
}

/// The process's subscriber, for all tests at once: what is told goes to the buffer of the thread that tells it.
struct Everyone;

impl Everyone {
    fn tell(told: Told) {
        LISTENING.with_borrow(|grant_listener| {
            if let Some(grant_listener) = grant_listener {
                grant_listener.0.lock().unwrap_or_else(PoisonError::into_inner).push(told);
            }
        });
    }
}

impl Subscriber for Everyone {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("redsync")
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let metadata = span.metadata();
        let mut told =
            Told { level: *metadata.level(), name: metadata.name().into(), fields: BTreeMap::new() };
        span.record(&mut told);
        Self::tell(told);
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut told =
            Told { level: *event.metadata().level(), name: String::new(), fields: BTreeMap::new() };
        event.record(&mut told);
        Self::tell(told);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

impl Visit for Told {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.fields.insert(field.name(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "message" => self.name = format!("{value:?}"),
            name => _ = self.fields.insert(name, format!("{value:?}")),
        }
    }
}

impl Told {
    /// A field that is a number of milliseconds.
    #[track_caller]
    fn millis(&self, field: &str) -> u64 {
        self.fields
            .get(field)
            .and_then(|value| value.parse().ok())
            .unwrap_or_else(|| panic!("{field} in {self:?}"))
    }
}

/// Runs `story` on one thread, and gives what was told of it.
fn listening<F: Future<Output = ()>>(story: impl FnOnce() -> F) -> GrantListener {
    static SUBSCRIBED: Once = Once::new();
    SUBSCRIBED.call_once(|| tracing::subscriber::set_global_default(Everyone).unwrap());
    let grant_listener = GrantListener::default();
    LISTENING.set(Some(grant_listener.clone()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(story());
    drop(runtime);
    LISTENING.set(None);
    grant_listener
}

fn one_server() -> (RedisServer, Redsync) {
    let server = RedisServer::start();
    let redsync = over([server.url()]);
    (server, redsync)
}

#[test]
fn a_lock_taken_and_released_is_told_at_a_level_for_debugging() {
    let (_server, redsync) = one_server();

    let grant_listener = listening(|| async {
        redsync.mutex("orders").lock().await.unwrap().unlock().await.unwrap();
    });

    let acquired = grant_listener.one("lock acquired");
    assert_eq!(acquired.level, Level::DEBUG);
    assert_eq!(acquired.fields["lock"], "orders");
    assert_eq!(acquired.fields["outcome"], "acquired");
    assert_eq!(acquired.fields["tries"], "1");
    assert!((7_000..8_000).contains(&acquired.millis("remaining_ms")));
    acquired.millis("waited_ms");
    let released = grant_listener.one("lock released");
    assert_eq!((released.level, &*released.fields["outcome"]), (Level::DEBUG, "released"));
    let spans = [grant_listener.one("lock"), grant_listener.one("unlock")];
    assert!(spans.iter().all(|span| span.level == Level::DEBUG && span.fields["lock"] == "orders"));
    let louder = grant_listener.0.lock().unwrap().iter().filter(|told| told.level < Level::DEBUG).count();
    assert_eq!(louder, 0, "a day without incidents is a quiet one");
}

#[test]
fn a_lock_that_is_taken_tells_by_whom() {
    let (server, redsync) = one_server();
    server.set("orders", "5f1c@web-2:311", Some(60_000));

    let grant_listener = listening(|| async {
        assert!(redsync.mutex("orders").try_lock().await.unwrap().is_none());
    });

    let told = grant_listener.one("lock not acquired");
    assert_eq!((told.level, &*told.fields["outcome"]), (Level::DEBUG, "taken"));
    assert!(told.fields["error"].contains("held by web-2:311"), "{told:?}");
}

#[test]
fn a_wait_that_was_given_up_is_told() {
    let (server, redsync) = one_server();
    server.set("orders", "somebody", Some(60_000));

    let grant_listener = listening(|| async {
        let waiting = redsync.mutex("orders").wait_without_limit();
        tokio::time::timeout(SHORT, waiting.lock()).await.unwrap_err();
    });

    let told = grant_listener.one("lock not acquired");
    assert_eq!(told.fields["outcome"], "cancelled");
    assert!(told.millis("waited_ms") >= 250, "{told:?}");
}

#[test]
fn renewals_that_fail_are_told_once_and_the_loss_loudest() {
    let (server, redsync) = one_server();

    let grant_listener = listening(|| async {
        let guard = redsync.mutex("orders").expiry(Duration::from_secs(1)).lock().await.unwrap();
        let renewed = guard.valid_until();
        while guard.valid_until() == renewed {
            tokio::task::yield_now().await;
        }
        server.pause();
        let lost = guard.lost().await;
        assert!(lost.to_string().contains("did not answer"), "{lost}");
        server.resume();
    });

    let renewed = grant_listener.heard("lock renewed");
    assert!(renewed.iter().all(|told| told.level == Level::TRACE && told.fields["lock"] == "orders"));
    assert!(renewed[0].millis("remaining_ms") > 800);
    let failed = grant_listener.heard("lock not renewed");
    let warnings: Vec<&Told> = failed.iter().filter(|told| told.level == Level::WARN).collect();
    assert_eq!(warnings.len(), 1, "{failed:#?}");
    assert_eq!(warnings[0].fields["outcome"], "no_quorum");
    assert!(failed.len() > 1 && failed.iter().all(|told| told.fields["lock"] == "orders"));
    let lost = grant_listener.one("lock lost");
    assert_eq!((lost.level, &*lost.fields["lock"]), (Level::ERROR, "orders"));
    assert!(lost.millis("held_ms") >= 1_000, "{lost:?}");
    assert_eq!(lost.fields["remaining_ms"], "0");
    assert!(lost.fields["error"].contains("did not answer"), "{lost:?}");
}

#[test]
fn a_guard_that_is_dropped_while_it_is_renewed_is_told_at_a_level_for_debugging() {
    let server = RedisServer::start();
    let proxy = Proxy::before(&server);
    let redsync = over([proxy.url()]);

    let grant_listener = listening(|| async {
        // Renewal waits longer for its answer than this takes.
        let mutex = redsync.mutex("orders").expiry(Duration::from_secs(1)).timeout_factor(0.8);
        let guard = mutex.lock().await.unwrap();
        proxy.hold();
        // Renewal begins after a third of the second.
        tokio::time::sleep(Duration::from_millis(450)).await;
        drop(guard);
        proxy.pass();
        assert!(redsync.drain(DEADLINE).await);
        assert!(redsync.shutdown().await, "the renewal is over");
    });

    assert!(server.command_count("evalsha") > 1, "it was being renewed");
    let louder: Vec<Told> =
        grant_listener.0.lock().unwrap().iter().filter(|told| told.level < Level::DEBUG).cloned().collect();
    assert!(louder.is_empty(), "{louder:#?}");
}

#[test]
fn a_guard_that_is_dropped_is_told_as_released_once() {
    let (_server, redsync) = one_server();

    let grant_listener = listening(|| async {
        drop(redsync.mutex("orders").lock().await.unwrap());
        assert!(redsync.drain(DEADLINE).await);
    });

    let released = grant_listener.one("lock released");
    assert_eq!((released.level, &*released.fields["outcome"]), (Level::DEBUG, "released"));
    assert_eq!(released.fields["lock"], "orders");
}

#[test]
fn a_guard_that_is_dropped_out_of_reach_of_its_server_is_told_as_not_released() {
    let (server, redsync) = one_server();

    let grant_listener = listening(|| async {
        let guard = redsync.mutex("orders").expiry(Duration::from_secs(1)).renew(false).lock().await.unwrap();
        server.kill();
        drop(guard);
        assert!(redsync.drain(DEADLINE).await);
    });

    let told = grant_listener.one("lock not released");
    assert_eq!((told.level, &*told.fields["outcome"]), (Level::DEBUG, "no_quorum"));
    assert!(grant_listener.heard("lock released").is_empty());
}

#[test]
fn a_lost_guard_that_is_dropped_or_unlocked_is_told_as_lost_once() {
    for unlocks in [false, true] {
        let (_server, redsync) = one_server();

        let grant_listener = listening(|| async {
            let guard = redsync.mutex("orders").expiry(SHORT).renew(false).lock().await.unwrap();
            guard.lost().await;
            match unlocks {
                true => _ = guard.unlock().await.unwrap_err(),
                false => drop(guard),
            }
            assert!(redsync.drain(DEADLINE).await);
        });

        let told = grant_listener.one("lock not released");
        assert_eq!((told.level, &*told.fields["outcome"]), (Level::DEBUG, "lost"));
        assert!(grant_listener.heard("lock released").is_empty());
    }
}

#[test]
fn an_attempt_that_fails_is_not_told_as_a_release() {
    let servers = servers(3);
    let redsync = over(servers.iter().map(RedisServer::url));
    for server in &servers[..2] {
        server.set("orders", "somebody", Some(60_000));
    }

    let grant_listener = listening(|| async {
        assert!(redsync.mutex("orders").try_lock().await.unwrap().is_none());
        assert!(redsync.drain(DEADLINE).await);
    });

    grant_listener.one("lock not acquired");
    assert!(
        grant_listener.heard("lock released").is_empty()
            && grant_listener.heard("lock not released").is_empty()
    );
}

#[test]
fn a_lock_that_is_handed_on_adopted_and_released_by_its_lease_is_told_each_time() {
    let (_server, redsync) = one_server();

    let grant_listener = listening(|| async {
        let lease = redsync.mutex("orders").lock().await.unwrap().into_lease();
        let lease = redsync.adopt(&lease).await.unwrap().into_lease();
        redsync.mutex("orders").release(&lease).await.unwrap();
        redsync.adopt(&lease).await.unwrap_err();
    });

    assert_eq!(grant_listener.heard("lock handed on").len(), 2);
    let adopted = grant_listener.one("lock adopted");
    assert_eq!((adopted.level, &*adopted.fields["outcome"]), (Level::DEBUG, "adopted"));
    assert!((7_000..8_000).contains(&adopted.millis("remaining_ms")), "{adopted:?}");
    assert_eq!(grant_listener.one("lock released").fields["outcome"], "released");
    assert_eq!(grant_listener.one("lock not adopted").fields["outcome"], "already_expired");
}

#[test]
fn times_say_their_unit() {
    let (server, redsync) = one_server();

    let grant_listener = listening(|| async {
        let guard = redsync.mutex("orders").expiry(Duration::from_secs(1)).lock().await.unwrap();
        server.pause();
        guard.lost().await;
        server.resume();
    });

    let times = ["waited", "remaining", "held", "wait", "expiry"];
    let told = grant_listener.0.lock().unwrap();
    assert!(told.iter().any(|told| told.fields.contains_key("held_ms")));
    for told in told.iter() {
        let mut fields = told.fields.keys();
        assert!(fields.all(|field| !times.contains(field)), "a time without its unit: {told:?}");
    }
}

#[test]
fn a_server_that_is_gone_and_back_is_told_twice_however_often_it_is_asked() {
    let (server, redsync) = one_server();

    let grant_listener = listening(|| async {
        redsync.mutex("orders").lock().await.unwrap().unlock().await.unwrap();
        server.kill();
        let gone = std::time::Instant::now();
        while gone.elapsed() < SHORT {
            redsync.mutex("orders").try_lock().await.unwrap_err();
            tokio::task::yield_now().await;
        }
        server.restart();
        let back = std::time::Instant::now();
        while redsync.mutex("orders").try_lock().await.is_err() {
            assert!(back.elapsed() < DEADLINE, "it never comes back");
            tokio::task::yield_now().await;
        }
    });

    let gone = grant_listener.one("node is unreachable");
    assert_eq!((gone.level, &gone.fields["node"]), (Level::WARN, &server.url()));
    assert!(gone.fields["error"].contains("refused"), "{gone:?}");
    let back = grant_listener.one("node is back");
    assert_eq!((back.level, &back.fields["node"]), (Level::INFO, &server.url()));
}

#[test]
fn waiting_for_restarted_nodes_is_told_once_with_the_time_it_takes() {
    let servers = servers(3);
    let builder = servers.iter().fold(Redsync::builder(), |builder, server| builder.url(server.url()));
    let redsync = builder.build().unwrap();

    let grant_listener = listening(|| async {
        let mutex = redsync.mutex("orders").wait_up_to(SHORT).retry_delay(Duration::from_millis(20));
        mutex.lock().await.unwrap_err();
        redsync.mutex("orders").wait_up_to(SHORT).lock().await.unwrap_err();
    });

    let waits = grant_listener.heard("waiting for restarted nodes");
    assert_eq!(waits.len(), 2, "once for each call: {waits:#?}");
    assert!(waits[0].level == Level::INFO && waits[0].millis("wait_ms") > 5_000, "{waits:?}");
    assert!(waits[0].fields["error"].contains("its vote counts in"), "{waits:?}");
    let withheld = grant_listener.heard("vote withheld");
    assert!(withheld.iter().all(|told| told.level == Level::DEBUG && told.millis_in_some("wait_ms") > 5_000));
    assert!(withheld.len() >= 3);
}

impl Told {
    fn millis_in_some(&self, field: &str) -> u64 {
        let value = self.fields[field].trim_start_matches("Some(").trim_end_matches(')');
        value.parse().unwrap_or_else(|_| panic!("{field} in {self:?}"))
    }
}

#[test]
fn a_server_that_may_forget_locks_is_told_loudly() {
    let server =
        RedisServer::builder().config("maxmemory", "64mb").config("maxmemory-policy", "allkeys-lru").start();
    let redsync = over([server.url()]);

    let grant_listener = listening(|| async {
        redsync.mutex("orders").lock().await.unwrap().unlock().await.unwrap();
    });

    let told = grant_listener.one("node is unfit to hold locks");
    assert_eq!((told.level, &told.fields["node"]), (Level::WARN, &server.url()));
    assert!(told.fields["warning"].contains("maxmemory-policy allkeys-lru"), "{told:?}");
}

#[test]
fn a_lease_taken_again_is_told() {
    let servers = servers(3);
    let redsync = over(servers.iter().map(RedisServer::url));

    let grant_listener = listening(|| async {
        let guard = redsync.mutex("orders").fail_fast(false).lock().await.unwrap();
        servers[1].flushall();
        guard.extend().await.unwrap();
    });

    let told = grant_listener.one("lease taken again on a node that had lost it");
    assert_eq!((told.level, &*told.fields["lock"]), (Level::INFO, "orders"));
    assert_eq!(told.fields["node"], servers[1].url());
}

#[test]
fn a_fence_that_took_another_round_trip_is_told_and_counted() {
    let servers = servers(3);
    let redsync = over(servers.iter().map(RedisServer::url));
    // Two nodes are all that there are, and one of them is ahead of its clock.
    servers[2].stop();
    servers[0].set("{orders}:redsync:fence", "8000000000000000", None);
    let story = || async {
        redsync.mutex("orders").fenced().lock().await.unwrap().unlock().await.unwrap();
    };

    let grant_listener = listening(story);
    let told = grant_listener.one("fence counters differ");
    assert_eq!((told.level, &*told.fields["lock"]), (Level::DEBUG, "orders"));
    assert_eq!(told.fields["fence"], "8000000000000001");

    servers[0].set("{orders}:redsync:fence", "8000000000001000", None);
    let numbers = counting(story);
    assert_eq!(numbers["redsync_fence_confirmations_total{}"], 1.0);
}

/// Runs `story` on one thread, and gives the numbers of it: each by its name and labels, with how much or how many.
fn counting<F: Future<Output = ()>>(story: impl FnOnce() -> F) -> BTreeMap<String, f64> {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    metrics::with_local_recorder(&recorder, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(story());
    });
    let mut numbers = BTreeMap::new();
    for (key, _, _, value) in snapshotter.snapshot().into_vec() {
        let key = key.key();
        let mut labels: Vec<String> =
            key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
        labels.sort();
        let value = match value {
            DebugValue::Counter(count) => count as f64,
            DebugValue::Gauge(value) => value.into_inner(),
            DebugValue::Histogram(values) => {
                assert!(
                    values.iter().all(|value| (0.0..100.0).contains(&value.into_inner())),
                    "{values:?}: seconds"
                );
                values.len() as f64
            }
        };
        numbers.insert(format!("{}{{{}}}", key.name(), labels.join(",")), value);
    }
    numbers
}

#[test]
fn all_numbers_are_described_and_counters_are_there_before_anything_happens() {
    let server = RedisServer::start();
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();

    metrics::with_local_recorder(&recorder, || Redsync::builder().url(server.url()).build().unwrap());

    let told = snapshotter.snapshot().into_vec();
    for (key, unit, description, value) in &told {
        assert_eq!(unit, &Some(metrics::Unit::Count), "{key:?}");
        assert!(description.as_ref().is_some_and(|text| text.ends_with('.')), "{key:?}");
        assert_eq!(value, &DebugValue::Counter(0), "{key:?}");
    }
    let node = server.url();
    let count = |name: &str| told.iter().filter(|(key, ..)| key.key().name() == name).count();
    assert_eq!(count("redsync_losses_total"), 1, "{told:#?}");
    assert_eq!(count("redsync_acquisitions_total"), 8);
    assert_eq!(count("redsync_renewals_total"), 5);
    assert_eq!(count("redsync_fence_confirmations_total"), 1);
    assert_eq!(count("redsync_withheld_votes_total"), 1);
    assert_eq!(count("redsync_node_errors_total"), 30);
    let labelled = |(key, ..): &(metrics_util::CompositeKey, _, _, _)| {
        key.key().labels().any(|label| label.value() == node)
    };
    assert_eq!(told.iter().filter(|told| labelled(told)).count(), 31);
}

#[test]
fn a_recorder_that_comes_after_redsync_finds_all_numbers_when_it_is_first_used() {
    let (_server, redsync) = {
        let server = RedisServer::start();
        let redsync = Redsync::builder().url(server.url()).build().unwrap();
        (server, redsync)
    };

    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    metrics::with_local_recorder(&recorder, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { redsync.mutex("orders").lock().await.unwrap().unlock().await.unwrap() });
    });

    let told = snapshotter.snapshot().into_vec();
    assert!(told.iter().any(|(key, ..)| key.key().name() == "redsync_losses_total"));
    for (key, unit, description, _) in &told {
        let expected = match key.key().name().ends_with("_seconds") {
            true => metrics::Unit::Seconds,
            false => metrics::Unit::Count,
        };
        assert_eq!(unit, &Some(expected), "{key:?}");
        assert!(description.is_some(), "{key:?}");
    }
    let times = ["redsync_wait_seconds", "redsync_hold_seconds", "redsync_node_seconds"];
    assert!(times.iter().all(|name| told.iter().any(|(key, ..)| key.key().name() == *name)), "{told:#?}");
}

#[test]
fn acquisitions_waits_and_holds_are_counted() {
    let (server, redsync) = one_server();
    server.set("taken", "somebody", Some(60_000));

    let numbers = counting(|| async {
        for _ in 0..3 {
            redsync.mutex("orders").lock().await.unwrap().unlock().await.unwrap();
        }
        assert!(redsync.mutex("taken").try_lock().await.unwrap().is_none());
    });

    assert_eq!(numbers["redsync_acquisitions_total{outcome=acquired}"], 3.0, "{numbers:#?}");
    assert_eq!(numbers["redsync_acquisitions_total{outcome=taken}"], 1.0);
    assert_eq!(numbers["redsync_wait_seconds{outcome=acquired}"], 3.0);
    assert_eq!(numbers["redsync_hold_seconds{}"], 3.0);
    let node = server.url();
    assert_eq!(numbers[&format!("redsync_node_seconds{{node={node},operation=acquire}}")], 4.0);
    assert_eq!(numbers[&format!("redsync_node_seconds{{node={node},operation=release}}")], 3.0);
}

#[test]
fn renewals_losses_and_errors_of_nodes_are_counted() {
    let (server, redsync) = one_server();

    let numbers = counting(|| async {
        let guard = redsync.mutex("orders").expiry(Duration::from_secs(1)).lock().await.unwrap();
        let renewed = guard.valid_until();
        while guard.valid_until() == renewed {
            tokio::task::yield_now().await;
        }
        server.pause();
        guard.lost().await;
        server.resume();
    });

    assert!(numbers["redsync_renewals_total{outcome=renewed}"] >= 1.0, "{numbers:#?}");
    assert!(numbers["redsync_renewals_total{outcome=no_quorum}"] >= 1.0);
    assert_eq!(numbers["redsync_losses_total{}"], 1.0);
    let node = server.url();
    assert!(
        numbers[&format!("redsync_node_errors_total{{error=timeout,node={node},operation=extend}}")] >= 1.0
    );
}

#[test]
fn withheld_votes_are_counted() {
    let servers = servers(3);
    let builder = servers.iter().fold(Redsync::builder(), |builder, server| builder.url(server.url()));
    let redsync = builder.build().unwrap();

    let numbers = counting(|| async {
        redsync.mutex("orders").fail_fast(false).try_lock().await.unwrap_err();
    });

    for server in &servers {
        assert_eq!(
            numbers[&format!("redsync_withheld_votes_total{{node={}}}", server.url())],
            1.0,
            "{numbers:#?}"
        );
    }
    assert_eq!(numbers["redsync_acquisitions_total{outcome=no_quorum}"], 1.0);
}
