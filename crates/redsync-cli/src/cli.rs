//! What can be typed, and the help.

use std::env;
use std::ffi::OsString;
use std::time::Duration;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use redsync::{InvalidOption, OwnerLabel, redacted};

use crate::duration;
use crate::exit::Exit;
use crate::help;
use crate::report::{Failure, Report};
use crate::version;

/// Run a command while holding a lock: flock(1) for a fleet
///
/// A lock has a name and one holder at a time. The nodes keep it: Redis or Valkey servers, of which a majority must agree,
/// or a file on this machine. A lock that its holder does not renew is free again after its expiry.
#[derive(Debug, Parser)]
#[command(
    name = "redsync",
    version = version::text(),
    arg_required_else_help = true,
    max_term_width = 100,
    after_help = help::after_all()
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    #[command(flatten)]
    pub(crate) global: Global,
}

/// What every command that asks the nodes understands.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// A node to lock on; repeat it for each. A majority of them must agree
    ///
    /// redis://HOST, rediss://HOST (TLS), valkey://HOST, redis+unix:///PATH or sqlite:///PATH. A sqlite file
    /// belongs to its user; sqlite:///PATH?mode=0660 is shared with the file's group (0666: all users). Name the same nodes
    /// everywhere. A password in a URL shows in the list of processes; REDSYNC_NODES keeps it out of there. In a
    /// password, special characters are percent-encoded: a comma is %2C, an @ is %40.
    #[arg(long = "node", value_name = "URL", global = true)]
    pub(crate) nodes: Vec<String>,
    /// Lock for all users of this machine, without nodes
    ///
    /// Without nodes and without this, a lock excludes only processes of the same user on this machine. The store of all
    /// users is /run/lock/redsync; every user of the machine can take and release its locks. REDSYNC_MACHINE=1 says the
    /// same. --node and --machine cannot be used together; either of them comes before what the environment says.
    #[arg(long, global = true)]
    pub(crate) machine: bool,
    /// Whether to distrust nodes that restarted [default: on with several nodes]
    ///
    /// Until a node has been up for the lock's expiry, it may have forgotten who holds, and its vote does not count. After
    /// a first start of all nodes, nobody gets the lock for one expiry. Off is for servers that keep every write through a
    /// restart (appendfsync always).
    #[arg(long, value_name = "on|off", value_enum, hide_possible_values = true, global = true)]
    pub(crate) restart_guard: Option<Switch>,
    /// Print results on stdout, and errors on stderr, as JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Print only errors and warnings, and nothing when another holds the lock
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
    /// Print more about what happens: which nodes are used, and who holds a lock that is waited for
    #[arg(long, short, global = true)]
    pub(crate) verbose: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a command while holding the lock, and exit with its status
    ///
    /// The first word after NAME that is no option of redsync begins the command. All words after it belong to the command,
    /// also those that look like options of redsync. A `--` before the command is allowed, and needed where the command's
    /// own name begins with `-`.
    ///
    /// The lock is renewed while the command runs. If no renewal has succeeded when a sixth of the expiry is left (2s at
    /// most), the command and all that it started get SIGTERM. What still lives when a twentieth is left (500ms at most) gets
    /// SIGKILL, and so is gone before another can have the lock. On Linux, that includes what is in a session of its own
    /// (su, setsid, a daemon), as long as the command itself has not ended. When the lock turns out to be lost already,
    /// SIGKILL follows SIGTERM at once. With --on-lost warn, the command goes on without the lock.
    ///
    /// The command finds REDSYNC_NAME, REDSYNC_TOKEN and REDSYNC_FENCE in its environment.
    ///
    /// A minority of nodes that hang delays neither the start nor the end. At the end such a node is waited for 25ms, or as
    /// long as the others took to answer at the start (500ms at most); what it does not release by then expires.
    ///
    /// A command that runs with the rights of another user (sudo, setuid) cannot be signalled by an ordinary user. redsync
    /// says so when it sends a signal on, and at once when the lock is lost: the command goes on then. redsync waits 5s
    /// for it to end by itself, says how it stands, and exits with 74. If the lock can be renewed after all, redsync says so,
    /// and keeps the lock until that command ends. Run redsync itself as that user instead: `sudo
    /// redsync run NAME -- COMMAND`.
    ///
    /// A command that waits without limit for a lock which a redsync around it holds would wait for ever: it is refused
    /// with 64. With --wait it waits, and ends with 75. To wait without limit nevertheless, in a process that nothing
    /// waits for, unset REDSYNC_HELD and REDSYNC_TOKEN.
    ///
    /// Signals are sent on to the command and all in its process group. What stops redsync (Ctrl-Z, SIGTSTP) stops the
    /// command too, and the lock is not renewed meanwhile; if it is lost by the time redsync is continued, the
    /// command is ended before it goes on.
    ///
    /// When redsync itself is killed by SIGKILL, the command and all that it started get SIGTERM (on Linux; elsewhere they
    /// go on without the lock). What still lives shortly before the lock's end gets SIGKILL from a second process of
    /// redsync (`redsync-watch`), which runs beside the command. What is in a session of its own (`su USER -c`, setsid), it
    /// knows by REDSYNC_TOKEN in its environment, by its parent, or from the last renewal. What was started since then by
    /// `su - USER`, sudo or `env -i`, and has lost its parent, it does not find: use `runuser -u USER -- COMMAND` or
    /// `setpriv`, which start no session and keep the environment. As the first process of a container, redsync reaps orphans and sends
    /// signals on: it needs no init such as tini.
    ///
    /// What this cannot do: what the command leaves running in the background when it ends by itself, or has another service
    /// start (docker, at, systemd-run), is outside the lock. Elsewhere than on Linux, or without /proc, so is what it puts
    /// into a process group of its own (setsid, a shell with job control). If both processes of redsync are killed, or
    /// redsync stands still (SIGSTOP, a debugger), nobody ends the command.
    #[command(override_usage = "redsync run [OPTIONS] NAME [--] COMMAND [ARGS]...\n       \
                                redsync run [OPTIONS] NAME -c TEXT", after_help = help::DURATIONS)]
    Run(RunArgs),
    /// Take the lock and print its lease, for `extend` and `unlock`
    ///
    /// Nothing extends the lock: it is free again when its expiry is over. Check the exit status, because without the lock
    /// there is no lease. The lease carries the lock's fence, which --json shows by itself.
    ///
    /// Without a reader for its lease, the lock could not be released. So `lock` fails where stdout is closed. To hold a lock
    /// until its expiry and no longer, write `> /dev/null`.
    #[command(after_help = help::after_lock())]
    Lock(LockArgs),
    /// Let a lease last for its expiry from now on, and print it again
    #[command(after_help = help::DURATIONS)]
    Extend(ExtendArgs),
    /// Release a lock by its lease; or with --force, take it away from whoever holds it
    ///
    /// --force is for a holder that hangs, or was forgotten. It shows who holds, and asks, unless --yes is given. Then the
    /// lock goes to the first in the queue, or is free. The former holder goes on working until its next renewal, at most a third
    /// of its expiry (2.7s by default): only then it finds its lock lost, and `run` ends its command. Until then two may work
    /// at once. A holder that does not renew is never told. The fence that is printed is the one from which on the former
    /// holder is stale.
    ///
    /// A minority of nodes that hang is waited for 25ms, or as long as the others took to answer (500ms at most); there the lock
    /// stays until it expires, which keeps nobody from taking it.
    Unlock(UnlockArgs),
    /// List the locks that are held: by whom, since when, and how many wait
    ///
    /// One line for each lock that a majority of nodes has granted to one holder: its name; the holder; when the holder asked
    /// for it, which is since when it is held, unless it had to wait; the time left, or that the holder renews it; the latest
    /// fence; and how many wait. With -v, also those that nobody has a majority of.
    ///
    /// The pattern is one of Redis: * is any text, ? is one byte, [ab] one of these, \ takes the next character as it is. Quote
    /// it, or the shell will expand it.
    ///
    /// Servers go through their keys in small steps that block nobody. On a server that is used for other things, too, keys
    /// cannot all be told from locks: listed are those whose value redsync has made, or that have a line or a fence beside
    /// them. --all lists every other key with a short text that expires.
    Ls(LsArgs),
    /// Say whether the lock is free, or who holds it and since when, and who waits for it
    ///
    /// Since when: the holder's token says when it asked for the lock, by its own clock. Where it had to wait, it has held the
    /// lock for less long. Programs that use other libraries do not say; of them, the time left is all that is known. With
    /// --json, `state` is free, held, withheld (free, but it cannot be taken yet, since nodes have restarted), contended
    /// (nobody has a majority, but it is not free), or unknown.
    ///
    /// The latest fence is the holder's, if it asked for one: programs that use other libraries do not, nor does
    /// --no-fence. It is told where a majority of nodes agrees on it. Where none does, each node's counter is told, as
    /// --json always does.
    Status(StatusArgs),
    /// Print a completion script for a shell
    Completions {
        #[arg(value_enum)]
        shell: Shell,
    },
    /// Print the manual page
    Man,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The lock's name: any text up to 1 KiB
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) acquire: AcquireArgs,
    /// What becomes of the command when the lock is lost
    #[arg(long, value_name = "WHAT", value_enum, default_value_t = OnLost::Terminate)]
    pub(crate) on_lost: OnLost,
    /// Run TEXT by `sh -c TEXT`, in place of COMMAND; no further words may follow, as with flock(1)
    #[arg(short = 'c', long = "command", id = "TEXT", value_name = "TEXT")]
    shell: Option<OsString>,
    /// How long the lock may be held, from when it was taken; without it, as long as the command runs
    ///
    /// At least the expiry. When this time is over, the command is treated as when the lock is lost: it is ended in time,
    /// and redsync exits with 74. Against a command that hangs, and would keep its lock for ever.
    #[arg(long, value_name = "DUR", value_parser = duration::parse)]
    pub(crate) max_hold: Option<Duration>,
    /// The command and its arguments
    // Once parsed, it is never empty: `-c` has become `sh -c TEXT`.
    #[arg(trailing_var_arg = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct LockArgs {
    /// The lock's name: any text up to 1 KiB
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) acquire: AcquireArgs,
}

