//! Redis URLs: where a server is, and how to be let in.

use std::path::PathBuf;
#[cfg(feature = "tls")]
use std::sync::Arc;

use percent_encoding::percent_decode_str;
use redis::{ProtocolVersion, RedisConnectionInfo};
use url::Url;

use super::account::Account;
#[cfg(feature = "tls")]
use super::tls;
use crate::node::InvalidUrl;

/// A server's address: where it is, what it is told first, and a label that shows no secret.
pub(crate) struct Address {
    pub(super) place: Place,
    pub(super) login: RedisConnectionInfo,
    pub(super) account: Account,
    pub(crate) label: String,
}

/// Where a server is.
pub(super) enum Place {
    Tcp {
        host: String,
        port: u16,
    },
    #[cfg(feature = "tls")]
    Tls {
        host: String,
        port: u16,
        /// The host, as its certificate must have it.
        name: rustls::pki_types::ServerName<'static>,
        config: Arc<rustls::ClientConfig>,
    },
    Unix(PathBuf),
}

impl Place {
    pub(super) const fn has_tls(&self) -> bool {
        match self {
            #[cfg(feature = "tls")]
            Self::Tls { .. } => true,
            _ => false,
        }
    }
}

/// Reads a URL as [`RedisNode::open`](super::RedisNode::open) describes it.
pub(crate) fn parse(text: &str) -> Result<Address, InvalidUrl> {
    Reading::of(text)?.address()
}

struct Reading<'a> {
    text: &'a str,
    url: Url,
    parameters: Vec<(String, String)>,
}

impl<'a> Reading<'a> {
    fn of(text: &'a str) -> Result<Self, InvalidUrl> {
        if text.contains('#') {
            // What follows would be dropped; and what comes before it may be the beginning of a password, and no host.
            return Err(InvalidUrl::new(text, "it holds a #; write %23 for one in a user, password or path"));
        }
        let url = Url::parse(text).map_err(|error| {
            let reason = match error {
                url::ParseError::EmptyHost => "it names no host".to_owned(),
                url::ParseError::InvalidPort => "its port is not a number from 0 to 65535 (percent-encode a \
                     password that holds : / # ? or @)"
                    .to_owned(),
                other => other.to_string(),
            };
            InvalidUrl::new(text, reason)
        })?;
        let parameters =
            url.query_pairs().map(|(key, value)| (key.into_owned(), value.into_owned())).collect();
        Ok(Self { text, url, parameters })
    }

    fn address(mut self) -> Result<Address, InvalidUrl> {
        match self.url.scheme() {
            "redis+unix" | "valkey+unix" => self.unix_socket(),
            "rediss" | "valkeys" => self.tls(),
            _ => self.tcp(),
        }
    }

    fn tcp(&mut self) -> Result<Address, InvalidUrl> {
        let (host, port) = self.host_and_port()?;
        let login = self.login(self.database_in_path()?)?;
        self.refuse_other_parameters()?;
        let account = self.account(&login);
        Ok(Address { place: Place::Tcp { host, port }, login, account, label: self.label() })
    }

    fn unix_socket(&mut self) -> Result<Address, InvalidUrl> {
        let path = self.decoded(self.url.path())?;
        if self.url.has_host() && self.url.host_str().is_some_and(|host| !host.is_empty()) || path.len() < 2 {
            return Err(self.refuse("write redis+unix:// and an absolute path: redis+unix:///run/redis.sock"));
        }
        let database = match self.take("db") {
            None => 0,
            Some(text) => self.database(&text)?,
        };
        let mut login = self.login(database)?;
        if let Some(user) = self.take("user") {
            login = login.set_username(user);
        }
        if let Some(password) = self.take("password") {
            login = login.set_password(password);
        }
        self.refuse_other_parameters()?;
        let label = format!("redis+unix://{path}{}", database_suffix(database));
        let account = self.account(&login);
        Ok(Address { place: Place::Unix(path.into()), login, account, label })
    }

    #[cfg(not(feature = "tls"))]
    fn tls(&mut self) -> Result<Address, InvalidUrl> {
        Err(self.refuse("this build has no TLS; turn on the feature `tls`"))
    }

