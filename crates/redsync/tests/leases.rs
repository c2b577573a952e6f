//! A held lock handed on as a value: to another process, from another library, and back.

mod support;

use std::time::Duration;

use redsync::{ErrorKind, Lease, LockState};
use redsync_testkit::{Proxy, RedisServer, servers, wait_until};
use support::{DEADLINE, assert_contains, connect, connect_to, keys_on, over};
use tokio::time::timeout;

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_written_down_is_adopted_extended_and_released_elsewhere() {
    let servers = servers(3);
    let (here, there) = (connect(&servers).await, connect(&servers).await);
    let lease = here.mutex("orders 42:é").expiry(MINUTE).lock().await.unwrap().into_lease();
    let written = lease.to_string();

    let read: Lease = written.parse().unwrap();
    let guard = there.adopt(&read).await.unwrap();

    assert_eq!(read, lease);
    assert_eq!(guard.token(), lease.token());
    assert!(guard.remaining() > Duration::from_secs(50));
    guard.extend().await.unwrap();
    guard.unlock().await.unwrap();
    assert!(here.mutex("orders 42:é").try_lock().await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_goes_through_json() {
    let server = RedisServer::start();
    let redsync = connect_to(&server).await;
    let lease = redsync.mutex("na\"me\\").lock().await.unwrap().into_lease();
    let json = serde_json::to_string(&lease).unwrap();

    let read: Lease = serde_json::from_str(&json).unwrap();
    // A reader cannot lend its text, unlike a slice.
    let streamed: Lease = serde_json::from_reader(json.as_bytes()).unwrap();

    assert_eq!(read, lease);
    assert_eq!(streamed, lease);
    redsync.adopt(&read).await.unwrap().unlock().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn json_that_is_no_lease_is_refused_with_the_reason() {
    let error = serde_json::from_str::<Lease>("\"redsync:8000:name\"").unwrap_err();

    assert_contains(&error.to_string(), &["invalid lease", "was the line cut off?"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn making_a_lease_of_a_guard_does_not_release() {
    let servers = servers(3);
    let redsync = connect(&servers).await;
    let lease = redsync.mutex("name").fail_fast(false).lock().await.unwrap().into_lease();

    assert!(redsync.drain(DEADLINE).await);

    for server in &servers {
        assert_eq!(server.get("name").as_deref(), Some(lease.token().as_str()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_of_another_lock_is_refused() {
    let server = RedisServer::start();
    let redsync = connect_to(&server).await;
    let guard = redsync.mutex("name").lock().await.unwrap();
    let another = redsync.mutex("another");

    let adopted = another.adopt(&guard.lease()).await.unwrap_err();
    let released = another.release(&guard.lease()).await.unwrap_err();

    for error in [adopted, released] {
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert_contains(&error.to_string(), &["invalid lease: it is of lock \"name\", not \"another\""]);
    }
    assert!(guard.is_valid());
    guard.unlock().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_lease_is_not_adopted_and_brings_nothing_back() {
    let servers = servers(3);
    let redsync = connect(&servers).await;
    let lease = Lease::from_parts("name", "long-gone", MINUTE).unwrap();

    let mutex = redsync.mutex("name").fail_fast(false);
    let error = mutex.adopt(&lease).await.unwrap_err();

    assert_eq!(error.kind(), ErrorKind::AlreadyExpired);
    assert_eq!(keys_on(&servers), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_another_took_over_is_not_adopted() {
    let server = RedisServer::start();
    let redsync = connect_to(&server).await;
    let lease = redsync.mutex("name").lock().await.unwrap().into_lease();
    server.set("name", "5f1c@thief:1", Some(60_000));

    let error = redsync.adopt(&lease).await.unwrap_err();

    assert_eq!(error.kind(), ErrorKind::Taken);
    assert_contains(&error.to_string(), &["held by thief:1"]);
    assert_eq!(server.get("name").as_deref(), Some("5f1c@thief:1"));
    assert!(server.pttl("name") > 50_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_only_a_minority_holds_is_not_adopted() {
    let servers = servers(3);
    let redsync = connect(&servers).await;
    servers[0].set("name", "token", Some(60_000));
    let lease = Lease::from_parts("name", "token", MINUTE).unwrap();

    let error = redsync.adopt(&lease).await.unwrap_err();

    assert_eq!(error.kind(), ErrorKind::AlreadyExpired);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_of_another_library_is_adopted_extended_and_released() {
    let servers = servers(3);
    let redsync = connect(&servers).await;
    // As Go's redsync writes it: 16 random bytes in base 64.
    let token = "q1Zx+/b4u0r3o0B3m9nD3A==";
    for server in &servers {
        server.set("name", token, Some(5_000));
    }
    let lease = Lease::from_parts("name", token, MINUTE).unwrap();

    let guard = redsync.mutex("name").expiry(MINUTE).fail_fast(false).adopt(&lease).await.unwrap();

    assert_eq!(guard.token().as_str(), token);
    for server in &servers {
        assert!(server.pttl("name") > 50_000);
    }
    guard.extend().await.unwrap();
    guard.unlock().await.unwrap();
    assert_eq!(keys_on(&servers), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_begins_like_the_holders_adopts_and_releases_nothing() {
    let server = RedisServer::start();
    let redsync = connect_to(&server).await;
    server.set("name", "foobar", Some(60_000));
    let lease = Lease::from_parts("name", "foo", MINUTE).unwrap();

    let adopted = redsync.adopt(&lease).await.unwrap_err();
    let released = redsync.mutex("name").release(&lease).await.unwrap_err();

    assert_eq!((adopted.kind(), released.kind()), (ErrorKind::Taken, ErrorKind::Taken));
    assert_eq!(server.get("name").as_deref(), Some("foobar"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_is_released_by_its_lease_alone() {
    let servers = servers(3);
    let (here, there) = (connect(&servers).await, connect(&servers).await);
    let lease = here.mutex("name").fail_fast(false).lock().await.unwrap().into_lease();

    there.mutex("name").fail_fast(false).release(&lease).await.unwrap();

    assert_eq!(keys_on(&servers), []);
    let again = there.mutex("name").release(&lease).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::AlreadyExpired);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adopted_lock_is_one_lock_with_its_origin() {
    let server = RedisServer::start();
    let redsync = connect_to(&server).await;
    let origin = redsync.mutex("name").lock().await.unwrap();
    let adopted = redsync.adopt(&origin.lease()).await.unwrap();

    adopted.unlock().await.unwrap();

    assert_eq!(redsync.inspect("name").await.unwrap().state(), LockState::Free);
    assert_eq!(origin.unlock().await.unwrap_err().kind(), ErrorKind::AlreadyExpired);
}

/// The lease of lock "name", of half a minute, as text; an extension to less than 10 s is under way when it is written, which
/// the network keeps back.
async fn written_while_it_is_extended(proxy: &Proxy) -> String {
    let redsync = over([proxy.url()]);
    let guard = redsync.mutex("name").expiry(MINUTE / 2).lock().await.unwrap();
    // The server knows the script from here on.
    guard.extend().await.unwrap();
    proxy.hold();
    let extending = guard.extend_by(Duration::from_secs(10));
    // Until it is under way; the network says nothing of it.
    timeout(Duration::from_millis(50), extending).await.unwrap_err();
    guard.into_lease().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_says_that_an_extension_was_under_way_when_it_was_written() {
    let server = RedisServer::start();
    let proxy = Proxy::before(&server);

    let written = written_while_it_is_extended(&proxy).await;

    let bound = written.strip_prefix("redsync:10000/").and_then(|rest| rest.split(':').next());
    let bound: u64 = bound.and_then(|millis| millis.parse().ok()).unwrap_or_else(|| panic!("{written}"));
    assert!((9_000..=10_000).contains(&bound), "{written}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_with_an_extension_under_way_survives_being_written_and_read() {
    let server = RedisServer::start();
    let proxy = Proxy::before(&server);

    let written = written_while_it_is_extended(&proxy).await;

    let read: Lease = written.parse().unwrap();
    assert_eq!(read.to_string(), written);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_adopts_a_lease_with_an_extension_under_way_believes_no_more_than_that_leaves() {
    let server = RedisServer::start();
    let proxy = Proxy::before(&server);
    let lease: Lease = written_while_it_is_extended(&proxy).await.parse().unwrap();

    let guard = connect_to(&server).await.mutex("name").expiry(MINUTE).adopt(&lease).await.unwrap();

    // Now the former holder's extension is applied.
    proxy.pass();
    wait_until("it is applied", DEADLINE, || server.pttl("name") < 10_000);
    assert!(guard.remaining() <= Duration::from_millis(server.pttl("name").unsigned_abs()), "{guard:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_with_no_extension_under_way_says_nothing_of_one() {
    let server = RedisServer::start();
    let guard = connect_to(&server).await.mutex("name").token_fn(|| "5f1c".to_owned()).lock().await.unwrap();
    guard.extend().await.unwrap();

    let lease = guard.into_lease();

    assert_eq!(lease.to_string(), "redsync:8000:name:5f1c");
}
