//! A server's life: started, paused, killed, restarted, gone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::builder::ServerBuilder;
use crate::certificates::Certificates;
use crate::clock;
use crate::configuration::{TlsEndpoint, configuration};
use crate::control::Credentials;
use crate::directory::ServerDirectory;
use crate::port::ReservedPort;
use crate::process::ServerProcess;
use crate::resp::Reply;

/// Starts `n` plain servers in parallel: it takes hardly longer than to start one.
pub fn servers(n: usize) -> Vec<RedisServer> {
    let builder = RedisServer::builder();
    let launched: Vec<RedisServer> = (0..n).map(|_| RedisServer::launch(&builder)).collect();
    launched.into_iter().map(|server| server.or_elsewhere(&builder)).collect()
}

/// A Redis server process of the test's own.
///
/// All methods take `&self`, so that threads and tests can share a server. Dropping it kills the process and
/// removes its files.
#[derive(Debug)]
pub struct RedisServer {
    /// `None` while the server is down. Dropped before the directory its process writes to.
    process: Mutex<Option<ServerProcess>>,
    pub(crate) directory: ServerDirectory,
    binary: PathBuf,
    credentials: Option<Credentials>,
    pub(crate) password: Option<String>,
    pub(crate) tcp: Option<ReservedPort>,
    pub(crate) tls: Option<TlsEndpoint>,
    persistent: bool,
    replica: bool,
    pub(crate) has_driven_clock: bool,
}

impl RedisServer {
    /// Starts a plain server: no password, no TLS, nothing kept across a restart.
    pub fn start() -> Self {
        Self::builder().start()
    }

    /// Describes a server of another kind.
    pub fn builder() -> ServerBuilder {
        ServerBuilder::default()
    }

    /// The process id.
    ///
    /// # Panics
    ///
    /// When the server is down.
    #[track_caller]
    pub fn pid(&self) -> u32 {
        running(&mut self.process()).id()
    }

    /// The directory of all the server's files.
    pub fn dir(&self) -> &Path {
        self.directory.path()
    }

    /// The last lines of the server's log.
    pub fn log_tail(&self) -> String {
        self.directory.log_tail()
    }

    /// Whether there is a server process. A paused one counts.
    pub fn is_running(&self) -> bool {
        self.process().as_mut().is_some_and(|process| process.exit_status().is_none())
    }

    /// Stops the process in its tracks (SIGSTOP): connections stay open, and the kernel accepts new ones, but
    /// nothing is answered. Returns when the process is really stopped.
    ///
    /// # Panics
    ///
    /// When the server is down.
    #[track_caller]
    pub fn pause(&self) {
        running(&mut self.process()).pause();
    }

    /// Lets a paused server go on (SIGCONT). It then also executes what it was sent meanwhile.
    ///
    /// # Panics
    ///
    /// When the server is down.
    #[track_caller]
    pub fn resume(&self) {
        running(&mut self.process()).resume();
    }

    /// Kills the process as a crash would (SIGKILL), paused or not. Connections to its port are then refused.
    /// Does nothing to a server that is down.
    pub fn kill(&self) {
        *self.process() = None;
    }

    /// Shuts the server down in order (SIGTERM), paused or not. Does nothing to a server that is down.
    ///
    /// # Panics
    ///
    /// When the server does not end within 20 s.
    #[track_caller]
    pub fn stop(&self) {
        let Some(mut process) = self.process().take() else {
            return;
        };
        assert!(process.end_in_order(Signal::TERM), "the server does not shut down:\n{}", self.log_tail());
    }

    /// Starts the server again on the same port and socket, and returns when it answers. One that is still running
    /// is killed before.
    ///
    /// Only a [persistent](ServerBuilder::persistent) server has its data again. A replica is not waited for until
    /// it is in step: its primary may be down.
    ///
    /// # Panics
    ///
    /// When the server does not come back, with the tail of its log.
    #[track_caller]
    pub fn restart(&self) {
        let mut process = self.process();
        *process = None;
        if !self.persistent {
            // A replica stores what its primary sent at first, and would begin with that.
            let _ = fs::remove_file(self.dir().join("dump.rdb"));
        }
        *process = Some(spawn(&self.binary, &self.directory, self.has_driven_clock));
        drop(process);

        self.until("answers", || self.answers());
    }

