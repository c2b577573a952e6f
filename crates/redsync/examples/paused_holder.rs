//! A holder of a lock is paused for longer than its lock lasts, wakes up, and writes. Without fences an update is lost; with
//! them, the late write is refused.
//!
//! ```sh
//! cargo run --example paused_holder --features sqlite
//! ```
//!
//! No server is needed: the lock is kept in an SQLite file, and so is the account that it guards. The program starts itself
//! again, as the workers.

use std::error::Error;
use std::io::{BufRead, BufReader, Write, stdin};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use redsync::{Fence, Redsync};
use rusqlite::{Connection, OptionalExtension};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

/// How long a lock lasts here when its holder does nothing.
const EXPIRY: Duration = Duration::from_secs(1);

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        [directory, amount, account] => {
            work(Path::new(directory), amount.parse()?, account == FENCED)?;
            Ok(ExitCode::SUCCESS)
        }
        _ => tell(),
    }
}

/// Adds `amount` to the account: this is the program that a user of redsync would write.
#[tokio::main]
async fn work(directory: &Path, amount: i64, fenced: bool) -> Result<(), Box<dyn Error>> {
    let redsync = Redsync::connect([format!("sqlite://{}", directory.join("locks.db").display())]).await?;
    let account = Account { rows: Connection::open(directory.join("account.db"))?, fenced };
    // A guard renews itself, but not while its process is paused. Here it never does, lest the pause hits it in the middle of
    // that: then it would keep the file of the locks to itself.
    let mutex = redsync.mutex("account").expiry(EXPIRY).renew(false).fenced();
    loop {
        let guard = mutex.lock().await?;
        let Some(balance) = account.read(guard.fence())? else {
            say("is refused: somebody else has had the lock since");
            continue;
        };
        match fenced {
            true => say(&format!("has the lock, with fence {}, and reads {balance}", guard.fence())),
            false => say(&format!("has the lock, and reads {balance}")),
        }

        let sum = balance + amount;
        if !guard.is_valid() {
            say("asks whether it still has the lock: no. It begins from the start");
            continue;
        }
        say(&format!("asks whether it still has the lock: yes. It {ABOUT_TO} {sum}"));
        // A pause may come anywhere. To be sure that it comes here, a worker that is to be paused waits for a line, which it
        // finds when it goes on.
        stdin().read_line(&mut String::new())?;

        if !account.write(guard.fence(), sum)? {
            say(&format!(
                "writes {sum}, and is {REFUSED}: a later fence was there. It begins from the start"
            ));
            continue;
        }
        say(&format!("writes {sum}"));
        if let Err(error) = guard.unlock().await {
            say(&format!("releases the lock, and hears: \"{error}\". Too late, it has written"));
        }
        return Ok(());
    }
}

/// A balance, in a database that compares fences, or in one that does not.
struct Account {
    rows: Connection,
    fenced: bool,
}

impl Account {
    /// The balance, unless a later holder was here.
    fn read(&self, fence: Fence) -> rusqlite::Result<Option<i64>> {
        let sql = match self.fenced {
            true => "UPDATE account SET fence = ?1 WHERE fence <= ?1 RETURNING balance",
            false => "SELECT balance FROM account WHERE ?1 = ?1",
        };
        self.rows.query_row(sql, [fence.as_i64()], |row| row.get(0)).optional()
    }

    /// Whether it was written: not if a later holder was here.
    fn write(&self, fence: Fence, balance: i64) -> rusqlite::Result<bool> {
        let sql = match self.fenced {
            true => "UPDATE account SET balance = ?1, fence = ?2 WHERE fence <= ?2",
            false => "UPDATE account SET balance = ?1 WHERE ?2 = ?2",
        };
        Ok(self.rows.execute(sql, [balance, fence.as_i64()])? == 1)
    }
}

