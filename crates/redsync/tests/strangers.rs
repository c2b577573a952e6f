//! What is named as a node and is none: other servers, Sentinels, members of clusters, TLS mixed up. A person is told what
//! it is and what to do, at once; and no text of a stranger reaches the terminal as it is.

mod support;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use redsync::{Error, ErrorKind, NodeFault, Redsync, Remedy};
use redsync_testkit::{RedisServer, wait_until};
use tokio::time::timeout;

use self::support::{DEADLINE, assert_contains, over, with_causes};

/// A server that says this to each that connects, after it has heard something where it is to; and closes, or hangs.
struct Stranger {
    port: u16,
}

#[derive(Clone, Copy)]
struct Manners {
    hears_first: bool,
    closes: bool,
}

const ANSWERS: Manners = Manners { hears_first: true, closes: true };
const GREETS: Manners = Manners { hears_first: false, closes: false };
const HANGS: Manners = Manners { hears_first: true, closes: false };

impl Stranger {
    fn that_says(words: impl Into<Vec<u8>>, manners: Manners) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, words) = (listener.local_addr().unwrap().port(), words.into());
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (Ok(mut stream), words) = (stream, words.clone()) else { return };
                thread::spawn(move || {
                    if manners.hears_first {
                        let _ = stream.read(&mut [0; 4096]);
                    }
                    let _ = stream.write_all(&words);
                    if !manners.closes {
                        // Until the client goes.
                        let _ = stream.read_to_end(&mut Vec::new());
                    }
                });
            }
        });
        Self { port }
    }

    fn url(&self) -> String {
        format!("redis://:hunter2@127.0.0.1:{}", self.port)
    }
}

/// The error of one who would wait for ever, if that helped. It must end long before the expiry.
async fn refused(redsync: &Redsync) -> Error {
    let (began, mutex) = (Instant::now(), redsync.mutex("name").expiry(Duration::from_secs(60)));
    let error = timeout(DEADLINE, mutex.lock()).await.expect("waiting ends").unwrap_err();
    let took = began.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}: {error}");
    assert_eq!(error.kind(), ErrorKind::NoQuorum, "{error:?}");
    error
}