/// How a lock is taken.
#[derive(Debug, Args)]
pub(crate) struct AcquireArgs {
    /// After what time the lock frees itself unless it is extended [default: 8s]
    #[arg(long, value_name = "DUR", value_parser = duration::parse)]
    pub(crate) expiry: Option<Duration>,
    /// How long one node may take to answer, as a share of the expiry between 0 and 1 [default: 0.05]
    ///
    /// The time is at least 50ms and at most 2s, and never longer than the expiry. A larger share suits short locks on slow
    /// networks or busy machines. Where all nodes are files on this machine, the default is 0.25.
    #[arg(long, value_name = "F", value_parser = factor)]
    pub(crate) timeout_factor: Option<f64>,
    /// Wait in the queue for this time at most; 0s is --try [default: without limit]
    ///
    /// Waiters get the lock in the order in which they came. When no quorum of nodes can be reached for longer than the
    /// expiry, the wait ends early, with 69.
    #[arg(long, value_name = "DUR", value_parser = duration::parse_or_zero, conflicts_with = "no_wait")]
    pub(crate) wait: Option<Duration>,
    /// Do not wait in the queue: give up at once if the lock is taken
    #[arg(long = "try", id = "no_wait")]
    no_wait: bool,
    /// Exit with N, from 0 to 255, if the lock is still taken when the wait ends [default: 75]
    #[arg(short = 'E', long, value_name = "N")]
    pub(crate) conflict_exit_code: Option<u8>,
    /// Who holds or waits, as `status` shows it; blanks become `-` [default: HOST:PID]
    #[arg(long, value_name = "TEXT", value_parser = owner)]
    pub(crate) owner: Option<String>,
    /// Take the lock without a fence
    ///
    /// A fence is a number that grows with every holder of the lock. What the lock guards can refuse whoever comes with a
    /// smaller one than it has seen: the late write of a command that stood still until others had the lock.
    /// For each name, it costs every node one small key, kept for 30 days after its last use. Do without where names are
    /// used once, by the million, or where a counter is broken and the lock is needed now.
    #[arg(long)]
    pub(crate) no_fence: bool,
    #[command(flatten)]
    pub(crate) release: ReleaseArgs,
}

