//! A proxy does to connections what it is told, to those it is told, and nothing when it is told nothing.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use redsync_testkit::{Client, Proxy, RedisServer, Reply, wait_until};

const DEADLINE: Duration = Duration::from_secs(10);

/// How long nothing may come before it counts as nothing: a healthy proxy needs less than a millisecond.
const SILENCE: Duration = Duration::from_millis(100);

/// Longer than any test: what is due only then arrives for another reason.
const NEVER: Duration = Duration::from_secs(24 * 60 * 60);

struct Fixture {
    server: RedisServer,
    proxy: Proxy,
}

impl Fixture {
    fn new() -> Self {
        let server = RedisServer::start();
        Self { proxy: Proxy::before(&server), server }
    }

    /// A client whose connection has reached the server.
    fn client(&self) -> Client {
        let mut client = Client::connect(self.proxy.address()).unwrap();
        assert_answers(&mut client);
        client
    }

    /// A client that gets what is published on `news`.
    fn subscriber(&self) -> Client {
        let mut client = self.client();
        client.ask(&["SUBSCRIBE", "news"]).unwrap();
        client
    }

    fn publish(&self) {
        assert_eq!(self.server.command(&["PUBLISH", "news", "hello"]).int(), 1, "one subscriber");
    }

    /// Those over TCP, as the server sees it.
    fn clients_of_the_server(&self) -> usize {
        self.server.command(&["CLIENT", "LIST"]).text().matches(" addr=127.0.0.1:").count()
    }

    /// Makes the server close its clients' connections.
    fn close_from_the_server(&self) {
        self.server.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    }
}

#[track_caller]
fn assert_answers(client: &mut Client) {
    assert_eq!(client.ask(&["PING"]).unwrap(), Reply::Status("PONG".to_owned()));
}

#[track_caller]
fn assert_silent(client: &mut Client) {
    assert_eq!(client.receive_within(SILENCE).unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[track_caller]
fn assert_receives(client: &mut Client, reply: &str) {
    assert_eq!(client.receive_within(DEADLINE).unwrap().to_string(), reply);
}

#[track_caller]
fn assert_ends(client: &mut Client, end: ErrorKind) {
    assert_eq!(client.receive_within(DEADLINE).unwrap_err().kind(), end);
}

/// Its directory below `/proc`.
fn thread_of_proxy(port: u16) -> Option<PathBuf> {
    let name = format!("proxy-{port}\n");
    fs::read_dir("/proc/self/task")
        .unwrap()
        .flatten()
        .map(|thread| thread.path())
        .find(|thread| fs::read_to_string(thread.join("comm")).is_ok_and(|comm| comm == name))
}

#[test]
fn a_proxy_passes_requests_and_replies() {
    let Fixture { server, proxy } = Fixture::new();
    let mut client = Client::connect(proxy.address()).unwrap();
    client.ask(&["SET", "key", "value"]).unwrap();
    assert_eq!(server.get("key").as_deref(), Some("value"));
    assert_eq!(client.ask(&["GET", "key"]).unwrap().text(), "value");
}

#[test]
fn a_proxy_has_the_servers_url_but_for_the_port() {
    let server = RedisServer::builder().password("secret").start();
    let proxy = Proxy::before(&server);
    assert_ne!(proxy.port(), server.port());
    assert_eq!(proxy.url(), format!("redis://:secret@127.0.0.1:{}", proxy.port()));
}

#[test]
fn a_proxy_passes_more_than_sockets_buffer() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    let value: String = ('a'..='z').cycle().take(16 << 20).collect();
    client.ask(&["SET", "key", &value]).unwrap();
    assert!(client.ask(&["GET", "key"]).unwrap().text() == value, "the value has changed on the way");
}

#[test]
fn a_proxy_passes_the_clients_end() {
    let fixture = Fixture::new();
    let client = fixture.client();
    assert_eq!(fixture.clients_of_the_server(), 1);
    drop(client);
    wait_until("the server knows that its client has gone", DEADLINE, || {
        fixture.clients_of_the_server() == 0
    });
}

#[test]
fn a_proxy_passes_the_servers_end() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    fixture.close_from_the_server();
    assert_ends(&mut client, ErrorKind::UnexpectedEof);
}

#[test]
fn a_half_close_leaves_the_other_way_open() {
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = Proxy::to(upstream.local_addr().unwrap());
    let mut client = TcpStream::connect(proxy.address()).unwrap();
    let (mut server, _) = upstream.accept().unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    server.set_read_timeout(Some(DEADLINE)).unwrap();

    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(server.read(&mut [0]).unwrap(), 0);
    server.write_all(b"later").unwrap();
    drop(server);
    let mut received = String::new();
    client.read_to_string(&mut received).unwrap();
    assert_eq!(received, "later");
}

