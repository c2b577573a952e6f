//! Where a server is reached, as URLs and as parts.

use crate::RedisServer;
use crate::builder::ClientCertificates;
use crate::configuration::TlsEndpoint;

/// Addresses. They stay the same across restarts, and nobody else gets them while the server is down.
impl RedisServer {
    /// `redis://127.0.0.1:PORT`, with `:PASSWORD@` when there is one.
    ///
    /// # Panics
    ///
    /// When the server has a unix socket only.
    #[track_caller]
    pub fn url(&self) -> String {
        format!("redis://{}{}", self.userinfo(), self.address())
    }

    /// `rediss://localhost:PORT?ca=FILE`, with `:PASSWORD@` when there is one, and for a server that wants
    /// clients' certificates with `&cert=FILE&key=FILE`. All files are PEM.
    ///
    /// # Panics
    ///
    /// When the server does not speak TLS.
    #[track_caller]
    pub fn tls_url(&self) -> String {
        let TlsEndpoint { port, certificates, client_certificates } = self.tls_endpoint();
        let mut url = format!(
            "rediss://{}localhost:{}?ca={}",
            self.userinfo(),
            port.number(),
            certificates.authority.display()
        );
        if *client_certificates == ClientCertificates::Required {
            let (certificate, key) = (certificates.client.display(), certificates.client_key.display());
            url.push_str(&format!("&cert={certificate}&key={key}"));
        }
        url
    }

    /// `redis+unix:///PATH`, with `?password=PASSWORD` when there is one.
    pub fn unix_url(&self) -> String {
        let query =
            self.password.as_deref().map(|password| format!("?password={}", percent_encoded(password)));
        format!("redis+unix://{}{}", self.socket().display(), query.unwrap_or_default())
    }

    /// `127.0.0.1:PORT`, without TLS.
    ///
    /// # Panics
    ///
    /// When the server has a unix socket only.
    #[track_caller]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port())
    }

    /// The port without TLS.
    ///
    /// # Panics
    ///
    /// When the server has a unix socket only.
    #[track_caller]
    pub fn port(&self) -> u16 {
        match &self.tcp {
            Some(port) => port.number(),
            None => panic!("this server has a unix socket only"),
        }
    }

    /// The port with TLS.
    ///
    /// # Panics
    ///
    /// When the server does not speak TLS.
    #[track_caller]
    pub fn tls_port(&self) -> u16 {
        self.tls_endpoint().port.number()
    }

    #[track_caller]
    fn tls_endpoint(&self) -> &TlsEndpoint {
        match &self.tls {
            Some(endpoint) => endpoint,
            None => panic!("this server does not speak TLS: start it with `.tls()` or `.tls_mutual()`"),
        }
    }

    /// `:PASSWORD@`, or nothing.
    pub(crate) fn userinfo(&self) -> String {
        self.password
            .as_deref()
            .map(|password| format!(":{}@", percent_encoded(password)))
            .unwrap_or_default()
    }
}

/// All but the characters that RFC 3986 calls unreserved are encoded.
fn percent_encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}
