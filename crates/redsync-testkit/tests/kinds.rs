//! Each kind of server is what its builder says.

use std::net::TcpStream;
use std::panic;
use std::time::Duration;

use redsync_testkit::{RedisServer, Reply, servers, wait_until};

const DEADLINE: Duration = Duration::from_secs(10);

/// Asks as a stranger would: over TCP, without the kit's credentials. One line in, one line out.
fn ask_as_stranger(server: &RedisServer, line: &str) -> String {
    use std::io::{BufRead, BufReader, Write};
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    for command in line.split("; ") {
        stream.write_all(format!("{command}\r\n").as_bytes()).unwrap();
    }
    let answers = BufReader::new(stream).lines().take(line.split("; ").count());
    answers.map(Result::unwrap).last().unwrap()
}

/// What a TLS server answers to a client's first message: a handshake record begins with 0x16, 0x03.
fn speaks_tls(port: u16) -> bool {
    use std::io::{Read, Write};
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    // A TLS 1.2 ClientHello with one cipher suite and no extension but the groups and signatures ECDSA needs.
    let extensions: &[u8] = &[0, 10, 0, 4, 0, 2, 0, 23, 0, 13, 0, 4, 0, 2, 4, 3];
    let mut hello = vec![3, 3];
    hello.extend([7; 32]);
    hello.extend([0, 0, 2, 0xC0, 0x2B, 1, 0, 0, u8::try_from(extensions.len()).unwrap()]);
    hello.extend(extensions);
    let length = u8::try_from(hello.len()).unwrap();
    let mut record = vec![0x16, 3, 1, 0, length + 4, 1, 0, 0, length];
    record.extend(hello);
    stream.write_all(&record).unwrap();
    let mut answer = [0; 2];
    stream.read_exact(&mut answer).unwrap();
    answer == [0x16, 3]
}

fn message_of_panic(action: impl FnOnce() + panic::UnwindSafe) -> String {
    *panic::catch_unwind(action).unwrap_err().downcast::<String>().unwrap()
}

#[test]
fn a_plain_server_answers_and_keeps_what_it_is_told() {
    let server = RedisServer::start();
    server.set("key", "value", None);
    server.set("short", "value", Some(60_000));
    assert_eq!(server.get("key").as_deref(), Some("value"));
    assert_eq!(server.get("missing"), None);
    assert_eq!(server.pttl("key"), -1);
    assert!((1..=60_000).contains(&server.pttl("short")));
    assert_eq!(server.keys(), ["key", "short"]);
    assert_eq!(server.command_count("set"), 2);
    assert_eq!(ask_as_stranger(&server, "PING"), "+PONG");
    server.flushall();
    assert_eq!(server.keys(), [""; 0]);
}

#[test]
fn replies_of_every_kind_are_understood() {
    let server = RedisServer::start();
    let script = "return {1, 'two\\r\\nlines', false, redis.status_reply('FINE'), {}}";
    let reply = server.command(&["EVAL", script, "0"]);
    assert_eq!(reply.to_string(), r#"[(integer) 1, "two\r\nlines", (nil), FINE, []]"#);
    assert_eq!(reply.array()[0].int(), 1);
    assert!(reply.array()[2].is_nil());
    assert!(server.command(&["NONSENSE"]).error().unwrap().starts_with("ERR unknown command"));
}

#[test]
fn many_servers_are_distinct() {
    let servers = servers(5);
    let mut ports: Vec<u16> = servers.iter().map(RedisServer::port).collect();
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 5);
    servers[0].set("key", "value", None);
    assert_eq!(servers[4].get("key"), None);
}

#[test]
fn a_password_is_needed_by_all_but_the_kit() {
    let server = RedisServer::builder().password("a \"b\\c").start();
    assert!(ask_as_stranger(&server, "PING").starts_with("-NOAUTH"));
    assert_eq!(server.command(&["PING"]), Reply::Status("PONG".into()));
    assert_eq!(server.url(), format!("redis://:a%20%22b%5Cc@127.0.0.1:{}", server.port()));
    assert!(server.unix_url().ends_with("/redis.sock?password=a%20%22b%5Cc"));
}

#[test]
fn a_user_may_do_what_the_rules_say() {
    let server =
        RedisServer::builder().user("ann", "secret", "~ann:* +set").user("default", "none", "off").start();
    assert!(ask_as_stranger(&server, "PING").starts_with("-NOAUTH"));
    assert_eq!(ask_as_stranger(&server, "AUTH ann secret; SET ann:key 1"), "+OK");
    assert!(ask_as_stranger(&server, "AUTH ann secret; SET other 1").starts_with("-NOPERM"));
    assert!(ask_as_stranger(&server, "AUTH ann secret; GET ann:key").starts_with("-NOPERM"));
    assert_eq!(server.get("ann:key").as_deref(), Some("1"));
}

