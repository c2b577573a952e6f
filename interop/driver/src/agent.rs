//! A peer's process: another library, told what to do in lines.
//!
//! An agent is a child process that is there as long as its [`Agent`] is: [`Agent::end`] asks it to go, and dropping
//! the agent, also by a panic, kills it.

use std::error::Error;
use std::process::Stdio;
use std::str::FromStr;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

/// How one peer is started: `NAME=COMMAND`, the command split at blanks.
pub(crate) struct Peer {
    name: String,
    program: String,
    arguments: Vec<String>,
}

impl Peer {
    /// What the report calls it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

impl FromStr for Peer {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let refused = || format!("{line:?} is not NAME=COMMAND");
        let (name, command) = line.split_once('=').ok_or_else(refused)?;
        let mut words = command.split_whitespace().map(str::to_owned);
        match words.next() {
            Some(program) if !name.is_empty() => {
                Ok(Self { name: name.to_owned(), program, arguments: words.collect() })
            }
            _ => Err(refused()),
        }
    }
}

/// A running peer.
pub(crate) struct Agent {
    name: String,
    library: String,
    child: Child,
    commands: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    /// An answer is owed or the process is gone: what comes next could be mistaken for the answer to something else.
    is_lost: bool,
}

/// What came of asking a peer for a lock.
#[derive(Debug)]
pub(crate) enum Asked {
    /// It holds, with this token.
    Holds(String),
    Taken,
}

/// What came of asking a peer to extend or release.
#[derive(Debug)]
pub(crate) enum Told {
    Done,
    Failed(String),
}

impl Agent {
    /// Starts a peer on the servers at `urls`, and waits until it is ready.
    pub(crate) async fn start(peer: &Peer, urls: &[String]) -> Result<Self, Box<dyn Error>> {
        let mut child = Command::new(&peer.program)
            .args(&peer.arguments)
            .args(urls)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("cannot start {}: {error}", peer.program))?;
        let (Some(commands), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("the agent has no pipes".into());
        };
        let mut agent = Self {
            name: peer.name.clone(),
            library: String::new(),
            child,
            commands,
            answers: BufReader::new(answers).lines(),
            is_lost: false,
        };
        let greeting = agent.hear("start").await?;
        match greeting.strip_prefix("ready ") {
            Some(library) => library.clone_into(&mut agent.library),
            None => {
                return Err(format!("the {} agent is not ready: it said {greeting:?}", agent.name).into());
            }
        }
        Ok(agent)
    }

    /// The library that it stands for, and its version.
    pub(crate) fn library(&self) -> &str {
        &self.library
    }

    /// One try to lock.
    pub(crate) async fn lock(&mut self, name: &str, expiry: Duration) -> Result<Asked, Box<dyn Error>> {
        let command = format!("lock {name} {}", expiry.as_millis());
        let answer = self.ask(&command).await?;
        match answer.split_once(' ') {
            Some(("ok", token)) => Ok(Asked::Holds(token.to_owned())),
            None if answer == "taken" => Ok(Asked::Taken),
            _ => Err(self.unexpected(&command, &answer)),
        }
    }

    /// Lets its lock last for `expiry` from now on.
    pub(crate) async fn extend(&mut self, name: &str, expiry: Duration) -> Result<Told, Box<dyn Error>> {
        self.tell(&format!("extend {name} {}", expiry.as_millis())).await
    }

    /// Releases its lock.
    pub(crate) async fn unlock(&mut self, name: &str) -> Result<Told, Box<dyn Error>> {
        self.tell(&format!("unlock {name}")).await
    }

    /// Asks it to go; kills it if it does not.
    pub(crate) async fn end(mut self) {
        if self.is_lost {
            // That was reported when it happened.
            let _ = self.child.kill().await;
            return;
        }
        let went = async {
            self.commands.write_all(b"quit\n").await?;
            self.child.wait().await
        };
        if !matches!(timeout(END_DEADLINE, went).await, Ok(Ok(_))) {
            eprintln!("redsync-interop: the {} agent did not end when told; it is killed", self.name);
            let _ = self.child.kill().await;
        }
    }

    async fn tell(&mut self, command: &str) -> Result<Told, Box<dyn Error>> {
        let answer = self.ask(command).await?;
        match answer.split_once(' ') {
            None if answer == "ok" => Ok(Told::Done),
            Some(("failed", why)) => Ok(Told::Failed(why.to_owned())),
            _ => Err(self.unexpected(command, &answer)),
        }
    }

    /// Sends one line and gives its answer. Not cancel safe: dropped midway, the agent is lost.
    async fn ask(&mut self, command: &str) -> Result<String, Box<dyn Error>> {
        if self.is_lost {
            return Err(format!("the {} agent was lost before", self.name).into());
        }
        self.is_lost = true;
        let sent = self.commands.write_all(format!("{command}\n").as_bytes()).await;
        sent.map_err(|error| format!("cannot send {command:?} to the {} agent: {error}", self.name))?;
        self.hear(command).await
    }

    async fn hear(&mut self, command: &str) -> Result<String, Box<dyn Error>> {
        self.is_lost = true;
        let agent = &self.name;
        match timeout(REPLY_DEADLINE, self.answers.next_line()).await {
            Ok(Ok(Some(answer))) => {
                self.is_lost = false;
                Ok(answer)
            }
            Ok(Ok(None)) => Err(format!("the {agent} agent ended instead of answering {command:?}").into()),
            Ok(Err(error)) => Err(format!("the {agent} agent's answer to {command:?}: {error}").into()),
            Err(_) => {
                let message = format!(
                    "the {agent} agent did not answer {command:?} within {REPLY_DEADLINE:?}; it is killed"
                );
                let _ = self.child.start_kill();
                Err(message.into())
            }
        }
    }

    fn unexpected(&self, command: &str, answer: &str) -> Box<dyn Error> {
        format!("the {} agent answered {command:?} with {answer:?}", self.name).into()
    }
}

const REPLY_DEADLINE: Duration = Duration::from_secs(10);
const END_DEADLINE: Duration = Duration::from_secs(3);