/// Tells the story twice. All below is about that.
fn tell() -> Result<ExitCode, Box<dyn Error>> {
    println!(
        "There is 100 in an account. Worker A adds 10 to it, worker B adds 50, each in a process of its own and under the\n\
         same lock, which lasts {} s. A is paused just before it writes.\n",
        EXPIRY.as_secs_f32()
    );
    println!("WITHOUT FENCES: the account takes whatever is written.");
    let without = run(PLAIN)?;
    println!("          There is {} in the account, and not 160: what B added is lost.\n", without.balance);

    println!(
        "WITH FENCES: the account refuses whoever comes with a smaller fence than one that it has seen."
    );
    let with = run(FENCED)?;
    println!("          There is {} in the account: both amounts, each of them once.", with.balance);

    let is_as_told = without == Run { balance: 110, refused: 0 } && with == Run { balance: 160, refused: 1 };
    if !is_as_told {
        eprintln!("That is not how it should have gone: {without:?}, {with:?}");
    }
    Ok(if is_as_told { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// How it went.
#[derive(Debug, PartialEq, Eq)]
struct Run {
    balance: i64,
    /// How many writes were refused.
    refused: usize,
}

fn run(account: &'static str) -> Result<Run, Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let rows = Connection::open(directory.path().join("account.db"))?;
    rows.execute_batch(
        "CREATE TABLE account (balance INTEGER NOT NULL, fence INTEGER NOT NULL);
         INSERT INTO account VALUES (100, 0);",
    )?;
    let began = Instant::now();

    let mut a = Worker::start("A", 10, directory.path(), account, began)?;
    a.wait_until_it_is_about_to_write()?;
    a.pause()?;
    note(began, "      A is paused, for longer than its lock lasts. B starts, and waits for the lock");
    let b = Worker::start("B", 50, directory.path(), account, began)?;
    let refused = b.end()?;
    note(began, "      A goes on");
    a.go_on()?;
    let refused = refused + a.end()?;

    let balance = rows.query_row("SELECT balance FROM account", [], |row| row.get(0))?;
    Ok(Run { balance, refused })
}

/// A process of this program that works. What it says is printed with the time.
struct Worker {
    child: Child,
    said: mpsc::Receiver<String>,
}

impl Worker {
    fn start(
        name: &'static str,
        amount: i64,
        directory: &Path,
        account: &str,
        began: Instant,
    ) -> Result<Self, Box<dyn Error>> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(directory)
            .args([&amount.to_string(), account])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (tell, said) = mpsc::channel();
        let lines = BufReader::new(child.stdout.take().ok_or("it has an output")?).lines();
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                note(began, &format!("{name} {line}"));
                let _ = tell.send(line);
            }
        });
        Ok(Self { child, said })
    }

    fn wait_until_it_is_about_to_write(&self) -> Result<(), Box<dyn Error>> {
        while !self.said.recv()?.contains(ABOUT_TO) {}
        Ok(())
    }

    /// Returns when it stands still.
    fn pause(&self) -> Result<(), Box<dyn Error>> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::STOP)?;
        waitpid(Some(pid), WaitOptions::UNTRACED)?;
        Ok(())
    }

    fn go_on(&mut self) -> Result<(), Box<dyn Error>> {
        self.child.stdin.as_mut().ok_or("it has an input")?.write_all(b"\n")?;
        kill_process(Pid::from_child(&self.child), Signal::CONT)?;
        Ok(())
    }

    /// Waits for its end, and says how often it was refused.
    fn end(mut self) -> Result<usize, Box<dyn Error>> {
        // It waits for no line more.
        drop(self.child.stdin.take());
        let refused = self.said.iter().filter(|line| line.contains(REFUSED)).count();
        let status = self.child.wait()?;
        if status.success() { Ok(refused) } else { Err(format!("a worker failed: {status}").into()) }
    }
}

/// A worker is not left behind, paused or not.
impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a worker says goes to the one who started it.
fn say(what: &str) {
    println!("{what}");
}

fn note(began: Instant, what: &str) {
    println!("  {:.2} s  {what}", began.elapsed().as_secs_f32());
}

/// Which kind of account a worker is told to write to.
const FENCED: &str = "fenced";
const PLAIN: &str = "plain";

/// Words by which a worker's lines are known.
const ABOUT_TO: &str = "is about to write";
const REFUSED: &str = "refused";
