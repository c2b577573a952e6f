//! What waiting cannot help: it is said at once, with what to do and an exit code of its own, however long was to be waited.

mod support;

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::time::Duration;

use redsync_testkit::{RedisServer, servers};
use serde_json::Value;
use support::{Machine, Outcome};

/// Far less than the expiry of a minute that these calls have, and the wait of an hour.
const AT_ONCE: Duration = Duration::from_secs(10);

/// Waits for the lock as each command does that takes it: all must end at once with this code. What `run` said.
#[track_caller]
fn refused(machine: &Machine, code: i32) -> String {
    let options = "--wait 1h --expiry 60s job";
    let ran = machine.run_sh(options, "echo in");
    let locked = machine.redsync(["lock"].into_iter().chain(options.split(' ')));
    let tried = machine.run_sh("--try --expiry 60s job", "echo in");
    for outcome in [&ran, &locked, &tried] {
        assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(code), ""), "{outcome}");
        assert!(outcome.took < AT_ONCE, "{outcome}");
        assert_eq!(outcome.stderr.lines().count(), 1, "{outcome}");
        assert!(!outcome.stderr.trim_end().contains(char::is_control), "{outcome}");
    }
    ran.stderr
}

fn url(server: &RedisServer, login: &str) -> String {
    format!("redis://{login}@{}", server.address())
}

#[test]
fn a_wrong_password_is_77_at_once() {
    let server = RedisServer::builder().password("right").start();
    let machine = Machine::with_urls(&url(&server, ":wrong"));
    assert_eq!(
        refused(&machine, 77),
        format!(
            "redsync: no quorum to take lock \"job\": the only node failed: redis://{}: wrong user or password \
             (WRONGPASS invalid username-password pair or user is disabled.)\n",
            server.address()
        )
    );
    for command in
        [&["status", "job"][..], &["unlock", "job 0123456789abcdef0123456789abcdef01234567@x:1 60000"]]
    {
        let outcome = machine.redsync(command);
        assert!(matches!(outcome.code, Some(77 | 64)), "{outcome}");
    }
    for (machine, code) in [(&machine, 77), (&Machine::with_urls("sqlite:///no/such/directory/locks.db"), 73)]
    {
        for command in [&["status", "job"][..], &["ls"], &["unlock", "--force", "--yes", "job"]] {
            let outcome = machine.redsync(command);
            assert_eq!(outcome.code, Some(code), "{command:?}: {outcome}");
        }
    }
}

#[test]
fn a_majority_that_refuses_is_77_and_a_minority_does_not_matter() {
    let servers: Vec<RedisServer> =
        (0..3).map(|_| RedisServer::builder().password("right").start()).collect();
    let urls = |wrong: usize| {
        let login = |at| if at < wrong { ":wrong" } else { ":right" };
        let urls: Vec<String> =
            servers.iter().enumerate().map(|(at, server)| url(server, login(at))).collect();
        Machine::with_urls(&urls.join(","))
    };
    let said = refused(&urls(2), 77);
    assert!(said.contains("2 of 3 nodes failed, 2 must answer"), "{said}");
    let outcome = urls(1).run_sh("--try job", "exit 4");
    assert_eq!(outcome.code, Some(4), "{outcome}");
}

#[test]
fn a_missing_permission_is_77_and_named_with_the_rule_to_add_and_nothing_is_granted() {
    let server = RedisServer::builder().user("ann", "secret", "~job* &* +@all -del").start();
    let machine = Machine::with_urls(&url(&server, "ann:secret"));
    assert_eq!(
        refused(&machine, 77),
        format!(
            "redsync: no quorum to take lock \"job\": the only node failed: redis://{}: user ann lacks permissions that \
             this lock needs, to be released too (NOPERM); add: ACL SETUSER ann +del ~{{job}}:redsync:*\n",
            server.address()
        )
    );
    assert_eq!(server.keys(), [""; 0]);
    server.command(&["ACL", "SETUSER", "ann", "+del", "~{job}:redsync:*"]);
    let outcome = machine.run_sh("--try job", "exit 4");
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(4), ""), "what was named is enough: {outcome}");
}

