//! The blocking interface: everything works without async, inside of it too, and the end of a program releases.

mod support;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use redsync::blocking::Redsync;
use redsync::{Error, ErrorKind, LockOptions, LockState};
use redsync_testkit::{RedisServer, servers};
use support::{DEADLINE, assert_contains, wait_until_empty};

const MINUTE: Duration = Duration::from_secs(60);

fn connect_to(server: &RedisServer) -> Redsync {
    Redsync::connect([server.url()]).unwrap()
}

/// Locks over servers that have just started, as the kit's have.
fn trusting(urls: impl IntoIterator<Item = String>) -> Redsync {
    let builder = redsync::Redsync::builder().restart_guard(false);
    Redsync::build(urls.into_iter().fold(builder, redsync::Builder::url)).unwrap()
}

#[test]
fn a_lock_is_taken_extended_and_released() {
    let servers = servers(3);
    let redsync = trusting(servers.iter().map(RedisServer::url));

    let guard = redsync.mutex("name").fail_fast(false).lock().unwrap();
    for server in &servers {
        assert_eq!(server.get("name").as_deref(), Some(guard.token().as_str()));
    }
    guard.extend_by(MINUTE).unwrap();
    assert!(guard.is_valid() && guard.remaining() > Duration::from_secs(50));
    guard.extend().unwrap();
    assert!(guard.remaining() < Duration::from_secs(8));
    guard.unlock().unwrap();

    wait_until_empty(&servers, DEADLINE);
}

#[test]
fn trying_a_held_lock_gives_none() {
    let server = RedisServer::start();
    let redsync = connect_to(&server);
    let held = redsync.mutex("name").try_lock().unwrap().unwrap();

    assert!(redsync.mutex("name").try_lock().unwrap().is_none());

    held.unlock().unwrap();
    assert!(redsync.mutex("name").try_lock().unwrap().is_some());
}

#[test]
fn a_held_lock_is_taken_and_its_holder_is_named() {
    let server = RedisServer::start();
    let redsync = connect_to(&server);
    let _held = redsync.mutex("name").owner("web-2:311").lock().unwrap();
    let twice = LockOptions::new().tries(2).retry_delay(Duration::from_millis(1));

    let error = redsync.mutex("name").with(twice).lock().unwrap_err();

    assert_eq!(error.kind(), ErrorKind::Taken);
    assert_contains(&error.to_string(), &["lock \"name\" is taken", "held by web-2:311"]);
}

#[test]
fn a_lease_is_adopted_and_released() {
    let server = RedisServer::start();
    let (here, there) = (connect_to(&server), connect_to(&server));
    let lease = here.mutex("name").expiry(MINUTE).lock().unwrap().into_lease();

    let guard = there.adopt(&lease).unwrap();
    assert_eq!(guard.lease(), lease);
    guard.unlock().unwrap();

    let again = there.mutex("name").release(&lease).unwrap_err();
    assert_eq!(again.kind(), ErrorKind::AlreadyExpired);
}

#[test]
fn a_lock_is_looked_at() {
    let server = RedisServer::start();
    let redsync = connect_to(&server);
    assert_eq!(redsync.inspect("name").unwrap().state(), LockState::Free);

    let guard = redsync.mutex("name").lock().unwrap();

    let holder = redsync.inspect("name").unwrap().holder().unwrap();
    assert_eq!(holder.token(), guard.token().as_str());
}

#[test]
fn errors_are_the_same_as_with_async() {
    let nowhere = Redsync::connect(["redis://127.0.0.1:1"]).unwrap_err();
    assert_contains(&nowhere.to_string(), &["no quorum to connect", "connection refused"]);

    let nonsense = Redsync::connect(["http://127.0.0.1"]).unwrap_err();
    assert!(matches!(nonsense, Error::InvalidUrl(_)), "{nonsense:?}");

    let server = RedisServer::start();
    let redsync = connect_to(&server);
    let refused = redsync.mutex("").lock().unwrap_err();
    assert_eq!(refused.to_string(), "invalid name: it is empty");
    let guard = redsync.mutex("name").lock().unwrap();
    server.flushall();
    assert_eq!(guard.unlock().unwrap_err().kind(), ErrorKind::AlreadyExpired);
}