impl AcquireArgs {
    /// True if the lock is asked for once only.
    pub(crate) fn gives_up_at_once(&self) -> bool {
        self.no_wait || self.wait.is_some_and(|wait| wait.is_zero())
    }
}

/// The label in `text`. A blank within a label could not be told from the end of the label.
fn owner(text: &str) -> Result<String, InvalidOption> {
    let words: Vec<&str> = text.split_whitespace().collect();
    OwnerLabel::new(words.join("-")).map(|label| label.as_str().to_owned())
}

/// How a lock is released.
#[derive(Debug, Args)]
pub(crate) struct ReleaseArgs {
    /// Let go of the lock when it is released, for whoever asks first, in place of handing it over to the first in the queue
    ///
    /// Handed over, a lock is never free as long as somebody waits in the queue, and programs that poll for it, as those do that
    /// use other libraries, may never get it. Where such programs share a busy lock with redsync, give this to every `run`,
    /// and to every `lock` and `unlock`.
    #[arg(long)]
    pub(crate) barging: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ExtendArgs {
    /// The line that `lock` printed, or `-` to read it from stdin
    pub(crate) lease: String,
    /// Another expiry than the lease's, from now on
    #[arg(long, value_name = "DUR", value_parser = duration::parse)]
    pub(crate) expiry: Option<Duration>,
}

#[derive(Debug, Args)]
pub(crate) struct UnlockArgs {
    /// The line that `lock` printed, or `-` to read it from stdin; with --force, the lock's name
    #[arg(value_name = "LEASE|NAME")]
    pub(crate) lease: String,
    /// Take the lock of this NAME away from whoever holds it
    #[arg(long)]
    pub(crate) force: bool,
    /// With --force: do not ask
    #[arg(long, requires = "force")]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) release: ReleaseArgs,
}

#[derive(Debug, Args)]
pub(crate) struct LsArgs {
    /// Which names [default: all of them]
    pub(crate) pattern: Option<String>,
    /// List keys, too, that may be locks of other libraries, or something else that expires
    #[arg(long)]
    pub(crate) all: bool,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// The lock's name
    pub(crate) name: String,
    /// Exit with 0 if the lock is held, 1 if it can be taken, 75 if neither is so at the moment (contended or withheld)
    ///
    /// Other codes are no answer: 69, 73, 77 and 78 as always, and 71 where redsync could not write its output or open files.
    #[arg(long)]
    pub(crate) exit_code: bool,
}

/// What becomes of the command when the lock is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnLost {
    /// It is ended, in time where that is possible; exit code 74
    Terminate,
    /// It goes on, after a warning; exit code 74 if it ends with 0, else its own
    Warn,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Switch {
    On,
    Off,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// The command line, checked.
pub(crate) fn parse() -> Result<Cli, clap::Error> {
    let words: Vec<OsString> = env::args_os().collect();
    let mut cli = Cli::try_parse_from(&words).map_err(unknown_option)?;
    let refused = |kind, message: &str| Err(Cli::command().error(kind, message));
    if cli.global.quiet && cli.global.verbose {
        return refused(ErrorKind::ArgumentConflict, "--quiet and --verbose cannot be used together");
    }
    if let Command::Run(run) = &mut cli.command
        && let Err(message) = run.settle(&words)
    {
        let mut command = Cli::command();
        let run = command.find_subcommand_mut("run");
        return Err(run
            .map_or_else(Cli::command, |run| run.clone())
            .error(ErrorKind::MissingRequiredArgument, message));
    }
    Ok(cli)
}

/// Where a command may follow, clap does not say which option was meant by one that is mistyped. Asked for that alone, it
/// does.
fn unknown_option(error: clap::Error) -> clap::Error {
    match (error.kind(), error.get(ContextKind::InvalidArg)) {
        (ErrorKind::UnknownArgument, Some(ContextValue::String(word))) if word.starts_with('-') => {
            let alone = Cli::try_parse_from(["redsync", "run", word]).err();
            alone.filter(|alone| alone.get(ContextKind::SuggestedArg).is_some()).unwrap_or(error)
        }
        _ => error,
    }
}

impl RunArgs {
    /// Checks that there is one command, and makes `-c TEXT` one. `words` are those of the whole command line.
    fn settle(&mut self, words: &[OsString]) -> Result<(), String> {
        let name = &self.name;
        // The command's words are the last ones. Where NAME follows `--`, the user meant it to be the command's first.
        let own = &words[..words.len().saturating_sub(self.command.len())];
        if self.shell.is_none() && own.iter().nth_back(1).is_some_and(|word| word == "--") {
            return Err(format!("there is no lock name before `--`; write `redsync run NAME -- {name} …`"));
        }
        match (self.shell.take(), self.command.first()) {
            (None, Some(_)) => {}
            (Some(text), None) => self.command = vec!["sh".into(), "-c".into(), text],
            (None, None) => {
                return Err(format!(
                    "there is no command to run under lock '{name}'; write `redsync run {name} COMMAND`, or \
                     `redsync run {name} -c 'SHELL TEXT'`"
                ));
            }
            (Some(_), Some(word)) => {
                return Err(format!(
                    "'{}' follows the lock's name, but -c TEXT is the whole command; put all of it into TEXT",
                    word.display()
                ));
            }
        }
        Ok(())
    }
}

/// A share between 0 and 1, neither of them included.
fn factor(text: &str) -> Result<f64, String> {
    let factor: f64 = text.parse().map_err(|_| "it is no number; write 0.05 for a twentieth".to_owned())?;
    if factor > 0.0 && factor < 1.0 { Ok(factor) } else { Err(format!("{factor} is not between 0 and 1")) }
}

/// Says what clap has to say: help where it was asked for, else what is wrong with the arguments, on one line.
pub(crate) fn explain(error: &clap::Error) -> Exit {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => match error.print() {
            Ok(()) => Exit::Success,
            Err(_) => Exit::Failure,
        },
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            Exit::Usage
        }
        _ => {
            let json =
                env::args_os().take_while(|argument| argument != "--").any(|argument| argument == "--json");
            Report::new(json, false).failure(&Failure::usage(message(error)))
        }
    }
}

