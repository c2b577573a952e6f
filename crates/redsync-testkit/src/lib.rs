//! Real `redis-server` processes for redsync's tests, and a real PostgreSQL.
//!
//! A [`RedisServer`] is one server process of the test's own: on 127.0.0.1, on a port nobody else gets, with all
//! its files in a temporary directory. It can be paused, killed and restarted, and asked over a control channel
//! that works without TCP. When it is dropped, also by a panic, the process and its files are gone; when the test
//! process is killed outright, a watchdog sees to the same.
//!
//! ```
//! use redsync_testkit::RedisServer;
//!
//! let server = RedisServer::start();
//! server.command(&["SET", "greeting", "hello"]);
//! assert_eq!(server.get("greeting").as_deref(), Some("hello"));
//! ```
//!
//! A [`PostgresServer`] is the same of PostgreSQL, for tests of resources that a lock guards: on a unix socket only, and
//! asked by `psql`.
//!
//! A [`Proxy`] before a server does to connections what networks do to them: it delays, swallows, resets, refuses.
//!
//! The kit is synchronous and has no Redis crate below it, so that it cannot share a bug with the code it tests.
//! It panics with a message where a library would return an error. Linux only.
//!
//! | file | idea |
//! |---|---|
//! | `builder` | what kind of server: password, users, TLS, persistence, replica |
//! | `configuration` | the same as a `redis.conf` |
//! | `server` | the server's life: start, faults, restart |
//! | `address` | its URLs |
//! | `control` | commands to the server, and conveniences over them |
//! | `resp` | the RESP2 wire format and [`Reply`] |
//! | `process`, `directory`, `port` | what a server owns: each is given back on drop |
//! | `watchdog` | the second net, for a test process that is killed |
//! | `proxy` | a misbehaving network before a server: [`Proxy`] |
//! | `failover` | a primary and its replica behind one address: [`Pair`] |
//! | `liar` | a server that answers what a test wants it to: [`Liar`] |
//! | `postgres` | [`PostgresServer`], and a session with it |
//! | `clock` | a server's clock that the test drives |
//! | `client` | a client's connection, turn by turn |
//! | `certificates` | a CA, a server and a client certificate |
//! | `fuzz` | [`fuzz()`]: mutations of a small corpus, for parsers |
//! | `wait` | [`wait_until`] |

mod address;
mod builder;
mod certificates;
mod client;
mod clock;
mod configuration;
mod control;
mod directory;
mod failover;
mod fuzz;
mod liar;
mod place;
mod port;
mod postgres;
mod process;
mod proxy;
mod resp;
mod server;
mod wait;
mod watchdog;

pub use builder::{SERVER_BINARY_VARIABLE, ServerBuilder};
pub use client::Client;
pub use failover::Pair;
pub use fuzz::{INPUTS_VARIABLE, SEED_VARIABLE, fuzz};
pub use liar::{Liar, Lie, Stage};
pub use postgres::{PostgresServer, PsqlSession};
pub use proxy::Proxy;
pub use resp::Reply;
pub use server::{RedisServer, servers};
pub use wait::wait_until;