/// All that can be done, and the ends of all that is made for it.
fn use_all(url: &str) {
    let redsync = Redsync::connect([url]).unwrap();
    let guard = redsync.mutex("name").lock().unwrap();
    guard.extend().unwrap();
    redsync.inspect("name").unwrap();
    let guard = redsync.adopt(&guard.into_lease()).unwrap();
    guard.unlock().unwrap();
    let guard = redsync.mutex("name").expiry(MINUTE).lock().unwrap();
    drop(guard);
    drop(redsync);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_works_inside_a_runtime_of_many_threads() {
    let server = RedisServer::start();
    let url = server.url();

    use_all(&url);
    tokio::spawn(async move { use_all(&url) }).await.unwrap();

    wait_until_empty(&[server], DEADLINE);
}

#[tokio::test(flavor = "current_thread")]
async fn it_works_inside_a_runtime_of_one_thread() {
    let server = RedisServer::start();

    use_all(&server.url());

    // The runtime of this test stands still here: the release must not depend on it.
    wait_until_empty(&[server], DEADLINE);
}

#[tokio::test(flavor = "current_thread")]
async fn the_end_inside_a_runtime_of_one_thread_takes_no_longer_than_elsewhere() {
    let server = RedisServer::start();
    let redsync = connect_to(&server);
    let guard = redsync.mutex("name").lock().unwrap();
    let began = Instant::now();

    drop(guard);
    drop(redsync);

    // Half of what the farewell may take at most, far more than one release.
    assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
}

#[test]
fn a_dropped_guard_releases_soon() {
    let server = RedisServer::start();
    let redsync = connect_to(&server);
    let guard = redsync.mutex("name").expiry(MINUTE).lock().unwrap();

    drop(guard);

    wait_until_empty(&[server], DEADLINE);
}

#[test]
fn the_end_of_a_thread_releases_what_it_held() {
    for nodes in [1, 3] {
        let servers = servers(nodes);
        let urls: Vec<String> = servers.iter().map(RedisServer::url).collect();

        let thread = thread::spawn(move || {
            let redsync = trusting(urls);
            let _guard = redsync.mutex("name").expiry(MINUTE).lock().unwrap();
            // Guard and Redsync go at the end of the thread, and its connections with them.
        });
        thread.join().unwrap();

        wait_until_empty(&servers, DEADLINE);
    }
}

#[test]
fn a_guard_may_outlive_its_redsync() {
    let server = RedisServer::start();
    let redsync = connect_to(&server);
    let guard = redsync.mutex("name").expiry(MINUTE).lock().unwrap();

    drop(redsync);

    guard.extend().unwrap();
    guard.unlock().unwrap();
    assert_eq!(server.get("name"), None);
}

#[test]
fn a_hung_server_holds_up_the_end_for_no_longer_than_a_second_or_so() {
    let server = RedisServer::start();
    let redsync = connect_to(&server);
    let guard = redsync.mutex("name").expiry(MINUTE).lock().unwrap();
    server.pause();
    let began = Instant::now();

    drop(guard);
    drop(redsync);

    assert!(began.elapsed() < Duration::from_millis(2500), "{:?}", began.elapsed());
}

fn random_pause(_: u32) -> Duration {
    Duration::from_micros(rand::random_range(1_000..5_000))
}

#[test]
fn threads_exclude_one_another_whether_they_wait_or_poll() {
    const THREADS: u32 = 6;
    const ROUNDS: u32 = 30;
    let servers = servers(3);
    let redsync = Redsync::connect(servers.iter().map(RedisServer::url)).unwrap();
    // Read and written in two steps, so that an increment that is not alone is lost.
    let counter = AtomicU32::new(0);

    thread::scope(|scope| {
        for thread in 0..THREADS {
            let mutex = redsync.mutex("counter");
            let mutex = match thread % 2 {
                0 => mutex,
                _ => mutex.wait_up_to(MINUTE).retry_delay_fn(random_pause),
            };
            let counter = &counter;
            scope.spawn(move || {
                for _ in 0..ROUNDS {
                    let guard = mutex.lock().unwrap();
                    let read = counter.load(Ordering::Relaxed);
                    thread::yield_now();
                    counter.store(read + 1, Ordering::Relaxed);
                    guard.unlock().unwrap();
                }
            });
        }
    });

    assert_eq!(counter.load(Ordering::Relaxed), THREADS * ROUNDS);
}

#[test]
fn nodes_of_ones_own_and_a_builder_serve_too() {
    let server = RedisServer::start();
    let builder = redsync::Redsync::builder().url(server.url()).owner("batch");

    let redsync = Redsync::build(builder).unwrap();

    redsync.check_nodes().unwrap();
    let guard = redsync.mutex("name").lock().unwrap();
    assert_eq!(guard.token().owner(), Some("batch"));
}

/// What taking a lock says to the `on_lost` function of another lock of the same [`Redsync`].
fn told_within_on_lost(redsync: &Redsync) -> Error {
    let (told, error) = mpsc::channel();
    let ours = redsync.clone();
    let mutex = redsync.mutex("lost").expiry(Duration::from_millis(200)).renew(false);
    let mutex = mutex.on_lost(move |_| told.send(ours.mutex("within").lock().unwrap_err()).unwrap());
    let _guard = mutex.lock().unwrap();
    error.recv_timeout(DEADLINE).expect("it does not hang")
}

#[test]
fn a_blocking_call_within_on_lost_is_refused_with_the_reason() {
    let server = RedisServer::start();

    let error = told_within_on_lost(&connect_to(&server));

    assert!(matches!(error, Error::Runtime { .. }), "{error}");
    assert_contains(&error.to_string(), &["on_lost"]);
}

#[test]
fn a_blocking_call_within_on_lost_does_not_keep_other_threads_waiting() {
    let server = RedisServer::start();
    let redsync = connect_to(&server);
    told_within_on_lost(&redsync);
    let (told, locked) = mpsc::channel();

    thread::spawn(move || told.send(redsync.mutex("another").try_lock().unwrap().is_some()));

    assert!(locked.recv_timeout(DEADLINE).expect("it does not hang"));
}

#[test]
fn work_under_a_guard_is_done_and_gives_what_it_returns() {
    let server = RedisServer::start();
    let redsync = connect_to(&server);
    let guard = redsync.mutex("name").lock().unwrap();
    let fenced = redsync.mutex("other").fenced().lock().unwrap();

    assert_eq!(guard.run(|lost| lost.check().map(|()| "done")).unwrap().unwrap(), "done");
    assert!(fenced.run(redsync::LostSignal::is_valid).unwrap());
}

#[test]
fn work_that_looks_at_the_signal_hears_of_the_loss_and_its_output_is_dropped() {
    let server = RedisServer::start();
    let redsync = connect_to(&server);
    let guard = redsync.mutex("name").expiry(Duration::from_millis(300)).lock().unwrap();

    let mut steps = 0;
    let mut heard = None;
    let lost = guard.run(|lost| {
        server.pause();
        let began = Instant::now();
        while began.elapsed() < DEADLINE {
            if let Err(lost) = lost.check() {
                heard = Some(lost);
                break;
            }
            steps += 1;
            // A step of some work.
            thread::sleep(Duration::from_millis(5));
        }
        "half done"
    });
    server.resume();

    let lost = lost.unwrap_err();
    assert!(steps > 10 && !lost.was_released(), "{steps} steps: {lost}");
    let heard = heard.expect("it was lost before the deadline");
    assert_contains(&heard.to_string(), &["lock \"name\" was lost"]);
}

#[test]
fn work_under_a_guard_that_is_lost_is_not_begun() {
    let server = RedisServer::start();
    let redsync = connect_to(&server);
    let guard = redsync.mutex("name").expiry(Duration::from_millis(100)).renew(false).lock().unwrap();
    let began = Instant::now();
    while guard.is_valid() {
        assert!(began.elapsed() < DEADLINE);
        thread::yield_now();
    }

    let lost = guard.run(|_| panic!("it is lost")).unwrap_err();

    assert_contains(&lost.to_string(), &["lock \"name\" was lost", "its time ran out"]);
}

#[test]
fn nodes_are_given_as_they_are() {
    let redsync = Redsync::new([redsync::MemoryNode::new(), redsync::MemoryNode::new()]).unwrap();
    redsync.mutex("name").lock().unwrap().unlock().unwrap();
}

#[test]
fn a_wait_ends_when_another_thread_cancels_it() {
    let redsync = Redsync::connect(["memory:"]).unwrap();
    let held = redsync.mutex("name").lock().unwrap();
    let (cancel, cancelled) = tokio::sync::oneshot::channel::<()>();

    let waiting = thread::spawn({
        let redsync = redsync.clone();
        move || {
            let cancelled = async { drop(cancelled.await) };
            redsync.mutex("name").lock_unless(cancelled).unwrap_err().kind()
        }
    });
    cancel.send(()).unwrap();

    assert_eq!(waiting.join().unwrap(), ErrorKind::Cancelled);
    held.unlock().unwrap();
    assert!(redsync.mutex("name").fenced().lock_unless(std::future::pending()).is_ok());
}
