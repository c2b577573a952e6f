//! What kind of server a test wants.

use std::env;
use std::path::PathBuf;

use crate::RedisServer;
use crate::control::Credentials;

/// The environment variable that names another server binary than `redis-server`, such as `valkey-server`.
pub const SERVER_BINARY_VARIABLE: &str = "REDSYNC_TEST_REDIS_SERVER";

/// Describes a server, and starts as many of that kind as are wanted.
///
/// ```
/// use redsync_testkit::RedisServer;
///
/// let server = RedisServer::builder().password("open sesame").config("maxmemory", "4mb").start();
/// assert!(server.url().starts_with("redis://:open%20sesame@127.0.0.1:"));
/// ```
#[derive(Debug, Clone, Default)]
#[must_use = "a builder does nothing until it is started"]
pub struct ServerBuilder {
    pub(crate) binary: Option<PathBuf>,
    pub(crate) password: Option<String>,
    pub(crate) users: Vec<User>,
    pub(crate) tls: Option<ClientCertificates>,
    pub(crate) persistent: bool,
    pub(crate) unix_socket_only: bool,
    pub(crate) primary: Option<Primary>,
    pub(crate) clock: Option<u64>,
    pub(crate) directives: Vec<(String, String)>,
}

impl ServerBuilder {
    /// The password of the default user.
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.password = Some(password.into());
        self
    }

    /// One more user, with rules as in `ACL SETUSER`: `"~lock:* +@all"`.
    ///
    /// The user is `on` unless the rules say otherwise. A server with users also has the user `redsync-testkit`,
    /// who may do everything: with that one the kit gets in even when a test takes the default user's rights.
    pub fn user(
        mut self,
        name: impl Into<String>,
        password: impl Into<String>,
        acl_rules: impl Into<String>,
    ) -> Self {
        self.users.push(User { name: name.into(), password: password.into(), acl_rules: acl_rules.into() });
        self
    }

    /// Also listens with TLS, on a port of its own and with a certificate of its own CA; clients need none.
    pub fn tls(mut self) -> Self {
        self.tls = Some(ClientCertificates::NotAsked);
        self
    }

    /// Like [`tls`](Self::tls), and clients have to show a certificate.
    pub fn tls_mutual(mut self) -> Self {
        self.tls = Some(ClientCertificates::Required);
        self
    }

    /// Writes every command to disk before it is answered, so that data survive kill and restart.
    pub fn persistent(mut self) -> Self {
        self.persistent = true;
        self
    }

    /// Listens on no TCP port at all.
    pub fn unix_socket_only(mut self) -> Self {
        self.unix_socket_only = true;
        self
    }

    /// A read-only replica of `primary`. The start waits until the two are in step.
    ///
    /// # Panics
    ///
    /// When the primary has no TCP port.
    pub fn replica_of(mut self, primary: &RedisServer) -> Self {
        self.primary = Some(Primary { port: primary.port(), credentials: primary.credentials().cloned() });
        self
    }

    /// Reads a clock that stands still at `micros`, microseconds since 1970, until it is
    /// [set](RedisServer::set_clock). Needs libfaketime, Debian's package `faketime`.
    pub fn driven_clock(mut self, micros: u64) -> Self {
        self.clock = Some(micros);
        self
    }

    /// Any directive, with its value as it stands in `redis.conf`. It comes after the kit's own and wins.
    pub fn config(mut self, directive: impl Into<String>, value: impl Into<String>) -> Self {
        self.directives.push((directive.into(), value.into()));
        self
    }

    /// The server to run, instead of the one that [`SERVER_BINARY_VARIABLE`] or the default names.
    pub fn binary(mut self, binary: impl Into<PathBuf>) -> Self {
        self.binary = Some(binary.into());
        self
    }

    /// Starts a server and returns when it answers.
    ///
    /// # Panics
    ///
    /// When there is no server binary, or no libfaketime where one is needed, or when the server ends or stays silent:
    /// then with the tail of its log.
    pub fn start(&self) -> RedisServer {
        RedisServer::launch(self).or_elsewhere(self)
    }

    pub(crate) fn binary_or_default(&self) -> PathBuf {
        self.binary
            .clone()
            .or_else(|| {
                env::var_os(SERVER_BINARY_VARIABLE).filter(|name| !name.is_empty()).map(PathBuf::from)
            })
            .unwrap_or_else(|| PathBuf::from("redis-server"))
    }

    /// What the kit itself gets in with.
    pub(crate) fn credentials(&self) -> Option<Credentials> {
        if self.users.is_empty() {
            self.password.clone().map(|password| Credentials { user: None, password })
        } else {
            Some(Credentials { user: Some(KIT_USER.to_owned()), password: KIT_USER.to_owned() })
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) password: String,
    pub(crate) acl_rules: String,
}

/// Whether a TLS server wants to know who its clients are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClientCertificates {
    NotAsked,
    Required,
}

/// Where a replica gets its data from.
#[derive(Debug, Clone)]
pub(crate) struct Primary {
    pub(crate) port: u16,
    pub(crate) credentials: Option<Credentials>,
}

/// Not a secret: the socket it is used on is open to the test's own user only.
const KIT_USER: &str = "redsync-testkit";