async fn refused_by(url: &str) -> (String, Option<Remedy>) {
    let error = refused(&over([url.to_owned()])).await;
    let shown = format!("{}\n{error:?}", with_causes(&error));
    assert!(!shown.contains("hunter2"), "{shown}");
    (error.to_string(), error.remedy())
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_are_no_redis_are_called_what_they_are_at_once() {
    for (said, manners, told) in [
        ("HTTP/1.1 400 Bad Request\r\n\r\n", ANSWERS, "a web server answers there, and no Redis"),
        ("<!DOCTYPE HTML>\n<html>", ANSWERS, "a web server answers there, and no Redis"),
        ("SSH-2.0-OpenSSH_9.2p1\r\n", GREETS, "an SSH server answers there, and no Redis"),
        ("ERROR\r\nERROR\r\n", HANGS, "may be memcached"),
        ("220 mail ESMTP \u{1b}[31m\r\n", GREETS, r#"is no Redis (it said "220 mail ESMTP \u{1b}[31m")"#),
    ] {
        let stranger = Stranger::that_says(said, manners);
        let (text, remedy) = refused_by(&stranger.url()).await;
        assert_contains(&text, &[told, "name the host and port of a Redis or Valkey server", "127.0.0.1"]);
        assert_eq!(remedy, Some(Remedy::Node), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_closes_without_a_word_may_want_tls() {
    let stranger = Stranger::that_says("", ANSWERS);
    let error = Redsync::connect([stranger.url()]).await.unwrap_err();
    assert_contains(&error.to_string(), &["closed the connection without a word", "rediss://"]);
    assert_eq!(error.remedy(), None, "it may be a proxy whose server is away for a moment");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_says_nothing_is_told_to_be_silent() {
    let stranger = Stranger::that_says("", HANGS);
    let redsync = over([stranger.url()]);
    let mutex = redsync.mutex("name").expiry(Duration::from_secs(5));
    let error = timeout(DEADLINE, mutex.lock()).await.expect("waiting ends").unwrap_err();
    assert_contains(&error.to_string(), &["it takes connections and says nothing", "is it a Redis?"]);
    assert_eq!(error.remedy(), None, "a server that hangs may go on");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_words_of_a_server_are_passed_on_with_the_password_raw_or_at_length() {
    let long = "x".repeat(3_000_000);
    for said in [
        "-WRONGPASS invalid 'hunter2' \u{1b}]0;owned\u{7}\u{9b}31m\r\n".to_owned(),
        "-ERR \u{1b}[2Junknown command HELLO, with args beginning with: 'AUTH' 'hunter2'\r\n".to_owned(),
        "-ERR AUTH default HUNTER2 is not what I want\r\n".to_owned(),
        format!("-ERR {long}\r\n"),
        format!("-{long}\r\n"),
        "hunter2 \u{1b}[2J".to_owned(),
    ] {
        let stranger = Stranger::that_says(said.clone(), ANSWERS);
        let error = Redsync::connect([stranger.url()]).await.unwrap_err();
        let shown = format!("{}\n{error:?}", with_causes(&error));
        let begins = &said[..said.len().min(60)];
        assert!(!shown.to_lowercase().contains("hunter2"), "{begins}: {shown}");
        let is_control = |letter: char| letter.is_control() && letter != '\n';
        assert!(!shown.contains(is_control), "{begins}: {shown:?}");
        assert!(shown.len() < 5 * NodeFault::MESSAGE_CHARS, "{begins}: {}", shown.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_server_says_so_in_its_own_words_and_is_waited_for() {
    let server = RedisServer::builder().config("maxclients", "1").start();
    // The kit's own turn is over; this one stays.
    let mut first = redsync_testkit::Client::connect(server.address()).unwrap();
    first.ask(&["PING"]).unwrap();
    let redsync = over([server.url()]);

    let error = redsync.mutex("name").tries(1).lock().await.unwrap_err();

    assert_contains(
        &error.to_string(),
        &["no room for one more client", "maxclients", "(ERR max number of clients reached)"],
    );
    assert_eq!(error.remedy(), None);
    let waiting = tokio::spawn(async move { redsync.mutex("name").lock().await });
    drop(first);
    let guard = timeout(DEADLINE, waiting).await.expect("there is room again").unwrap().unwrap();
    guard.unlock().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_the_server_lacks_is_called_that_at_once() {
    let server = RedisServer::start();
    let (text, remedy) = refused_by(&format!("{}/99", server.url())).await;
    assert_contains(&text, &["no database of the number in the URL", "(ERR DB index is out of range)"]);
    assert_eq!(remedy, Some(Remedy::Node));
    assert!(!text.contains("Redis 6"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_ends_a_wait_at_once() {
    let servers: Vec<RedisServer> =
        (0..3).map(|_| RedisServer::builder().password("right").start()).collect();
    let urls = |wrong: usize| {
        let password = move |at| if at < wrong { "wrong" } else { "right" };
        let url =
            |(at, server): (usize, &RedisServer)| format!("redis://:{}@{}", password(at), server.address());
        servers.iter().enumerate().map(url).collect::<Vec<_>>()
    };

    let error = refused(&over(urls(2))).await;
    assert_eq!(error.remedy(), Some(Remedy::Access), "{error}");
    assert_contains(&error.to_string(), &["2 of 3 nodes failed", "wrong user or password (WRONGPASS"]);
    // By trying again and again, too.
    let mutex = over(urls(3)).mutex("name").retry_delay(Duration::from_millis(10));
    let error = timeout(DEADLINE, mutex.lock()).await.expect("waiting ends").unwrap_err();
    assert_eq!(error.remedy(), Some(Remedy::Access), "{error}");

    over(urls(1)).mutex("name").lock().await.expect("a minority does not matter").unlock().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_who_waits_in_queue_is_told_when_the_last_server_it_needs_refuses_it() {
    let server = RedisServer::start();
    let redsync = over([server.url()]);
    let holder = redsync.mutex("name").expiry(Duration::from_secs(3)).lock().await.unwrap();
    let mutex = redsync.mutex("name").expiry(Duration::from_secs(60));
    let waiting = tokio::spawn(async move { mutex.lock().await });
    wait_until("it is in the queue", DEADLINE, || server.waiting("name") == 1);

    server.command(&["CONFIG", "SET", "requirepass", "new"]);
    let mut kit = redsync_testkit::Client::connect(server.address()).unwrap();
    kit.ask(&["AUTH", "new"]).unwrap();
    kit.ask(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).unwrap();
    kit.ask(&["CLIENT", "KILL", "TYPE", "pubsub", "SKIPME", "yes"]).unwrap();

    let error = timeout(DEADLINE, waiting).await.expect("waiting ends").unwrap().unwrap_err();
    assert_contains(&error.to_string(), &["the server wants a password", "NOAUTH"]);
    drop(holder);
}

#[tokio::test(flavor = "multi_thread")]
async fn members_of_a_cluster_are_called_that_with_what_to_name_instead() {
    let members: Vec<RedisServer> =
        (0..3).map(|_| RedisServer::builder().config("cluster-enabled", "yes").start()).collect();
    let alone = refused_in_time(&over([members[0].url()])).await;
    assert_contains(&alone.to_string(), &["member of a cluster", "CLUSTERDOWN", "independent of each other"]);
    assert_eq!(alone.remedy(), None, "a cluster may be down for a moment");

    for (at, member) in members.iter().enumerate() {
        let slots: Vec<String> =
            (0..16384).filter(|slot| slot % 3 == at).map(|slot| slot.to_string()).collect();
        let words = ["CLUSTER", "ADDSLOTS"].into_iter().chain(slots.iter().map(String::as_str));
        member.command(&words.collect::<Vec<_>>());
        if at > 0 {
            member.command(&["CLUSTER", "SET-CONFIG-EPOCH", &(at + 1).to_string()]);
            member.command(&["CLUSTER", "MEET", "127.0.0.1", &members[0].port().to_string()]);
        }
    }
    wait_until("the cluster is one", Duration::from_secs(40), || {
        members.iter().all(|member| {
            let info = member.command(&["CLUSTER", "INFO"]);
            info.text().contains("cluster_state:ok") && info.text().contains("cluster_known_nodes:3")
        })
    });
    // With the guard that withholds the votes of servers that have just started, as these have.
    let urls = members.iter().map(RedisServer::url);
    let redsync = urls.fold(Redsync::builder(), redsync::Builder::url).build().unwrap();
    let error = refused(&redsync).await;
    assert_contains(&error.to_string(), &["member of a cluster", "MOVED", "independent of each other"]);
    assert!(!error.to_string().contains("cannot vote yet"), "{error}");
    assert_eq!(error.remedy(), Some(Remedy::Node));
}

async fn refused_in_time(redsync: &Redsync) -> Error {
    let mutex = redsync.mutex("name").expiry(Duration::from_secs(1));
    timeout(DEADLINE, mutex.lock()).await.expect("waiting ends").unwrap_err()
}

/// A Sentinel, which ends with the test.
struct Sentinel {
    process: Child,
    port: u16,
    _directory: tempfile::TempDir,
}

impl Sentinel {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        // Free a moment ago.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let file = directory.path().join("sentinel.conf");
        std::fs::write(&file, format!("bind 127.0.0.1\nport {port}\nlogfile sentinel.log\n")).unwrap();
        let server = std::env::var_os("REDSYNC_TEST_REDIS_SERVER").unwrap_or_else(|| "redis-server".into());
        let process = Command::new(server).arg(&file).arg("--sentinel").current_dir(directory.path()).spawn();
        let sentinel = Self { process: process.unwrap(), port, _directory: directory };
        wait_until("the Sentinel listens", DEADLINE, || {
            redsync_testkit::Client::connect(("127.0.0.1", port)).is_ok()
        });
        sentinel
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sentinel_is_called_that_at_once() {
    let sentinel = Sentinel::start();
    let (text, remedy) = refused_by(&format!("redis://127.0.0.1:{}", sentinel.port)).await;
    assert_contains(
        &text,
        &["a Sentinel answers there", "name the server that it watches", "SENTINEL masters"],
    );
    assert_eq!(remedy, Some(Remedy::Node));
}

/// A file beside this one.
fn certificate(file: &str) -> String {
    format!("{}/tests/certificates/{file}", env!("CARGO_MANIFEST_DIR"))
}

/// A server that shows this certificate, with its key beside it.
fn showing(file: &str) -> RedisServer {
    RedisServer::builder()
        .tls()
        .config("tls-cert-file", certificate(&format!("{file}.pem")))
        .config("tls-key-file", certificate(&format!("{file}.key")))
        .config("bind", "127.0.0.1 127.0.0.2")
        .start()
}

fn tls_url(host: &str, server: &RedisServer, parameters: &str) -> String {
    format!("rediss://{host}:{}{parameters}", server.tls_port())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_self_signed_certificate_that_the_url_names_is_trusted() {
    let server = showing("self_signed");
    for host in ["localhost", "127.0.0.1"] {
        let url = tls_url(host, &server, &format!("?ca={}", certificate("self_signed.pem")));
        over([url]).mutex("name").lock().await.unwrap().unlock().await.unwrap();
    }
    // One of several in the file will do.
    let directory = tempfile::tempdir().unwrap();
    let both = directory.path().join("both.pem");
    let read = |file| std::fs::read_to_string(certificate(file)).unwrap();
    std::fs::write(&both, read("twin.pem") + &read("self_signed.pem")).unwrap();
    let url = tls_url("localhost", &server, &format!("?ca={}", both.display()));
    over([url]).mutex("name").lock().await.unwrap().unlock().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_other_self_signed_certificate_is_trusted_nor_this_one_for_another_host() {
    let server = showing("self_signed");
    let twin = tls_url("localhost", &server, &format!("?ca={}", certificate("twin.pem")));
    let (text, remedy) = refused_by(&twin).await;
    assert_contains(&text, &["certificate", "ca=FILE"]);
    assert_eq!(remedy, Some(Remedy::Node), "{text}");

    let without = tls_url("localhost", &server, "");
    let (text, _) = refused_by(&without).await;
    assert_contains(&text, &["certificate", "ca=FILE"]);

    let elsewhere = tls_url("127.0.0.2", &server, &format!("?ca={}", certificate("self_signed.pem")));
    let (text, remedy) = refused_by(&elsewhere).await;
    assert_contains(&text, &["127.0.0.2", "subjectAltName"]);
    assert_eq!(remedy, Some(Remedy::Node), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_of_version_1_is_shown_and_the_server_decides() {
    let server = RedisServer::builder()
        .tls_mutual()
        .config("tls-ca-cert-file", certificate("self_signed.pem"))
        .start();
    let ca = server.dir().join("ca.pem");
    let with = |name: &str, key: &str| {
        let (cert, key) = (certificate(&format!("{name}.pem")), certificate(&format!("{key}.key")));
        tls_url("localhost", &server, &format!("?ca={}&cert={cert}&key={key}", ca.display()))
    };

    over([with("version_1", "version_1")]).mutex("name").lock().await.unwrap().unlock().await.unwrap();

    let (text, remedy) = refused_by(&with("twin", "twin")).await;
    assert_contains(&text, &["the server does not accept the client certificate"]);
    assert_eq!(remedy, Some(Remedy::Access));
    let error = Redsync::connect([with("twin", "self_signed")]).await.unwrap_err();
    assert_contains(&error.to_string(), &["twin.pem", "self_signed.key", "do not belong together"]);
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_and_plain_ports_that_are_mixed_up_are_called_that_at_once() {
    let server = RedisServer::builder().tls().start();
    let plain = format!("redis://127.0.0.1:{}", server.tls_port());
    let (text, remedy) = refused_by(&plain).await;
    assert_contains(&text, &["the server speaks TLS", "rediss://"]);
    assert_eq!(remedy, Some(Remedy::Node));

    let secured = server.tls_url().replace(&server.tls_port().to_string(), &server.port().to_string());
    let (text, remedy) = refused_by(&secured).await;
    assert_contains(&text, &["the server does not speak TLS", "redis://"]);
    assert_eq!(remedy, Some(Remedy::Node));
    for said in ["HTTP/1.1 400 Bad Request\r\n\r\n", "SSH-2.0-OpenSSH_9.2p1\r\n"] {
        let url = Stranger::that_says(said, ANSWERS).url().replace("redis://", "rediss://");
        let (text, remedy) = refused_by(&url).await;
        assert_contains(&text, &["and no Redis"]);
        assert_eq!(remedy, Some(Remedy::Node), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_wants_a_client_certificate_is_no_matter_of_waiting() {
    let server = RedisServer::builder().tls_mutual().start();
    let url = server.tls_url();
    let (without, _) = url.split_once("&cert=").unwrap();
    let (text, remedy) = refused_by(without).await;
    assert_contains(&text, &["give it a client certificate: cert=FILE&key=FILE"]);
    assert_eq!(remedy, Some(Remedy::Access));
}
