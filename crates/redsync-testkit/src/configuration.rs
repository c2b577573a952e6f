//! The `redis.conf` of a server. A file rather than arguments, so that passwords are not in the list of processes.

use std::fmt::Display;
use std::path::Path;

use crate::builder::{ClientCertificates, ServerBuilder};
use crate::certificates::Certificates;
use crate::directory::ServerDirectory;
use crate::port::ReservedPort;

/// Where and how a server speaks TLS.
#[derive(Debug)]
pub(crate) struct TlsEndpoint {
    pub(crate) port: ReservedPort,
    pub(crate) certificates: Certificates,
    pub(crate) client_certificates: ClientCertificates,
}

/// The text of the file. A port of 0 means that the server does not listen on TCP.
pub(crate) fn configuration(
    builder: &ServerBuilder,
    directory: &ServerDirectory,
    port: u16,
    tls: Option<&TlsEndpoint>,
) -> String {
    let mut file = Directives::default();

    file.add("bind", "127.0.0.1");
    file.add("port", port);
    file.add("unixsocket", quoted_path(&directory.socket()));
    file.add("unixsocketperm", "700");
    file.add("dir", quoted_path(directory.path()));
    file.add("logfile", quoted_path(&directory.log()));
    file.add("loglevel", "warning");
    file.add("daemonize", "no");
    file.add("save", r#""""#);
    // Redis waits five seconds for more replicas to come before it serves the first.
    file.add("repl-diskless-sync-delay", "0");

    if builder.persistent {
        file.add("appendonly", "yes");
        file.add("appendfsync", "always");
    } else {
        file.add("appendonly", "no");
    }

    if let Some(endpoint) = tls {
        file.add("tls-port", endpoint.port.number());
        file.add("tls-ca-cert-file", quoted_path(&endpoint.certificates.authority));
        file.add("tls-cert-file", quoted_path(&endpoint.certificates.server));
        file.add("tls-key-file", quoted_path(&endpoint.certificates.server_key));
        file.add(
            "tls-auth-clients",
            match endpoint.client_certificates {
                ClientCertificates::NotAsked => "no",
                ClientCertificates::Required => "yes",
            },
        );
    }

    if let Some(password) = &builder.password {
        file.add("requirepass", quoted(password));
    }
    for user in &builder.users {
        let password = quoted(&format!(">{}", user.password));
        file.add("user", format_args!("{} on {password} {}", user.name, user.acl_rules));
    }
    if let Some(kit) = builder.credentials()
        && let Some(name) = &kit.user
    {
        let password = quoted(&format!(">{}", kit.password));
        file.add("user", format_args!("{name} on {password} ~* &* +@all"));
    }

    if let Some(primary) = &builder.primary {
        file.add("replicaof", format_args!("127.0.0.1 {}", primary.port));
        if let Some(credentials) = &primary.credentials {
            file.add("masterauth", quoted(&credentials.password));
            if let Some(user) = &credentials.user {
                file.add("masteruser", user);
            }
        }
    }

    for (directive, value) in &builder.directives {
        file.add(directive, value);
    }
    file.text
}

#[derive(Default)]
struct Directives {
    text: String,
}

impl Directives {
    fn add(&mut self, directive: &str, value: impl Display) {
        self.text.push_str(&format!("{directive} {value}\n"));
    }
}

fn quoted_path(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}

fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}