    /// Spawns a server without waiting for it.
    pub(crate) fn launch(builder: &ServerBuilder) -> Self {
        assert!(
            !(builder.unix_socket_only && builder.tls.is_some()),
            "a server with a unix socket only has no port for TLS"
        );
        let directory = ServerDirectory::create();
        let tcp = (!builder.unix_socket_only).then(ReservedPort::any);
        let tls = builder.tls.map(|client_certificates| TlsEndpoint {
            port: ReservedPort::any(),
            certificates: Certificates::create(directory.path()),
            client_certificates,
        });
        let port = tcp.as_ref().map_or(0, ReservedPort::number);
        fs::write(directory.configuration(), configuration(builder, &directory, port, tls.as_ref()))
            .unwrap_or_else(|error| panic!("cannot write {}: {error}", directory.configuration().display()));

        let (binary, has_driven_clock) = (builder.binary_or_default(), builder.clock.is_some());
        if let Some(micros) = builder.clock {
            clock::write(&directory, micros);
        }
        Self {
            process: Mutex::new(Some(spawn(&binary, &directory, has_driven_clock))),
            directory,
            binary,
            credentials: builder.credentials(),
            password: builder.password.clone(),
            tcp,
            tls,
            persistent: builder.persistent,
            replica: builder.primary.is_some(),
            has_driven_clock,
        }
    }

    /// Waits until a launched server is ready. If it cannot have its port after all, launches another.
    pub(crate) fn or_elsewhere(self, builder: &ServerBuilder) -> Self {
        let mut server = self;
        for _ in 0..PORT_ATTEMPTS {
            match server.await_first_answer() {
                Ok(()) => break,
                Err(PortTaken) => server = Self::launch(builder),
            }
        }
        server.until("answers", || server.answers());
        if let Some(micros) = builder.clock {
            server.assert_clock(micros);
        }
        if server.replica {
            server.until("is in step with its primary", || {
                server.info("replication").contains("master_link_status:up")
            });
        }
        server
    }

    pub(crate) fn credentials(&self) -> Option<&Credentials> {
        self.credentials.as_ref()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.socket()
    }

    fn await_first_answer(&self) -> Result<(), PortTaken> {
        let began = Instant::now();
        while self.is_running() && !self.answers() && began.elapsed() < START_DEADLINE {
            thread::sleep(POLL_INTERVAL);
        }
        let taken = !self.is_running() && self.log_tail().contains("Address already in use");
        if taken { Err(PortTaken) } else { Ok(()) }
    }

    /// Waits for a condition that only a living server can fulfil.
    #[track_caller]
    fn until(&self, what: &str, condition: impl Fn() -> bool) {
        let began = Instant::now();
        while !condition() {
            let binary = self.binary.display();
            assert!(self.is_running(), "`{binary}` ended before it {what}:\n{}", self.log_tail());
            assert!(
                began.elapsed() < START_DEADLINE,
                "waited {START_DEADLINE:?} in vain until `{binary}` {what}:\n{}",
                self.log_tail()
            );
            thread::sleep(POLL_INTERVAL);
        }
    }

    /// Whether the server serves commands: one that still loads its data answers with an error.
    fn answers(&self) -> bool {
        self.try_command(&["PING"]).is_ok_and(|reply| reply == Reply::Status("PONG".to_owned()))
    }

    fn process(&self) -> MutexGuard<'_, Option<ServerProcess>> {
        // A panic in one thread of a test must not hide the server from the clean-up in another.
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn spawn(binary: &Path, directory: &ServerDirectory, has_driven_clock: bool) -> ServerProcess {
    let mut command = Command::new(binary);
    command.arg(directory.configuration());
    if has_driven_clock {
        clock::drive(&mut command, directory);
    }
    ServerProcess::spawn(command, directory, "redis-server")
}

#[track_caller]
fn running(process: &mut Option<ServerProcess>) -> &mut ServerProcess {
    match process.as_mut().map(|process| (process.exit_status(), process)) {
        Some((None, process)) => process,
        Some((Some(status), _)) => panic!("the server has ended by itself: {status}"),
        None => panic!("the server is down"),
    }
}

/// Somebody listens on the reserved port: possible only for one who asked for that very port.
struct PortTaken;

const PORT_ATTEMPTS: usize = 5;
const START_DEADLINE: Duration = Duration::from_secs(20);
const POLL_INTERVAL: Duration = Duration::from_millis(3);
