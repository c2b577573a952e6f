//! From URLs to nodes: every kind of address works, each server counts once, and no secret is ever shown.

mod support;

use std::error::Error as _;
use std::fmt::Debug;
use std::fs;
use std::time::Duration;

use redsync::{Error, NodeError, Redsync};
use redsync_testkit::{Proxy, RedisServer};
use support::{assert_contains, connect_to, timed, with_causes};

/// Takes and releases a lock through `url`, and says who held it meanwhile.
async fn lock_through(url: &str) -> Result<String, Error> {
    let redsync = Redsync::connect([url]).await?;
    let guard = redsync.mutex("name").lock().await?;
    let token = guard.token().to_string();
    guard.extend().await?;
    guard.unlock().await?;
    Ok(token)
}

#[tokio::test(flavor = "multi_thread")]
async fn tcp_works() {
    let server = RedisServer::start();
    lock_through(&server.url()).await.unwrap();
    lock_through(&server.url().replace("redis://", "valkey://")).await.unwrap();
    assert_eq!(server.command_count("set"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_works() {
    let server = RedisServer::builder().unix_socket_only().start();
    lock_through(&server.unix_url()).await.unwrap();
    assert_eq!(server.command_count("set"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_with_a_password_works() {
    let server = RedisServer::builder().unix_socket_only().password("p@ss &?=#/").start();
    lock_through(&server.unix_url()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_works() {
    let server = RedisServer::builder().tls().start();
    lock_through(&server.tls_url()).await.unwrap();
    assert_eq!(server.command_count("set"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn mutual_tls_works() {
    let server = RedisServer::builder().tls_mutual().password("secret").start();
    lock_through(&server.tls_url()).await.unwrap();
    assert_eq!(server.command_count("set"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_wants_a_certificate_refuses_a_client_without() {
    let server = RedisServer::builder().tls_mutual().start();
    let url = server.tls_url();
    let (without, _) = url.split_once("&cert=").unwrap();

    let (took, connected) = timed(Redsync::connect([without])).await;

    assert_contains(
        &with_causes(&connected.unwrap_err()),
        &["cannot connect", "localhost", "CertificateRequired"],
    );
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_an_unknown_authority_is_refused_and_called_that() {
    let (server, stranger) = (RedisServer::builder().tls().start(), RedisServer::builder().tls().start());
    let url = format!("rediss://localhost:{}?ca={}/ca.pem", server.tls_port(), stranger.dir().display());

    let (took, connected) = timed(Redsync::connect([&url])).await;

    let message = connected.unwrap_err().to_string();
    assert_contains(&message, &["cannot connect", "certificate", "localhost"]);
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_another_host_is_refused_and_called_that() {
    // All of 127.0.0.0/8 is this machine; the certificate is for 127.0.0.1.
    let server = RedisServer::builder().tls().config("bind", "127.0.0.1 127.0.0.2").start();
    let url = server.tls_url().replace("localhost", "127.0.0.2");

    let error = Redsync::connect([url]).await.unwrap_err();

    assert_contains(&error.to_string(), &["cannot connect", "certificate", "127.0.0.2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_to_a_port_without_it_fails_and_does_not_hang() {
    let server = RedisServer::builder().tls().start();
    let url = server.tls_url().replace(&server.tls_port().to_string(), &server.port().to_string());

    let (took, connected) = timed(Redsync::connect([&url])).await;

    assert_contains(&connected.unwrap_err().to_string(), &["no quorum to connect", "localhost"]);
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_client_on_a_port_with_tls_fails_and_does_not_hang() {
    let server = RedisServer::builder().tls().start();
    let url = format!("redis://127.0.0.1:{}", server.tls_port());

    let (took, connected) = timed(Redsync::connect([&url])).await;

    assert_contains(&connected.unwrap_err().to_string(), &["no quorum to connect", &url]);
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_number_is_used() {
    let server = RedisServer::start();
    let redsync = Redsync::connect([format!("{}/3", server.url())]).await.unwrap();

    let _guard = redsync.mutex("name").lock().await.unwrap();

    assert_contains(&server.info("keyspace"), &["db3:keys=1"]);
    assert_eq!(server.keys(), [""; 0], "database 0 is not used");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_number_of_a_unix_socket_is_used() {
    let server = RedisServer::builder().unix_socket_only().start();
    let redsync = Redsync::connect([format!("{}?db=3", server.unix_url())]).await.unwrap();

    let _guard = redsync.mutex("name").lock().await.unwrap();

    assert_contains(&server.info("keyspace"), &["db3:keys=1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_and_a_password_with_odd_characters_work() {
    let server = RedisServer::builder()
        .user("ann", "p:a/s@s%41?#", "~* +@all")
        .user("default", "nobody", "off")
        .start();

    let url = format!("redis://ann:p%3Aa%2Fs%40s%2541%3F%23@{}", server.address());

    lock_through(&url).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_speak_resp3() {
    let server = RedisServer::start();
    let _redsync = connect_to(&server).await;

    let clients = server.command(&["CLIENT", "LIST"]);

    let clients = clients.text();
    assert_eq!(clients.matches(" resp=3").count(), 1, "{clients}");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_requests_share_one_connection() {
    let server = RedisServer::start();
    let redsync = connect_to(&server).await;

    let locking = (0..50).map(|number| {
        let mutex = redsync.mutex(format!("name {number}"));
        tokio::spawn(async move { mutex.lock().await.unwrap().unlock().await.unwrap() })
    });
    for locking in locking.collect::<Vec<_>>() {
        locking.await.unwrap();
    }

    let clients = server.command(&["CLIENT", "LIST"]);
    assert_eq!(clients.text().matches(" resp=3").count(), 1, "{}", clients.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_nobody_listens_on_is_named_with_the_reason() {
    let error = Redsync::connect(["redis://127.0.0.1:1"]).await.unwrap_err();

    assert_contains(
        &error.to_string(),
        &["no quorum to connect", "redis://127.0.0.1:1", "connection refused"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_does_not_resolve_is_named_and_does_not_hang() {
    let (took, connected) = timed(Redsync::connect(["redis://no-such-host.invalid"])).await;

    let error = connected.unwrap_err();
    let message = error.to_string();
    assert_contains(&message, &["no quorum to connect", "redis://no-such-host.invalid"]);
    // A resolver that is itself out of reach takes longer than a node is given.
    let is_slow_resolver = matches!(error.nodes(), [NodeError::Timeout { .. }]);
    assert!(is_slow_resolver || message.contains("lookup"), "{message}");
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_listed_twice_is_refused_and_named() {
    let server = RedisServer::start();

    let error = Redsync::connect([server.url(), server.url()]).await.unwrap_err();

    assert!(matches!(error, Error::DuplicateNode { .. }), "{error:?}");
    assert_contains(&error.to_string(), &[&server.url(), "is listed twice"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_listed_by_port_and_by_socket_is_refused_and_both_are_named() {
    let server = RedisServer::start();

    let error = Redsync::connect([server.url(), server.unix_url()]).await.unwrap_err();

    assert!(matches!(error, Error::DuplicateNode { .. }), "{error:?}");
    assert_contains(&error.to_string(), &[&server.url(), &server.unix_url(), "are the same server"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_listed_by_number_and_by_name_is_refused_and_both_are_named() {
    let (server, other) = (RedisServer::start(), RedisServer::start());
    let by_name = server.url().replace("127.0.0.1", "localhost");

    let error = Redsync::connect([server.url(), other.url(), by_name.clone()]).await.unwrap_err();

    assert!(matches!(error, Error::DuplicateNode { .. }), "{error:?}");
    assert_contains(&error.to_string(), &[&server.url(), &by_name, "are the same server"]);
    assert!(!error.to_string().contains(&other.url()), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_databases_of_one_server_are_refused() {
    let server = RedisServer::start();
    let third = format!("{}/3", server.url());

    let error = Redsync::connect([server.url(), third.clone()]).await.unwrap_err();

    assert!(matches!(error, Error::DuplicateNode { .. }), "{error:?}");
    assert_contains(&error.to_string(), &[&server.url(), &third]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_listed_twice_and_answers_late_does_not_vote() {
    let servers = redsync_testkit::servers(2);
    let proxy = Proxy::before(&servers[0]);
    // Longer than anybody is waited for whom a majority can do without.
    proxy.delay(Duration::from_millis(150));
    let urls = [servers[0].url(), servers[1].url(), proxy.url()];
    let redsync = urls
        .into_iter()
        .fold(Redsync::builder().restart_guard(false), redsync::Builder::url)
        .build()
        .unwrap();
    redsync.check_nodes().await.unwrap();
    let mutex = redsync.mutex("name").fail_fast(false);
    for mutex in [mutex.clone(), mutex.retry_delay(Duration::from_millis(50))] {
        let guard = mutex.lock().await.unwrap();
        guard.unlock().await.unwrap();
    }
    let health_warnings = redsync.health_warnings().await.unwrap();
    assert!(
        health_warnings.iter().any(|told| told.to_string().contains("is the same server as another")),
        "{health_warnings:?}"
    );
    // With one of the two gone, the other would be a majority if it voted twice.
    servers[1].kill();
    let error = redsync.mutex("name").try_lock().await.unwrap_err();
    assert_contains(&error.to_string(), &["is the same server as another"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_urls_at_all_are_refused() {
    let error = Redsync::connect([""; 0]).await.unwrap_err();

    assert_contains(&error.to_string(), &["invalid nodes: there are none"]);
}

const SECRET: &str = "hunter2";

#[track_caller]
fn assert_secret_kept(shown: &str) {
    assert!(!shown.contains(SECRET), "the password is shown: {shown}");
}

#[track_caller]
fn assert_error_keeps_secret(error: &Error) {
    assert_secret_kept(&with_causes(error));
    assert_secret_kept(&format!("{error:?} {error:#?}"));
    let mut cause = error.source();
    while let Some(error) = cause {
        assert_secret_kept(&format!("{error:?}"));
        cause = error.source();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connected_redsync_does_not_show_its_password() {
    let server = RedisServer::builder().password(SECRET).tls().start();
    for url in [server.url(), server.unix_url(), server.tls_url()] {
        let redsync = Redsync::connect([url]).await.unwrap();
        let mutex = redsync.mutex("name");
        let guard = mutex.lock().await.unwrap();

        let debug = |value: &dyn Debug| format!("{value:?} {value:#?}");
        assert_secret_kept(&debug(&redsync));
        assert_secret_kept(&debug(&mutex));
        assert_secret_kept(&debug(&guard));
        assert_secret_kept(&debug(&redsync.inspect("name").await.unwrap()));
        guard.unlock().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_builder_does_not_show_passwords() {
    let builder = Redsync::builder().url(format!("redis://ann:{SECRET}@127.0.0.1:1"));

    assert_secret_kept(&format!("{builder:?}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_do_not_show_passwords() {
    let server = RedisServer::builder().password("another").tls().start();
    let (address, socket) = (server.address(), server.dir().join("redis.sock"));
    let urls = [
        format!("redis://:{SECRET}@{address}"),
        format!("redis://ann:{SECRET}@{address}"),
        format!("redis://:{SECRET}@127.0.0.1:1"),
        format!("redis+unix://{}?password={SECRET}", socket.display()),
        format!("rediss://:{SECRET}@localhost:{}", server.tls_port()),
    ];
    for url in urls {
        let error = Redsync::connect([&url]).await.unwrap_err();
        assert_error_keeps_secret(&error);

        let redsync = Redsync::builder().url(&url).build().unwrap();
        let error = redsync.mutex("name").tries(1).lock().await.unwrap_err();
        assert_error_keeps_secret(&error);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_about_a_node_listed_twice_does_not_show_passwords() {
    let server = RedisServer::builder().password(SECRET).start();

    let twice = Redsync::connect([server.url(), server.url()]).await.unwrap_err();
    let two_ways = Redsync::connect([server.url(), server.unix_url()]).await.unwrap_err();

    assert_error_keeps_secret(&twice);
    assert_error_keeps_secret(&two_ways);
}

/// Shows no part of a password in the error about a URL that has a slip in it.
async fn refused_without_the_password(url: &str) {
    let error = Redsync::connect([url]).await.unwrap_err();
    assert_error_keeps_secret(&error);
    assert_secret_kept(&redsync::redacted(url));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_in_the_parameters_of_a_refused_url_is_not_shown() {
    refused_without_the_password("redis+unix:///run/redis.sock?password=p@hunter2&colour=red").await;
    refused_without_the_password("redis://127.0.0.1?password=p@hunter2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_was_not_percent_encoded_is_not_shown() {
    // The URL's grammar ends the host at the first / or ?: what follows looks like a database or a parameter.
    refused_without_the_password("redis://ann:12/hunter2@127.0.0.1").await;
    refused_without_the_password("redis://ann:12?hunter2@127.0.0.1").await;
    refused_without_the_password("redis://ann:12#hunter2@127.0.0.1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificate_files_are_read_once_when_the_url_is() {
    let server = RedisServer::builder().tls().start();
    let copy = tempfile::tempdir().unwrap();
    let ca = copy.path().join("ca.pem");
    fs::copy(server.dir().join("ca.pem"), &ca).unwrap();
    let url = format!("rediss://localhost:{}?ca={}", server.tls_port(), ca.display());
    let redsync = Redsync::builder().url(url).build().unwrap();

    fs::remove_file(&ca).unwrap();

    let guard = redsync.mutex("name").lock().await.unwrap();
    guard.unlock().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_file_that_is_missing_is_named() {
    let error = Redsync::connect(["rediss://localhost:1?ca=/no/such/file"]).await.unwrap_err();

    assert!(matches!(error, Error::InvalidUrl(_)), "{error:?}");
    assert_contains(&error.to_string(), &["cannot read /no/such/file"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_file_without_a_certificate_is_refused_and_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("empty.pem");
    fs::write(&file, "").unwrap();
    let file = file.display().to_string();

    let error = Redsync::connect([format!("rediss://localhost:1?ca={file}")]).await.unwrap_err();

    assert_contains(&error.to_string(), &[&file]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_down_from_the_start_is_owed_no_release() {
    let servers = redsync_testkit::servers(2);
    // Bound and closed: nobody listens there.
    let down = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let urls = [servers[0].url(), servers[1].url(), format!("redis://{down}")];
    let redsync = urls
        .into_iter()
        .fold(Redsync::builder().restart_guard(false), redsync::Builder::url)
        .build()
        .unwrap();
    redsync.check_nodes().await.unwrap();

    redsync.mutex("name").lock().await.unwrap().unlock().await.unwrap();

    let (took, is_done) = timed(redsync.shutdown()).await;
    assert!(is_done && took < Duration::from_secs(2), "{is_done} after {took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn something_large_under_a_locks_name_is_taken_and_breaks_one_connection_at_most() {
    let server = RedisServer::start();
    server.command(&["SET", "large", &"x".repeat(2 << 20)]);
    let redsync = connect_to(&server).await;
    let other = redsync.mutex("other").lock().await.unwrap();
    // The first answer is lost with the connection: SET tells all that is there.
    let _ = redsync.mutex("large").try_lock().await;
    // From here on there is a connection again.
    redsync.inspect("large").await.unwrap();
    // Asking makes a connection of its own each time.
    let connections = || {
        let stats = server.info("stats");
        let told = stats.lines().find_map(|line| line.strip_prefix("total_connections_received:"));
        told.unwrap().trim().parse::<u64>().unwrap()
    };
    let before = connections();
    for _ in 0..10 {
        assert!(redsync.mutex("large").try_lock().await.unwrap().is_none());
        assert!(redsync.mutex("large").fenced().try_lock().await.unwrap().is_none());
    }
    assert!(
        redsync.inspect("large").await.unwrap().holder().is_some_and(|holder| holder.token().len() == 513)
    );
    assert_eq!(connections(), before + 1, "that of this question");
    other.unlock().await.unwrap();
}
