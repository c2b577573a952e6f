//! A PostgreSQL server of the test's own, and sessions with it.

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Signal, geteuid};

use crate::directory::ServerDirectory;
use crate::process::ServerProcess;
use crate::watchdog::{Notice, notify};

/// A PostgreSQL server process of the test's own, with an empty database in a temporary directory. It listens on a unix
/// socket there and on no port. PostgreSQL refuses to run as root: there, it runs as the user `postgres`.
///
/// Nothing that it stores outlives a crash of the machine. Dropping it ends the process and removes its files.
#[derive(Debug)]
pub struct PostgresServer {
    /// Dropped before the directory that it writes to.
    process: ServerProcess,
    directory: ServerDirectory,
}

impl PostgresServer {
    /// Starts a server and returns when it answers.
    ///
    /// # Panics
    ///
    /// When PostgreSQL is not installed, or when the server ends or stays silent: then with the tail of its log.
    pub fn start() -> Self {
        let directory = ServerDirectory::create();
        if geteuid().is_root() {
            let id = |option| number(&run(Command::new("id").args([option, USER])));
            chown(directory.path(), Some(id("-u")), Some(id("-g"))).unwrap_or_else(|error| {
                panic!("cannot give {} to {USER}: {error}", directory.path().display())
            });
        }
        let data = directory.path().join("data");
        let mut init = program("initdb");
        init.args([
            "--no-sync",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C",
            "--username",
            USER,
            "--pgdata",
        ]);
        run(init.arg(&data).current_dir(directory.path()));

        let mut command = program("postgres");
        command.arg("-D").arg(&data).arg("-k").arg(directory.path());
        // No TCP, nothing written through to the disk, and no memory outside of the directory.
        for setting in [
            "listen_addresses=",
            "fsync=off",
            "synchronous_commit=off",
            "full_page_writes=off",
            "dynamic_shared_memory_type=mmap",
        ] {
            command.args(["-c", setting]);
        }
        let process = ServerProcess::spawn(command, &directory, PACKAGE);
        notify(&Notice::ProcessTidiesUp(process.id()));
        let mut server = Self { process, directory };
        server.await_first_answer();
        server
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The directory of all the server's files, where its socket is too: `psql -h DIR -U postgres`.
    pub fn dir(&self) -> &Path {
        self.directory.path()
    }

    /// Begins a session. Each has a connection of its own.
    ///
    /// # Panics
    ///
    /// When there is no `psql`.
    pub fn session(&self) -> PsqlSession {
        PsqlSession::with(self.psql())
    }

    fn await_first_answer(&mut self) {
        let began = Instant::now();
        loop {
            let asked = self.psql().args(["-c", "SELECT 1"]).stdin(Stdio::null()).output();
            if asked.unwrap_or_else(|error| panic!("{}", missing("psql", &error))).status.success() {
                return;
            }
            let ended = self.process.exit_status();
            assert!(
                ended.is_none() && began.elapsed() < START_DEADLINE,
                "`postgres` does not answer ({ended:?}):\n{}",
                self.directory.log_tail()
            );
            thread::sleep(POLL_INTERVAL);
        }
    }

    fn psql(&self) -> Command {
        let mut psql = Command::new("psql");
        // No start-up file, and of a result the values alone.
        psql.args(["-X", "-A", "-t", "-U", USER, "-d", "postgres", "-h"]).arg(self.dir());
        psql
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        // At once, and leaving no memory behind that other processes see. If it does not, it is killed.
        self.process.end_in_order(Signal::QUIT);
    }
}

/// A session with a [`PostgresServer`], by `psql`: one connection, whose transactions may stay open from one call to the
/// next. Dropping it ends the session.
#[derive(Debug)]
pub struct PsqlSession {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl PsqlSession {
    fn with(mut psql: Command) -> Self {
        let mut child = psql
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // What went wrong is asked for.
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{}", missing("psql", &error)));
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().expect("the output was asked to be a pipe"));
        Self { child, input, output }
    }

    /// Has `sql` done and returns what was printed: a line for each row, its values separated by `|`, and for each
    /// statement a line such as `UPDATE 1`.
    ///
    /// # Errors
    ///
    /// The code (SQLSTATE) and the message of the last statement that failed, if any did.
    pub fn run(&mut self, sql: &str) -> Result<String, String> {
        self.begin(sql);
        self.finish()
    }

    /// Sends `sql` without waiting for it to be done, as for a statement that waits for another session's.
    pub fn begin(&mut self, sql: &str) {
        self.send("\\set LAST_ERROR_SQLSTATE 00000");
        self.send(sql);
        self.send(&format!("\\echo {END} :LAST_ERROR_SQLSTATE :LAST_ERROR_MESSAGE"));
    }

    /// Waits until what was [begun](PsqlSession::begin) is done.
    ///
    /// # Errors
    ///
    /// As [`run`](PsqlSession::run).
    pub fn finish(&mut self) -> Result<String, String> {
        let mut printed = String::new();
        loop {
            let start = printed.len();
            let read = self.output.read_line(&mut printed).expect("psql writes text");
            assert_ne!(read, 0, "psql ended: {:?}", self.child.try_wait());
            if let Some(state) = printed[start..].strip_prefix(END) {
                let state = state.trim().to_owned();
                printed.truncate(start);
                return if state.starts_with("00000") { Ok(printed) } else { Err(state) };
            }
        }
    }

    fn send(&mut self, line: &str) {
        let input = self.input.as_mut().expect("open until the session is dropped");
        writeln!(input, "{line}").unwrap_or_else(|error| panic!("psql does not read: {error}"));
    }
}

impl Drop for PsqlSession {
    fn drop(&mut self) {
        // The end of its input ends it, unless it waits for an answer.
        drop(self.input.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A program of the server's, as the user that it may run as.
fn program(name: &str) -> Command {
    let path = installed(name);
    if !geteuid().is_root() {
        return Command::new(path);
    }
    // It becomes the program, whose process id is then ours to signal.
    let mut command = Command::new("setpriv");
    command.args(["--reuid", USER, "--regid", USER, "--clear-groups", "--"]).arg(path);
    command
}

/// Where the program is. Debian keeps those of the server off the path, a directory for each version.
fn installed(name: &str) -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions.max_by_key(|version| version.file_name().to_string_lossy().parse::<u32>().ok());
    let debian = newest.map(|version| version.path().join("bin").join(name)).filter(|path| path.exists());
    let on_path = || {
        let directories = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&directories).map(|directory| directory.join(name)).find(|path| path.exists())
    };
    let found = debian.or_else(on_path);
    found.unwrap_or_else(|| panic!("{}", missing(name, &ErrorKind::NotFound.into())))
}

fn run(command: &mut Command) -> Output {
    let name = command.get_program().display().to_string();
    let output =
        command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{}", missing(&name, &error)));
    let said = || String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {}\n{}", output.status, said());
    output
}

fn number(output: &Output) -> u32 {
    String::from_utf8_lossy(&output.stdout).trim().parse().expect("`id` prints a number")
}

fn missing(name: &str, error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => {
            format!(
                "there is no `{name}` to run the tests against; install it with: apt-get install {PACKAGE}"
            )
        }
        _ => format!("cannot run `{name}`: {error}"),
    }
}

/// Debian's package of the server and `psql`, and the user that it makes.
const PACKAGE: &str = "postgresql";
const USER: &str = "postgres";

/// What ends the answer of a session; no value that a test stores.
const END: &str = "-- end of answer";

const START_DEADLINE: Duration = Duration::from_secs(20);
const POLL_INTERVAL: Duration = Duration::from_millis(20);