#[test]
fn nodes_that_are_not_what_they_should_be_are_78() {
    let server = RedisServer::builder().tls().start();
    let web = that_says("HTTP/1.1 400 Bad Request\r\n\r\n");
    let odd = that_says("220 \u{1b}[31mmail\u{7} ESMTP\r\n");
    let plain_as_tls = server.tls_url().replace(&server.tls_port().to_string(), &server.port().to_string());
    for (urls, told) in [
        (format!("{}/99", server.url()), "the server has no database of the number in the URL"),
        (
            format!("redis://127.0.0.1:{web}"),
            "a web server answers there, and no Redis; name the host and port",
        ),
        (format!("redis://127.0.0.1:{odd}"), r#"it said "220 \u{1b}[31mmail\u{7} ESMTP""#),
        (format!("redis://127.0.0.1:{}", server.tls_port()), "the server speaks TLS: write rediss://"),
        (plain_as_tls, "the server does not speak TLS: write redis://"),
    ] {
        let said = refused(&Machine::with_urls(&urls), 78);
        assert!(said.contains(told), "{said}");
    }
}

/// The port of a server that says this to each that connects.
fn that_says(words: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                let _ = stream.write_all(words.as_bytes());
                // Until the client goes: closing at once could lose what was said.
                let _ = std::io::copy(&mut stream, &mut std::io::sink());
            });
        }
    });
    port
}

#[test]
fn a_store_that_cannot_be_used_is_73_at_once() {
    let machine = Machine::new();
    fs::write(machine.path("junk.db"), "this is no database, but a text of some length".repeat(100)).unwrap();
    let path = |name: &str| format!("sqlite://{}", machine.path(name).display());
    for (url, told) in [
        (path("missing/locks.db"), "there is no directory "),
        (path("junk.db"), "is some other file, not a lock store"),
    ] {
        let said = refused(&Machine::with_urls(&url), 73);
        assert!(said.contains(told), "{said}");
    }

    fs::write(machine.path("file"), "").unwrap();
    let mut command = machine.command(["run", "job", "--", "true"]);
    let outcome =
        support::finish(command.env("XDG_STATE_HOME", machine.path("file")).env_remove("REDSYNC_NODES"));
    assert_eq!(outcome.code, Some(73), "{outcome}");
    assert!(outcome.stderr.contains("cannot create "), "{outcome}");
}

#[test]
fn what_may_pass_is_69_and_is_waited_for() {
    let machine = Machine::with_urls("redis://127.0.0.1:1");
    let outcome = machine.run_sh("--expiry 1s job", "true");
    assert_eq!(outcome.code, Some(69), "{outcome}");
    assert!(outcome.took > Duration::from_millis(900), "{outcome}");
}

#[test]
fn json_says_what_has_to_be_seen_to() {
    let mut servers = servers(1);
    servers.push(RedisServer::builder().password("right").start());
    servers.push(RedisServer::builder().password("right").start());
    let machine = Machine::with_nodes([&servers[0]]);
    let urls = [servers[0].url(), url(&servers[1], ":wrong"), url(&servers[2], ":wrong")].join(",");
    let mut command = machine.command(["run", "--json", "--expiry", "60s", "job", "--", "true"]);
    let outcome: Outcome = support::finish(command.env("REDSYNC_NODES", urls));
    assert_eq!(outcome.code, Some(77), "{outcome}");
    let said: Value = serde_json::from_str(outcome.stderr.lines().last().unwrap()).unwrap();
    assert_eq!((&said["error"], &said["remedy"]), (&"no_quorum".into(), &"access".into()), "{outcome}");
    assert_eq!(said["nodes"][0]["remedy"], "access", "{outcome}");
}

#[test]
fn a_hash_in_a_url_is_refused_and_no_part_of_the_password_is_shown() {
    for url in
        ["redis://ann:12#hunter2@db.example", "redis+unix:///run/a#hunter2", "rediss://db.example/#hunter2"]
    {
        let outcome = Machine::with_urls(url).run_sh("--try job", "true");
        assert_eq!(outcome.code, Some(64), "{outcome}");
        let scheme = url.split("://").next().unwrap();
        assert_eq!(
            outcome.stderr,
            format!(
                "redsync: invalid node URL \"{scheme}://…\": it holds a #; write %23 for one in a user, password or path\n"
            )
        );
    }
}

#[test]
fn what_others_wrote_into_a_key_reaches_no_terminal_as_it_is() {
    let server = RedisServer::start();
    let hostile = format!("x@\u{1b}[31mred\u{7}\nsecond{}", "y".repeat(100_000));
    server.command(&["SET", "job", &hostile]);
    let machine = Machine::with_nodes([&server]);
    for outcome in [machine.redsync(["status", "job"]), machine.run_sh("--try job", "true")] {
        let said = outcome.stdout.clone() + &outcome.stderr;
        let is_control = |letter: char| letter.is_control() && letter != '\n';
        assert!(!said.contains(is_control) && said.len() < 2_000, "{}", &said[..said.len().min(3_000)]);
        assert!(said.contains(r"\u{1b}[31mred\u{7}\nsecondyyy"), "{outcome}");
    }
}