    #[cfg(feature = "tls")]
    fn tls(&mut self) -> Result<Address, InvalidUrl> {
        let (host, port) = self.host_and_port()?;
        let login = self.login(self.database_in_path()?)?;
        let authorities = self.take("ca").map(|path| self.file(path)).transpose()?;
        let client = match (self.take("cert"), self.take("key")) {
            (None, None) => None,
            (Some(cert), Some(key)) => Some((self.file(cert)?, self.file(key)?)),
            _ => return Err(self.refuse("a client certificate needs both, cert=FILE and key=FILE")),
        };
        self.refuse_other_parameters()?;

        let config =
            tls::config(&tls::Files { authorities, client }).map_err(|reason| self.refuse(reason))?;
        let name = rustls::pki_types::ServerName::try_from(host.clone())
            .map_err(|_| self.refuse("its host is no name that a certificate can have"))?;
        let place = Place::Tls { host, port, name, config: Arc::new(config) };
        let account = self.account(&login);
        Ok(Address { place, login, account, label: self.label() })
    }

    #[cfg(feature = "tls")]
    fn file(&self, path: String) -> Result<tls::Pem, InvalidUrl> {
        let read = std::fs::read(&path);
        let text = read.map_err(|error| self.refuse(format!("cannot read {path}: {error}")))?;
        Ok(tls::Pem { path, text })
    }

    fn account(&self, login: &RedisConnectionInfo) -> Account {
        Account::new(login.username(), login.password(), self.url.password())
    }

    fn host_and_port(&self) -> Result<(String, u16), InvalidUrl> {
        match self.url.host_str() {
            None | Some("") => Err(self.refuse("it names no host")),
            // The url crate keeps the brackets of an IPv6 address; the resolver does not want them.
            Some(host) => {
                let host = self.decoded(host.trim_start_matches('[').trim_end_matches(']'))?;
                Ok((host, self.url.port().unwrap_or(DEFAULT_PORT)))
            }
        }
    }

    fn login(&self, database: i64) -> Result<RedisConnectionInfo, InvalidUrl> {
        let mut login = RedisConnectionInfo::default()
            .set_protocol(ProtocolVersion::RESP3)
            .set_db(database)
            .set_skip_set_lib_name();
        if !self.url.username().is_empty() {
            login = login.set_username(self.decoded(self.url.username())?);
        }
        if let Some(password) = self.url.password() {
            login = login.set_password(self.decoded(password)?);
        }
        Ok(login)
    }

    fn database_in_path(&self) -> Result<i64, InvalidUrl> {
        match self.url.path().trim_start_matches('/') {
            "" => Ok(0),
            text => self.database(text),
        }
    }

    fn database(&self, text: &str) -> Result<i64, InvalidUrl> {
        match text.parse::<u32>() {
            Ok(database) => Ok(i64::from(database)),
            // Not quoted: it may be the rest of a password that holds a slash.
            Err(_) => {
                Err(self.refuse("what follows the host is not a database number (percent-encode a password)"))
            }
        }
    }

    fn label(&self) -> String {
        let port = self.url.port().map(|port| format!(":{port}")).unwrap_or_default();
        let path = self.url.path().trim_end_matches('/');
        format!("{}://{}{port}{path}", self.url.scheme(), self.url.host_str().unwrap_or_default())
    }

    fn take(&mut self, parameter: &str) -> Option<String> {
        let at = self.parameters.iter().position(|(key, _)| key == parameter)?;
        Some(self.parameters.swap_remove(at).1)
    }

    fn refuse_other_parameters(&self) -> Result<(), InvalidUrl> {
        // Not quoted: it may be the rest of a password that holds a question mark.
        match (self.parameters.is_empty(), self.url.scheme()) {
            (true, _) => Ok(()),
            (false, scheme @ ("rediss" | "valkeys")) => Err(self.refuse(format!(
                "{scheme}:// takes the parameters ca, cert and key, each once, and no others"
            ))),
            (false, scheme @ ("redis+unix" | "valkey+unix")) => Err(self.refuse(format!(
                "{scheme}:// takes the parameters db, user and password, each once, and no others"
            ))),
            (false, scheme) => Err(self.refuse(format!("{scheme}:// takes no parameters"))),
        }
    }

    fn decoded(&self, text: &str) -> Result<String, InvalidUrl> {
        let decoded = percent_decode_str(text).decode_utf8();
        decoded.map(Into::into).map_err(|_| self.refuse("a percent-encoded part of it is not UTF-8"))
    }

    fn refuse(&self, reason: impl Into<String>) -> InvalidUrl {
        InvalidUrl::new(self.text, reason)
    }
}

fn database_suffix(database: i64) -> String {
    if database == 0 { String::new() } else { format!("?db={database}") }
}

const DEFAULT_PORT: u16 = 6379;
