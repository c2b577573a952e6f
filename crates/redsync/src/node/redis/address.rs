//! Redis URLs: where a server is, and how to be let in.

use std::time::Duration;

use percent_encoding::percent_decode_str;
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{ConnectionAddr, IntoConnectionInfo, ProtocolVersion, RedisConnectionInfo};
use url::Url;

use crate::node::InvalidUrl;

/// A server's address: what the redis crate needs to connect, and a label that shows no secret.
pub(crate) struct Address {
    pub(crate) client: redis::Client,
    pub(crate) label: String,
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
        let settings = self.login(self.database_in_path()?)?;
        self.refuse_other_parameters()?;
        let client = self.client(ConnectionAddr::Tcp(host, port), settings)?;
        Ok(Address { client, label: self.label() })
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
        let mut settings = self.login(database)?;
        if let Some(user) = self.take("user") {
            settings = settings.set_username(user);
        }
        if let Some(password) = self.take("password") {
            settings = settings.set_password(password);
        }
        self.refuse_other_parameters()?;
        let label = format!("redis+unix://{path}{}", database_suffix(database));
        let client = self.client(ConnectionAddr::Unix(path.into()), settings)?;
        Ok(Address { client, label })
    }

    #[cfg(not(feature = "tls"))]
    fn tls(&mut self) -> Result<Address, InvalidUrl> {
        Err(self.refuse("this build has no TLS; turn on the feature `tls`"))
    }

    #[cfg(feature = "tls")]
    fn tls(&mut self) -> Result<Address, InvalidUrl> {
        let (host, port) = self.host_and_port()?;
        let settings = self.login(self.database_in_path()?)?;
        let root_cert = self.take("ca").map(|path| self.certificates(&path)).transpose()?;
        let client_tls = match (self.take("cert"), self.take("key")) {
            (None, None) => None,
            (Some(cert), Some(key)) => Some(redis::ClientTlsConfig {
                client_cert: self.certificates(&cert)?,
                client_key: self.file(&key)?,
            }),
            _ => return Err(self.refuse("a client certificate needs both, cert=FILE and key=FILE")),
        };
        self.refuse_other_parameters()?;

        // rustls wants one provider of cryptography per process, and does not choose where features offer two.
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let addr = ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None };
        let info = addr.into_connection_info().map_err(|error| self.refuse(error.to_string()))?;
        let info = info.set_redis_settings(settings).set_tcp_settings(tcp_settings());
        let certificates = redis::TlsCertificates { client_tls, root_cert };
        let client = redis::Client::build_with_tls(info, certificates)
            .map_err(|error| self.refuse(error.to_string()))?;
        Ok(Address { client, label: self.label() })
    }

    #[cfg(feature = "tls")]
    fn certificates(&self, path: &str) -> Result<Vec<u8>, InvalidUrl> {
        use rustls::pki_types::{CertificateDer, pem::PemObject};

        let pem = self.file(path)?;
        match CertificateDer::pem_slice_iter(&pem).next() {
            Some(Ok(_)) => Ok(pem),
            _ => Err(self.refuse(format!("{path} holds no certificate in PEM form"))),
        }
    }

    #[cfg(feature = "tls")]
    fn file(&self, path: &str) -> Result<Vec<u8>, InvalidUrl> {
        std::fs::read(path).map_err(|error| self.refuse(format!("cannot read {path}: {error}")))
    }

    fn client(
        &self,
        addr: ConnectionAddr,
        settings: RedisConnectionInfo,
    ) -> Result<redis::Client, InvalidUrl> {
        let info = addr.into_connection_info().map_err(|error| self.refuse(error.to_string()))?;
        let info = info.set_redis_settings(settings).set_tcp_settings(tcp_settings());
        redis::Client::open(info).map_err(|error| self.refuse(error.to_string()))
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
        let mut settings = RedisConnectionInfo::default()
            .set_protocol(ProtocolVersion::RESP3)
            .set_db(database)
            .set_skip_set_lib_name();
        if !self.url.username().is_empty() {
            settings = settings.set_username(self.decoded(self.url.username())?);
        }
        if let Some(password) = self.url.password() {
            settings = settings.set_password(self.decoded(password)?);
        }
        Ok(settings)
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

/// Small packets go out at once; a peer that vanished is noticed by the kernel within seconds even when nobody asks.
fn tcp_settings() -> TcpSettings {
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(5))
        .with_interval(Duration::from_secs(2))
        .with_retries(3);
    let settings = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive);
    #[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
    let settings = settings.set_user_timeout(Duration::from_secs(5));
    settings
}

const DEFAULT_PORT: u16 = 6379;