#[test]
fn a_dead_server_resets_clients_of_its_proxy() {
    let fixture = Fixture::new();
    fixture.server.kill();
    let outcome =
        Client::connect(fixture.proxy.address()).and_then(|mut client| client.receive_within(DEADLINE));
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn a_proxy_outlives_a_restart_of_its_server() {
    let fixture = Fixture::new();
    fixture.server.restart();
    assert_answers(&mut fixture.client());
}

#[test]
fn a_delayed_request_reaches_the_server_so_much_later() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    fixture.proxy.delay(Duration::from_millis(300));
    let began = Instant::now();
    client.send(&["INCR", "key"]).unwrap();
    assert_silent(&mut client);
    assert_eq!(fixture.server.get("key"), None);
    assert_receives(&mut client, "(integer) 1");
    assert!(began.elapsed() >= Duration::from_millis(300), "it took {:?}", began.elapsed());
}

#[test]
fn a_delay_holds_for_new_connections_too() {
    let fixture = Fixture::new();
    fixture.proxy.delay(NEVER);
    let mut client = Client::connect(fixture.proxy.address()).unwrap();
    client.send(&["PING"]).unwrap();
    assert_silent(&mut client);
}

#[test]
fn a_delay_is_of_latency_and_not_of_throughput() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    fixture.proxy.delay(Duration::from_millis(200));
    let began = Instant::now();
    for number in 1..=20 {
        client.send(&["INCR", "key"]).unwrap();
        // Apart, so that they cannot travel as one.
        assert_eq!(fixture.proxy.connections(), 1, "at request {number}");
    }
    for number in 1..=20 {
        assert_receives(&mut client, &format!("(integer) {number}"));
    }
    assert!(began.elapsed() < Duration::from_secs(2), "one after the other they take 4 s");
}

#[test]
fn what_was_delayed_arrives_at_once_and_in_order_when_the_proxy_passes() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    fixture.proxy.delay(NEVER);
    client.send(&["INCR", "key"]).unwrap();
    client.send(&["INCR", "key"]).unwrap();
    assert_silent(&mut client);
    fixture.proxy.pass();
    client.send(&["GET", "key"]).unwrap();
    assert_receives(&mut client, "(integer) 1");
    assert_receives(&mut client, "(integer) 2");
    assert_receives(&mut client, r#""2""#);
}

#[test]
fn a_shorter_delay_holds_for_what_is_under_way() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    fixture.proxy.delay(NEVER);
    client.send(&["INCR", "key"]).unwrap();
    assert_silent(&mut client);
    fixture.proxy.delay(Duration::from_millis(200));
    assert_receives(&mut client, "(integer) 1");
}

#[test]
fn held_requests_arrive_when_the_proxy_passes() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    fixture.proxy.hold();
    client.send(&["SET", "key", "value"]).unwrap();
    assert_silent(&mut client);
    assert_eq!(fixture.server.get("key"), None);
    fixture.proxy.pass();
    assert_receives(&mut client, "OK");
}

#[test]
fn held_replies_arrive_when_the_proxy_passes() {
    let fixture = Fixture::new();
    let mut subscriber = fixture.subscriber();
    fixture.proxy.hold();
    fixture.publish();
    assert_silent(&mut subscriber);
    fixture.proxy.pass();
    assert_receives(&mut subscriber, r#"["message", "news", "hello"]"#);
}

#[test]
fn new_connections_are_held_too() {
    let fixture = Fixture::new();
    fixture.proxy.hold();
    let mut client = Client::connect(fixture.proxy.address()).unwrap();
    client.send(&["PING"]).unwrap();
    assert_silent(&mut client);
    fixture.proxy.pass();
    assert_receives(&mut client, "PONG");
}

#[test]
fn a_held_end_comes_when_the_proxy_passes() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    fixture.proxy.hold();
    fixture.server.kill();
    assert_silent(&mut client);
    fixture.proxy.pass();
    assert!(client.receive_within(DEADLINE).is_err_and(|error| error.kind() != ErrorKind::WouldBlock));
}

#[test]
fn requests_arrive_while_replies_are_dropped() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    fixture.proxy.drop_replies();
    client.send(&["SET", "key", "value"]).unwrap();
    assert_silent(&mut client);
    assert_eq!(fixture.server.get("key").as_deref(), Some("value"));
}

