//! Nothing is left behind, however a test ends.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use std::{env, fs, thread};

use redsync_testkit::{PostgresServer, RedisServer, wait_until};

const DEADLINE: Duration = Duration::from_secs(20);

/// Set for the copy of this test that is to be killed.
const VICTIM_VARIABLE: &str = "REDSYNC_TESTKIT_VICTIM";

/// A zombie has ended; whose child it was may take its time to reap it.
fn is_alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit_once(')').unwrap().1.starts_with(" Z"))
}

/// Whether there is shared memory that the process made, and that outlives it.
fn has_shared_memory(pid: u32) -> bool {
    let segments = fs::read_to_string("/proc/sysvipc/shm").unwrap();
    let makers = segments.lines().skip(1).filter_map(|line| line.split_whitespace().nth(4));
    makers.into_iter().any(|maker| maker == pid.to_string())
}

#[test]
fn nothing_is_left_of_a_dropped_postgres() {
    let server = PostgresServer::start();
    let mut session = server.session();
    assert_eq!(session.run("SELECT 1 + 1;").unwrap(), "2\n");
    assert_eq!(session.run("SELECT 1 / 0; SELECT 3;").unwrap_err(), "22012 division by zero");
    let (pid, directory) = (server.pid(), server.dir().to_owned());
    assert!(is_alive(pid) && directory.exists() && has_shared_memory(pid));
    drop(server);
    assert!(!is_alive(pid) && !directory.exists() && !has_shared_memory(pid));
}

#[test]
fn nothing_is_left_of_a_dropped_server() {
    let server = RedisServer::builder().persistent().tls_mutual().start();
    server.set("key", "value", None);
    let (pid, directory) = (server.pid(), server.dir().to_owned());
    assert!(is_alive(pid) && directory.exists());
    drop(server);
    assert!(!is_alive(pid) && !directory.exists());
}

#[test]
fn nothing_is_left_after_a_panic() {
    let (sender, receiver) = std::sync::mpsc::channel();
    let thread = thread::spawn(move || {
        let server = RedisServer::start();
        server.pause();
        sender.send((server.pid(), server.dir().to_owned())).unwrap();
        panic!("on purpose");
    });
    assert!(thread.join().is_err());
    let (pid, directory) = receiver.recv().unwrap();
    assert!(!is_alive(pid) && !directory.exists());
}

#[test]
fn nothing_is_left_after_the_test_process_is_killed() {
    if env::var_os(VICTIM_VARIABLE).is_some() {
        be_the_victim();
    }

    let mut victim = Command::new(env::current_exe().unwrap())
        .args(["--exact", "nothing_is_left_after_the_test_process_is_killed", "--nocapture"])
        .env(VICTIM_VARIABLE, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(victim.stdout.take().unwrap());
    let mut line = String::new();
    let survivors: Vec<(u32, String)> = std::iter::from_fn(|| {
        loop {
            line.clear();
            assert_ne!(output.read_line(&mut line).unwrap(), 0, "the victim ended early");
            match line.trim_end().rsplit_once("server: ").map(|(_, server)| server.split_once(' ').unwrap()) {
                Some((pid, directory)) => break Some((pid.parse().unwrap(), directory.to_owned())),
                None if line.contains("ready to die") => break None,
                None => {}
            }
        }
    })
    .collect();
    assert_eq!(survivors.len(), 4);
    assert!(is_alive(survivors[2].0) && Path::new(&survivors[2].1).exists());

    victim.kill().unwrap();
    victim.wait().unwrap();

    for (pid, directory) in survivors {
        wait_until("the server is gone", DEADLINE, || !is_alive(pid));
        wait_until("its directory is gone", DEADLINE, || !Path::new(&directory).exists());
        assert!(!has_shared_memory(pid));
    }
    // Neither servers nor watchdog hold the output open: a test runner that waits for its end would hang.
    let mut rest = Vec::new();
    std::io::Read::read_to_end(&mut output, &mut rest).unwrap();
}

/// One server is killed but kept, one runs, one is paused; a fourth is given back before. A PostgreSQL runs.
fn be_the_victim() -> ! {
    let postgres = PostgresServer::start();
    println!("server: {} {}", postgres.pid(), postgres.dir().display());
    let servers = redsync_testkit::servers(4);
    for server in &servers[..3] {
        println!("server: {} {}", server.pid(), server.dir().display());
    }
    servers[0].kill();
    servers[2].pause();
    let mut kept = servers;
    drop(kept.pop());
    println!("ready to die");
    // Blocks until the parent kills this process, or dies itself and so closes the pipe.
    let _ = std::io::stdin().read_line(&mut String::new());
    std::process::exit(1);
}