/// clap's message without its layout, and without the passwords of URLs that stand in the wrong place.
fn message(error: &clap::Error) -> String {
    let text = masked(error.render().to_string());
    let (text, usage) = text.split_once("\n\nUsage:").unwrap_or((&text, ""));
    // The word after the program's name is a command's, or in brackets.
    let command =
        usage.split_whitespace().nth(1).filter(|word| word.starts_with(|c: char| c.is_ascii_lowercase()));
    let command = command.map(|command| format!("{command} ")).unwrap_or_default();
    let text = text.split("\n\nFor more information").next().unwrap_or_default();
    let text = text.strip_prefix("error: ").unwrap_or(text).replace("\n  tip: ", "\n\ntip: ");
    let paragraphs =
        text.split("\n\n").map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "));
    // Of an option that is mistyped, clap says how to give it as a name. That is not what was meant.
    let is_wanted = |paragraph: &String| !paragraph.is_empty() && !paragraph.starts_with("tip: to pass '-");
    let paragraphs: Vec<String> = paragraphs.filter(is_wanted).collect();
    format!("{} (redsync {command}--help tells more)", paragraphs.join("; "))
}

/// Without what may be a password in any argument, wherever it stands.
pub(crate) fn masked(mut text: String) -> String {
    for argument in env::args_os().skip(1) {
        let argument = argument.to_string_lossy();
        let value = argument.split_once('=').map_or("", |(_, value)| value);
        for suspect in [argument.as_ref(), value] {
            if ["@", "://", PARAMETER].iter().any(|sign| suspect.contains(sign)) {
                // What is left of a URL has no parameters; this is none.
                let shown = redacted(suspect);
                let shown = if shown.contains(PARAMETER) { "…" } else { &shown };
                text = text.replace(suspect, shown);
            }
        }
    }
    text
}

/// The password of a URL that has no other place for it.
const PARAMETER: &str = "password=";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definitions_are_sound() {
        Cli::command().debug_assert();
    }
}