#[test]
fn replies_arrive_while_requests_are_dropped() {
    let fixture = Fixture::new();
    let (mut client, mut subscriber) = (fixture.client(), fixture.subscriber());
    fixture.proxy.drop_requests();
    client.send(&["SET", "key", "value"]).unwrap();
    assert_silent(&mut client);
    assert_eq!(fixture.server.get("key"), None);
    fixture.publish();
    assert_receives(&mut subscriber, r#"["message", "news", "hello"]"#);
}

#[test]
fn one_way_drops_hold_for_new_connections_too() {
    let fixture = Fixture::new();
    for drop_one_way in [Proxy::drop_requests, Proxy::drop_replies] {
        drop_one_way(&fixture.proxy);
        let mut client = Client::connect(fixture.proxy.address()).unwrap();
        client.send(&["PING"]).unwrap();
        assert_silent(&mut client);
    }
}

#[test]
fn what_was_dropped_stays_dropped() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    fixture.proxy.drop_requests();
    client.send(&["INCR", "key"]).unwrap();
    fixture.proxy.drop_replies();
    client.send(&["INCRBY", "key", "10"]).unwrap();
    assert_silent(&mut client);
    assert_eq!(fixture.server.get("key").as_deref(), Some("10"));
    fixture.proxy.pass();
    assert_eq!(client.ask(&["INCRBY", "key", "100"]).unwrap().int(), 110);
}

#[test]
fn what_is_held_can_still_be_dropped() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    fixture.proxy.hold();
    client.send(&["INCR", "key"]).unwrap();
    fixture.proxy.drop_requests();
    fixture.proxy.pass();
    assert_answers(&mut client);
    assert_eq!(fixture.server.get("key"), None);
}

#[test]
fn a_half_open_connection_swallows_bytes_both_ways_while_new_ones_pass() {
    let fixture = Fixture::new();
    let (mut client, mut subscriber) = (fixture.client(), fixture.subscriber());
    fixture.proxy.half_open();
    client.send(&["SET", "key", "value"]).unwrap();
    fixture.publish();
    assert_silent(&mut client);
    assert_silent(&mut subscriber);
    assert_eq!(fixture.server.get("key"), None);
    assert_answers(&mut fixture.client());
}

#[test]
fn a_half_open_connection_does_not_show_its_servers_end() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    fixture.proxy.half_open();
    fixture.close_from_the_server();
    assert_silent(&mut client);
}

#[test]
fn a_connection_made_just_before_is_half_open_too() {
    let fixture = Fixture::new();
    let mut client = Client::connect(fixture.proxy.address()).unwrap();
    fixture.proxy.half_open();
    client.send(&["PING"]).unwrap();
    assert_silent(&mut client);
}

#[test]
fn a_black_hole_swallows_existing_and_new_connections_bytes() {
    let fixture = Fixture::new();
    let mut existing = fixture.client();
    fixture.proxy.black_hole();
    let mut new = Client::connect(fixture.proxy.address()).unwrap();
    for client in [&mut existing, &mut new] {
        client.send(&["SET", "key", "value"]).unwrap();
        assert_silent(client);
    }
    assert_eq!(fixture.server.get("key"), None);
}

#[test]
fn connections_in_a_black_hole_carry_new_requests_after_it() {
    let fixture = Fixture::new();
    let mut existing = fixture.client();
    fixture.proxy.black_hole();
    let mut new = Client::connect(fixture.proxy.address()).unwrap();
    fixture.proxy.pass();
    assert_answers(&mut existing);
    assert_answers(&mut new);
}

#[test]
fn a_reset_reaches_every_client_and_the_server() {
    let fixture = Fixture::new();
    let (mut first, mut second) = (fixture.client(), fixture.client());
    fixture.proxy.reset();
    assert_ends(&mut first, ErrorKind::ConnectionReset);
    assert_ends(&mut second, ErrorKind::ConnectionReset);
    wait_until("the server knows of both", DEADLINE, || fixture.clients_of_the_server() == 0);
}

#[test]
fn a_reset_leaves_new_connections_alone() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    fixture.proxy.reset();
    assert_ends(&mut client, ErrorKind::ConnectionReset);
    assert_answers(&mut fixture.client());
}

