//! The tables and examples of the help, from which `--help` and the manual page are made.

use std::fmt::Write;

use crate::exit;

/// Words, and what they mean.
pub(crate) type Table = &'static [(&'static str, &'static str)];

/// What to type, and what for.
pub(crate) struct Example {
    pub(crate) purpose: &'static str,
    pub(crate) script: &'static str,
}

/// A test runs each of them, with commands that succeed, with commands that fail, and while the lock is taken.
pub(crate) const EXAMPLES: &[Example] = &[
    Example {
        purpose: "Run a backup on one machine at a time. Another machine waits for its turn.",
        script: "redsync run backup pg_dump -f /backup/db.dump",
    },
    Example {
        purpose: "Make a report, unless another machine does so now.",
        script: "redsync run --try --node redis://10.0.0.1 nightly-report make report",
    },
    Example {
        purpose: "From cron: do nothing, and write no mail, while another machine holds the lock.",
        script: "redsync run --quiet --try -E 0 backup ./backup.sh",
    },
    Example {
        purpose: "Run a text by the shell, and wait for ten minutes at most.",
        script: "redsync run --wait 10m deploy -c './deploy && ./smoke-test'",
    },
    LOCK,
    Example { purpose: "Who holds the lock, and who waits for it?", script: "redsync status backup" },
    Example { purpose: "Which locks are held?", script: "redsync ls 'nightly-*'" },
];

/// How a script takes a lock, and releases it in the end, whatever comes in between.
const LOCK: Example = Example {
    purpose: "Hold a lock for several commands of a script, for an hour at most. The script ends here \
              if it does not get the lock, and releases the lock when it ends.",
    script: "\
lease=$(redsync lock deploy --expiry 1h --wait 1m) || exit
trap 'redsync unlock \"$lease\" || exit 1' EXIT
./deploy && ./smoke-test",
};

/// Variables that the command reads, and those that it sets.
pub(crate) const ENVIRONMENT: Table = &[
    (
        "REDSYNC_NODES",
        "The nodes, where no --node is given: separated by commas, semicolons, blanks or newlines. In a password, a \
         comma is written %2C. Without either, locks are kept in a file and hold for this user on this machine only. \
         Set, but naming no node, is an error.",
    ),
    ("REDSYNC_MACHINE", "1 stands for --machine, where neither --node nor --machine is given."),
    ("REDSYNC_RESTART_GUARD", "on or off, where no --restart-guard is given."),
    (
        "REDSYNC_CONFIRM_GRANTS",
        "on: a waiter asks the node before it believes that the lock was handed to it. For servers on which others may \
         publish; it costs one round trip more for each hand-over.",
    ),
    ("XDG_STATE_HOME, HOME", "Where that file is: see Files."),
    (
        "REDSYNC_NAME, REDSYNC_TOKEN, REDSYNC_FENCE",
        "Set for the command that `run` starts: the lock's name, the holder's token, and its fence. A fence is \
         a number that grows from holder to holder; with --no-fence there is none.",
    ),
    (
        "REDSYNC_HELD",
        "Set for the command, too: the names and tokens of all locks that it runs under, as JSON. Waiting for one of \
         these without --wait is refused, since it would never end.",
    ),
];

pub(crate) const FILES: Table = &[
    (
        "$XDG_STATE_HOME/redsync/locks.db",
        "The locks of this user on this machine, where no nodes are named. Without XDG_STATE_HOME, the file is in \
         ~/.local/state/redsync.",
    ),
    (
        "/run/lock/redsync/",
        "With --machine: the locks of all users of this machine. A restart of the machine ends them.",
    ),
];

pub(crate) const SEE_ALSO: &str = concat!(
    "flock(1), sh(1), redis-server(1), and ",
    env!("CARGO_PKG_REPOSITORY"),
    " for the library, the guarantees and the operator's guide."
);

/// How the options with a DUR are written.
pub(crate) const DURATIONS: &str =
    "DUR is a number and its unit, ms, s, m or h: 500ms, 8s, 1.5s, 10m, 1h, 1m30s.";

/// What follows the options in `redsync --help`.
pub(crate) fn after_all() -> String {
    let examples: Vec<String> = EXAMPLES.iter().map(example).collect();
    format!(
        "Examples:\n{}\nDurations:\n{}\nExit codes:\n{}\nEnvironment:\n{}\nFiles:\n{}",
        examples.join("\n"),
        paragraph(DURATIONS, "  "),
        table(exit::CODES),
        table(ENVIRONMENT),
        table(FILES),
    )
}

/// What follows the options in `redsync lock --help`.
pub(crate) fn after_lock() -> String {
    format!("{DURATIONS}\n\nExamples:\n{}", example(&LOCK))
}

fn example(example: &Example) -> String {
    let lines = example.script.lines().map(|line| format!("  {line}\n"));
    format!("{}{}", paragraph(example.purpose, "  # "), lines.collect::<String>())
}

/// A row for each word; a long word has a line of its own.
fn table(rows: Table) -> String {
    let mut text = String::new();
    for (word, meaning) in rows {
        let meaning = paragraph(meaning, MARGIN);
        let meaning = match MARGIN.len().checked_sub(word.len() + 4) {
            Some(gap) => format!("{:gap$}  {}", "", meaning.trim_start()),
            None => format!("\n{meaning}"),
        };
        let _ = write!(text, "  {word}{meaning}");
    }
    text
}

/// `text` in lines that begin with `margin` and fit a terminal of 80 columns.
fn paragraph(text: &str, margin: &str) -> String {
    let mut lines = String::new();
    let mut line = margin.to_owned();
    for word in text.split_whitespace() {
        if line.len() > margin.len() && line.len() + 1 + word.len() > WIDTH {
            let _ = writeln!(lines, "{line}");
            margin.clone_into(&mut line);
        }
        if line.len() > margin.len() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines + &line + "\n"
}

const WIDTH: usize = 79;

/// Where the second column of a table begins.
const MARGIN: &str = "                    ";