#[test]
fn a_tls_server_speaks_tls_on_a_port_of_its_own() {
    let server = RedisServer::builder().tls().start();
    let port = server.tls_port();
    assert_eq!(server.command(&["CONFIG", "GET", "tls-port"]).array()[1].text(), port.to_string());
    assert_ne!(port, server.port());
    assert!(speaks_tls(port));
    assert_eq!(server.tls_url(), format!("rediss://localhost:{port}?ca={}/ca.pem", server.dir().display()));
}

#[test]
fn a_mutual_tls_server_wants_the_clients_certificate() {
    let server = RedisServer::builder().tls_mutual().start();
    assert_eq!(server.command(&["CONFIG", "GET", "tls-auth-clients"]).array()[1].text(), "yes");
    assert!(speaks_tls(server.tls_port()));
    let (_, query) = server.tls_url().split_once('?').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    for parameter in query.split('&') {
        let (_, file) = parameter.split_once('=').unwrap();
        assert!(std::fs::read_to_string(file).unwrap().starts_with("-----BEGIN "), "{parameter}");
    }
}

#[test]
fn a_unix_socket_only_server_has_no_port() {
    let server = RedisServer::builder().unix_socket_only().start();
    assert_eq!(server.command(&["CONFIG", "GET", "port"]).array()[1].text(), "0");
    assert_eq!(server.unix_url(), format!("redis+unix://{}/redis.sock", server.dir().display()));
}

#[test]
fn a_driven_clock_stands_still_and_keys_expire_by_it() {
    const BEGINNING: u64 = 1_700_000_000_123_457;
    let server = RedisServer::builder().driven_clock(BEGINNING).start();
    let time = || server.command(&["TIME"]).array()[1].text().parse::<u64>().unwrap();
    server.set("key", "value", Some(100));
    assert_eq!((time(), server.pttl("key")), (123_457, 100));

    for micros in [123_458, 199_999, 200_001, 222_999] {
        server.set_clock(1_700_000_000_000_000 + micros);
        assert_eq!(time(), micros);
        assert_eq!(server.pttl("key"), 223 - i64::try_from(micros / 1_000).unwrap());
    }
    server.set_clock(1_700_000_000_223_999);
    assert_eq!(server.get("key").as_deref(), Some("value"));
    server.set_clock(1_700_000_000_224_000);
    assert_eq!(server.get("key"), None);
}

#[test]
fn any_directive_can_be_given() {
    let server = RedisServer::builder().config("maxmemory", "1mb").config("save", "3600 1").start();
    assert_eq!(server.command(&["CONFIG", "GET", "maxmemory"]).array()[1].text(), "1048576");
    assert_eq!(server.command(&["CONFIG", "GET", "save"]).array()[1].text(), "3600 1");
}

#[test]
fn a_replica_has_the_primarys_data_and_refuses_writes() {
    let primary = RedisServer::builder().password("secret").start();
    primary.set("before", "1", None);
    let replica = RedisServer::builder().replica_of(&primary).start();
    assert_eq!(replica.get("before").as_deref(), Some("1"));
    assert!(replica.command(&["SET", "key", "1"]).error().unwrap().starts_with("READONLY"));
    primary.set("after", "1", None);
    wait_until("the replica has the key", DEADLINE, || replica.get("after").is_some());
}

#[test]
fn a_missing_binary_is_named_together_with_its_remedy() {
    let message = message_of_panic(|| drop(RedisServer::builder().binary("/no/such/server").start()));
    assert!(message.contains("`/no/such/server`"), "{message}");
    assert!(message.contains("install it with: apt-get install redis-server"), "{message}");
}

#[test]
fn a_server_that_ends_at_once_says_why() {
    let message = message_of_panic(|| drop(RedisServer::builder().config("no-such-directive", "1").start()));
    assert!(message.contains("no-such-directive"), "{message}");
}

#[test]
fn a_server_that_can_never_have_its_port_gives_up_and_says_why() {
    let occupant = RedisServer::start();
    let port = occupant.port().to_string();
    let message = message_of_panic(|| drop(RedisServer::builder().config("port", port).start()));
    assert!(message.contains("Address already in use"), "{message}");
}
