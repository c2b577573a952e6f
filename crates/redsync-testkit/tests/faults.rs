//! Faults happen when they are asked for, and end when they are told to.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use redsync_testkit::{RedisServer, wait_until};

const DEADLINE: Duration = Duration::from_secs(10);

#[test]
fn a_paused_server_is_silent_until_it_is_resumed() {
    let server = RedisServer::start();
    server.pause();
    let silence = server.try_command(&["PING"]).unwrap_err();
    assert_eq!(silence.kind(), ErrorKind::WouldBlock, "a timeout of the read: {silence}");
    assert!(server.is_running());
    server.resume();
    wait_until("the server answers again", DEADLINE, || server.try_command(&["PING"]).is_ok());
}

#[test]
fn a_killed_server_refuses_connections_and_comes_back_empty_on_the_same_port() {
    let server = RedisServer::start();
    server.set("key", "value", None);
    let (address, pid) = (server.address(), server.pid());
    server.kill();
    assert!(!server.is_running());
    assert_eq!(TcpStream::connect(&address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    server.restart();
    assert_ne!(server.pid(), pid);
    assert!(TcpStream::connect(&address).is_ok());
    assert_eq!(server.get("key"), None);
}

#[test]
fn a_paused_server_can_be_killed() {
    let server = RedisServer::start();
    server.pause();
    server.kill();
    assert!(!server.is_running());
}

#[test]
fn a_paused_server_can_be_stopped() {
    let server = RedisServer::start();
    server.pause();
    server.stop();
    assert!(!server.is_running());
}

#[test]
fn a_persistent_server_keeps_its_data_across_a_kill() {
    let server = RedisServer::builder().persistent().start();
    server.set("key", "value", None);
    server.kill();
    server.restart();
    assert_eq!(server.get("key").as_deref(), Some("value"));
}

#[test]
fn a_running_server_can_be_restarted() {
    let server = RedisServer::builder().persistent().password("secret").start();
    server.set("key", "value", None);
    server.restart();
    assert_eq!(server.get("key").as_deref(), Some("value"));
}

#[test]
fn a_server_that_ended_by_itself_is_down() {
    let server = RedisServer::start();
    let _ = server.try_command(&["SHUTDOWN", "NOSAVE"]);
    wait_until("the server is down", DEADLINE, || !server.is_running());
    server.kill();
    server.restart();
    assert!(server.is_running());
}

#[test]
fn the_port_of_a_dead_server_stays_reserved() {
    use rustix::net::{AddressFamily, SocketType, bind, socket};
    let server = RedisServer::start();
    let address: SocketAddr = server.address().parse().unwrap();
    server.kill();
    // Without SO_REUSEADDR, as the kernel looks for a port of its own choice.
    let stranger = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    assert_eq!(bind(&stranger, &address), Err(rustix::io::Errno::ADDRINUSE));
    drop(stranger);
    server.restart();
}