#[test]
fn each_new_connection_is_reset_while_existing_ones_pass() {
    let fixture = Fixture::new();
    let mut existing = fixture.client();
    fixture.proxy.reset_each_new();
    for _ in 0..3 {
        // The reset may even come before the connect has returned.
        let outcome =
            Client::connect(fixture.proxy.address()).and_then(|mut client| client.receive_within(DEADLINE));
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
    assert_answers(&mut existing);
}

#[test]
fn a_request_can_cost_the_connection_before_the_server_gets_it() {
    let fixture = Fixture::new();
    let mut existing = fixture.client();
    fixture.proxy.reset_on_request();
    let mut new = Client::connect(fixture.proxy.address()).unwrap();
    for client in [&mut existing, &mut new] {
        assert_silent(client);
        client.send(&["SET", "key", "value"]).unwrap();
        assert_ends(client, ErrorKind::ConnectionReset);
    }
    assert_eq!(fixture.server.get("key"), None);
}

#[test]
fn a_slow_close_passes_the_servers_end_only_later() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    fixture.proxy.slow_close(Duration::from_millis(300));
    assert_answers(&mut client);
    fixture.close_from_the_server();
    let began = Instant::now();
    client.send(&["PING"]).unwrap();
    assert_silent(&mut client);
    assert_ends(&mut client, ErrorKind::UnexpectedEof);
    assert!(began.elapsed() >= Duration::from_millis(200), "it took {:?}", began.elapsed());
    client.send(&["PING"]).expect("only the server's half is closed");
}

#[test]
fn a_slow_close_holds_for_new_connections_too() {
    let fixture = Fixture::new();
    fixture.proxy.slow_close(NEVER);
    let mut client = fixture.client();
    fixture.close_from_the_server();
    assert_silent(&mut client);
}

#[test]
fn a_refusal_closes_connections_and_refuses_new_ones() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    fixture.proxy.refuse();
    assert_ends(&mut client, ErrorKind::UnexpectedEof);
    let refusal = Client::connect(fixture.proxy.address()).unwrap_err();
    assert_eq!(refusal.kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn any_other_behaviour_ends_a_refusal_on_the_same_port() {
    let fixture = Fixture::new();
    let address = fixture.proxy.address();
    for accept_again in [Proxy::pass, Proxy::half_open, Proxy::reset_on_request] {
        fixture.proxy.refuse();
        assert_eq!(Client::connect(&address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        accept_again(&fixture.proxy);
        Client::connect(&address).unwrap();
    }
}

#[test]
fn connections_are_counted_in_all_and_now() {
    let fixture = Fixture::new();
    let (first, second) = (fixture.client(), fixture.client());
    assert_eq!((fixture.proxy.connections(), fixture.proxy.open_connections()), (2, 2));
    drop(first);
    wait_until("the first is gone", DEADLINE, || fixture.proxy.open_connections() == 1);
    drop(second);
    wait_until("both are gone", DEADLINE, || fixture.proxy.open_connections() == 0);
    assert_eq!(fixture.proxy.connections(), 2);
}

#[test]
fn a_connection_that_was_reset_at_once_counts_as_accepted() {
    let fixture = Fixture::new();
    fixture.proxy.reset_each_new();
    let _ = Client::connect(fixture.proxy.address());
    assert_eq!((fixture.proxy.connections(), fixture.proxy.open_connections()), (1, 0));
}

#[test]
fn a_dead_connection_that_its_client_gave_up_is_not_open() {
    let fixture = Fixture::new();
    let client = fixture.client();
    fixture.proxy.half_open();
    assert_eq!(fixture.proxy.open_connections(), 1);
    drop(client);
    wait_until("the client has gone", DEADLINE, || fixture.proxy.open_connections() == 0);
}

#[test]
fn nothing_is_left_of_a_dropped_proxy() {
    let server = RedisServer::start();
    let proxy = Proxy::before(&server);
    let port = proxy.port();
    let address = proxy.address();
    let mut client = Client::connect(&address).unwrap();
    assert_answers(&mut client);
    proxy.hold();
    client.send(&["PING"]).unwrap();
    assert!(thread_of_proxy(port).is_some());

    let began = Instant::now();
    drop(proxy);

    assert!(began.elapsed() < Duration::from_secs(1), "it took {:?}", began.elapsed());
    assert_eq!(thread_of_proxy(port), None);
    assert_ends(&mut client, ErrorKind::UnexpectedEof);
    assert_eq!(Client::connect(&address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn an_idle_proxy_sleeps() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    fixture.proxy.delay(NEVER);
    client.send(&["PING"]).unwrap();
    assert_silent(&mut client);
    let thread = thread_of_proxy(fixture.proxy.port()).unwrap();
    let turns = || {
        let status = fs::read_to_string(thread.join("status")).unwrap();
        let switches = |kind: &str| -> u64 {
            status.lines().find_map(|line| line.strip_prefix(kind)?.trim().parse().ok()).unwrap()
        };
        switches("voluntary_ctxt_switches:") + switches("nonvoluntary_ctxt_switches:")
    };
    let before = turns();
    assert_silent(&mut client);
    assert!(turns() - before <= 2, "it was woken {} times", turns() - before);
}
