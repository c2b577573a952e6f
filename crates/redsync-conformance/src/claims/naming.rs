//! Names and tokens: any text, and never mistaken for each other.

use std::time::{Duration, Instant};

use redsync::{IfFree, LockName, Ticket, Token};

use crate::trial::{Client, Heard, LESS_LONG, LONG, LONGER, Owner, SECOND, SHORT, Trial, Verdict, Waiter};

pub(crate) async fn names_of_any_characters_and_lengths_work(trial: &Trial) -> Verdict {
    for text in ODD_TEXTS {
        let name = trial.fresh_prefix() + text;
        goes_through_everything(&trial.lock_named(&name).owner("holder")).await?;
    }
    for filler in ["n", "ñ", "名"] {
        let mut name = trial.fresh_prefix();
        fill(&mut name, filler, LockName::MAX_BYTES);
        goes_through_everything(&trial.lock_named(&name).owner("holder")).await?;
    }
    Ok(())
}

pub(crate) async fn tokens_of_any_characters_and_lengths_work(trial: &Trial) -> Verdict {
    for text in ODD_TEXTS {
        goes_through_everything(&trial.lock().owner_with(token(text))).await?;
    }
    for filler in ["t", "ť", "字"] {
        let mut text = String::new();
        fill(&mut text, filler, Token::MAX_BYTES);
        goes_through_everything(&trial.lock().owner_with(token(&text))).await?;
    }
    Ok(())
}

pub(crate) async fn names_that_look_alike_are_different_locks(trial: &Trial) -> Verdict {
    for alike in LOOK_ALIKES {
        let prefix = trial.fresh_prefix();
        let owners: Vec<Owner> =
            alike.iter().map(|text| trial.lock_named(&format!("{prefix}{text}")).owner("holder")).collect();
        each_holds_alone(&owners).await?;
    }
    let mut long = trial.fresh_prefix();
    fill(&mut long, "n", LockName::MAX_BYTES - 1);
    let owners = ["", "1", "2"].map(|end| trial.lock_named(&format!("{long}{end}")).owner("holder"));
    each_holds_alone(&owners).await
}

pub(crate) async fn tokens_that_look_alike_are_different_owners(trial: &Trial) -> Verdict {
    let mut long = String::new();
    fill(&mut long, "t", Token::MAX_BYTES - 1);
    let long = ["", "1", "2"].map(|end| format!("{long}{end}"));
    let long: Vec<&str> = long.iter().map(String::as_str).collect();
    for alike in LOOK_ALIKES.iter().copied().chain([&*long]) {
        let lock = trial.lock();
        for holder in alike {
            let holder = lock.owner_with(token(holder));
            let lease = holder.is_granted(LONG).await?;
            for other in alike.iter().map(|other| token(other)).filter(|other| other != holder.token()) {
                let other = lock.owner_with(other);
                other.is_refused(LONGER, &lease).await?;
                other.cannot_extend(LONGER, IfFree::Retake, &lease).await?;
                other.cannot_release(&lease).await?;
            }
            lease.is_running().await?;
            holder.releases().await?;
        }
    }
    Ok(())
}

pub(crate) async fn where_a_name_ends_and_a_token_begins_is_clear(trial: &Trial) -> Verdict {
    for separator in ["", ":", " ", "/", "\0", "\n"] {
        let prefix = trial.fresh_prefix();
        let long = trial.lock_named(&format!("{prefix}a{separator}b")).owner_with(token("c"));
        let short = trial.lock_named(&format!("{prefix}a")).owner_with(token(&format!("b{separator}c")));
        each_holds_alone(&[long, short]).await?;
    }
    Ok(())
}

pub(crate) async fn one_token_holds_each_name_on_its_own(trial: &Trial) -> Verdict {
    let first = trial.lock().owner("holder");
    let second = trial.lock().owner_with(first.token().clone());
    let third = trial.lock().owner_with(first.token().clone());
    let lease = first.is_granted(LONG).await?;
    third.has_nothing_to_release().await?;
    third.has_nothing_to_extend().await?;
    let brief = second.is_granted(SHORT).await?;
    lease.is_running().await?;
    brief.runs_out().await?;
    lease.is_running().await
}

pub(crate) async fn lines_for_names_of_any_characters_and_lengths_work(trial: &Trial) -> Verdict {
    let client = trial.client();
    for text in ODD_TEXTS {
        let name = trial.fresh_prefix() + text;
        waits_its_turn(&client.waiter(&trial.lock_named(&name), "waiter", 10)).await?;
    }
    for filler in ["n", "ñ", "名"] {
        let mut name = trial.fresh_prefix();
        fill(&mut name, filler, LockName::MAX_BYTES);
        waits_its_turn(&client.waiter(&trial.lock_named(&name), "waiter", 10)).await?;
    }
    Ok(())
}

pub(crate) async fn waiters_with_tokens_of_any_characters_and_lengths_work(trial: &Trial) -> Verdict {
    let client = trial.client();
    for text in ODD_TEXTS {
        let owner = trial.lock().owner_with(token(text));
        waits_its_turn(&client.waiter_as(owner, Ticket::from_micros(10))).await?;
    }
    for filler in ["t", "ť", "字"] {
        let mut text = String::new();
        fill(&mut text, filler, Token::MAX_BYTES);
        let owner = trial.lock().owner_with(token(&text));
        waits_its_turn(&client.waiter_as(owner, Ticket::from_micros(10))).await?;
    }
    Ok(())
}

pub(crate) async fn names_that_look_alike_have_different_lines(trial: &Trial) -> Verdict {
    let client = trial.client();
    for alike in LOOK_ALIKES {
        let prefix = trial.fresh_prefix();
        let names = alike.iter().map(|text| format!("{prefix}{text}"));
        each_has_a_line_of_its_own(trial, &client, names).await?;
    }
    each_has_a_line_of_its_own(trial, &client, braced(&trial.fresh_prefix())).await?;
    let mut long = trial.fresh_prefix();
    fill(&mut long, "n", LockName::MAX_BYTES - 1);
    each_has_a_line_of_its_own(trial, &client, ["", "1", "2"].iter().map(|end| format!("{long}{end}"))).await
}

pub(crate) async fn tokens_that_look_alike_have_different_places(trial: &Trial) -> Verdict {
    let client = trial.client();
    for alike in LOOK_ALIKES {
        let lock = trial.lock();
        let holder = lock.owner("holder");
        let lease = holder.is_granted(LONGER).await?;
        let queue: Vec<Waiter> = (10..)
            .zip(*alike)
            .map(|(ticket, text)| client.waiter_as(lock.owner_with(token(text)), Ticket::from_micros(ticket)))
            .collect();
        for (waiter, position) in queue.iter().zip(1..) {
            waiter.is_queued(LONG, position, &lease).await?;
        }
        lock.is_waited_for_by(&queue.iter().collect::<Vec<_>>()).await?;
        let mut holder = &holder;
        for next in &queue {
            let asked = Instant::now();
            holder.releases().await?;
            next.was_handed_it(LONG, asked).await?;
            next.comes_to_know(LONG).await?;
            holder = next.owner();
        }
        holder.releases().await?;
        lock.is_deserted().await?;
    }
    Ok(())
}

pub(crate) async fn where_a_token_ends_and_a_name_begins_is_clear_in_a_grant(trial: &Trial) -> Verdict {
    let client = trial.client();
    for separator in ["", ":", " ", "/", "\0", "\n", "1:", "freed:"] {
        let prefix = trial.fresh_prefix();
        let [short, long] =
            [prefix.clone(), format!("{separator}{prefix}")].map(|name| trial.lock_named(&name));
        for (lock, text) in [(&long, "token".to_owned()), (&short, format!("token{separator}"))] {
            waits_its_turn(&client.waiter_as(lock.owner_with(token(&text)), Ticket::from_micros(10))).await?;
        }
    }
    Ok(())
}

pub(crate) async fn counters_for_names_of_any_characters_and_lengths_work(trial: &Trial) -> Verdict {
    let mut names: Vec<String> = ODD_TEXTS.iter().map(|text| trial.fresh_prefix() + text).collect();
    for filler in ["n", "ñ", "名"] {
        let mut name = trial.fresh_prefix();
        fill(&mut name, filler, LockName::MAX_BYTES);
        names.push(name);
    }
    each_has_a_counter_of_its_own(trial, names.into_iter()).await
}

pub(crate) async fn names_that_look_alike_have_different_counters(trial: &Trial) -> Verdict {
    for alike in LOOK_ALIKES {
        let prefix = trial.fresh_prefix();
        each_has_a_counter_of_its_own(trial, alike.iter().map(|text| format!("{prefix}{text}"))).await?;
    }
    each_has_a_counter_of_its_own(trial, braced(&trial.fresh_prefix())).await?;
    let mut long = trial.fresh_prefix();
    fill(&mut long, "n", LockName::MAX_BYTES - 1);
    each_has_a_counter_of_its_own(trial, ["", "1", "2"].iter().map(|end| format!("{long}{end}"))).await
}

/// Every request of one who waits, with this name and this token.
async fn waits_its_turn(waiter: &Waiter) -> Verdict {
    let (lock, holder) = (waiter.lock(), waiter.lock().owner("holder"));
    let lease = holder.is_granted(LONGER).await?;
    waiter.is_queued(LONG, 1, &lease).await?;
    lock.is_waited_for_by(&[waiter]).await?;
    let asked = Instant::now();
    holder.releases().await?;
    waiter.was_handed_it(LONG, asked).await?;
    waiter.comes_to_know(LONG).await?;
    waiter.yields_in_vain(LESS_LONG).await?.is_running().await?;
    waiter.owner().releases().await?;
    waiter.is_admitted(LONG).await?;
    waiter.owner().releases().await?;
    let lease = holder.is_granted(LONGER).await?;
    waiter.is_queued(LONG, 1, &lease).await?;
    waiter.owner().leaves_the_queue().await?;
    waiter.is_queued(LONG, 1, &lease).await?;
    holder.lets_go().await?;
    waiter.client().is_told(&Heard::Freed(lock.name().clone())).await?;
    waiter.owner().leaves_the_queue().await?;
    lock.is_deserted().await
}

/// One waits for each, and is in that queue alone.
async fn each_has_a_line_of_its_own(
    trial: &Trial,
    client: &Client,
    names: impl Iterator<Item = String>,
) -> Verdict {
    let mut queue = Vec::new();
    for name in names {
        let lock = trial.lock_named(&name);
        lock.is_deserted().await?;
        let lease = lock.owner("holder").is_granted(LONGER).await?;
        let waiter = client.waiter(&lock, "waiter", 10);
        waiter.is_queued(LONG, 1, &lease).await?;
        queue.push((lease, waiter));
    }
    for (_, waiter) in &queue {
        waiter.lock().is_waited_for_by(&[waiter]).await?;
    }
    for (gone, (lease, waiter)) in queue.iter().enumerate() {
        let asked = Instant::now();
        lease.owner().releases().await?;
        waiter.was_handed_it(LONG, asked).await?;
        waiter.comes_to_know(LONG).await?;
        waiter.owner().releases().await?;
        waiter.lock().is_deserted().await?;
        for (lease, waiter) in &queue[gone + 1..] {
            lease.is_running().await?;
            waiter.lock().is_waited_for_by(&[waiter]).await?;
        }
    }
    Ok(())
}

/// Each counts on its own, by acquiring, by extending and by handing over.
async fn each_has_a_counter_of_its_own(trial: &Trial, names: impl Iterator<Item = String>) -> Verdict {
    const STEP: u64 = 10_000;
    let (client, mut counted) = (trial.client(), Vec::new());
    // More than what any of them begins at, on the slowest of machines.
    let least = trial.node_micros().await? + 3_600 * SECOND;
    for (name, number) in names.zip(1..) {
        let lock = trial.lock_named(&name);
        lock.is_counted_to(None).await?;
        let holder = lock.owner("holder").proposing(1);
        holder.is_fenced().await?;
        holder.proposing(least + number * STEP).extends_at(least + number * STEP).await?;
        counted.push((holder, least + number * STEP));
    }
    for (holder, fence) in &mut counted {
        holder.lock().is_counted_to(Some(*fence)).await?;
        let waiter = client.waiter(holder.lock(), "waiter", 10).proposing(1);
        waiter.enter(LONG).await?;
        holder.releases().await?;
        *fence = waiter.is_handed_a_fence().await?;
        waiter.owner().releases().await?;
    }
    for (holder, fence) in &counted {
        holder.lock().is_counted_to(Some(*fence)).await?;
    }
    Ok(())
}

/// Every request, with this name and this token.
async fn goes_through_everything(holder: &Owner) -> Verdict {
    let lock = holder.lock();
    holder.is_granted(LONG).await?.is_running().await?;
    let lease = holder.extends(LONGER, IfFree::Leave).await?;
    lease.is_running().await?;
    lock.owner("other").is_refused(LONG, &lease).await?;
    holder.releases().await?;
    lock.is_free().await?;
    holder.retakes(LONG).await?.is_running().await?;
    holder.releases().await
}

/// All can hold at the same time, and one that goes leaves the others.
async fn each_holds_alone(owners: &[Owner]) -> Verdict {
    let mut leases = Vec::with_capacity(owners.len());
    for (owner, seconds) in owners.iter().zip((60..).step_by(30)) {
        owner.lock().is_free().await?;
        leases.push(owner.is_granted(Duration::from_secs(seconds)).await?);
    }
    for (gone, owner) in owners.iter().enumerate() {
        for lease in &leases[gone..] {
            lease.is_running().await?;
        }
        owner.releases().await?;
        owner.lock().is_free().await?;
    }
    Ok(())
}

/// Names that differ in where a hash tag is, which decides on where a server keeps what belongs to a lock.
fn braced(name: &str) -> impl Iterator<Item = String> {
    ["{name}", "name", "{{name}}", "{name}}", "{}name", "{}{name}", "name{}", "{name}line", "}name{"]
        .map(|text| text.replace("name", name))
        .into_iter()
}

fn token(text: &str) -> Token {
    Token::from_text(text).expect("a clause's tokens are neither empty nor too long")
}

/// Appends `filler` until no more of it fits into `bytes`, and then dots.
fn fill(text: &mut String, filler: &str, bytes: usize) {
    while text.len() + filler.len() <= bytes {
        text.push_str(filler);
    }
    text.push_str(&".".repeat(bytes - text.len()));
}

/// What quoting, formatting and splitting go wrong over.
const ODD_TEXTS: &[&str] = &[
    " ",
    " with blanks ",
    "'single' \"double\" `back`",
    "'; DROP TABLE leases; --",
    "back\\slash\\",
    "two\r\nlines\n",
    "tab\tand\u{7}bell\u{1b}[31m",
    "nul\0inside\0",
    "{tag}after",
    "before{tag}",
    "{}empty{}",
    "un}balanced{",
    "1:2:three",
    ":",
    "freed:all",
    "100%",
    "%s%n%d%00",
    "a/../b/./c",
    "*?[a-z]",
    "$1 ${x} $(x)",
    "-1",
    "0",
    "NULL",
    "nil",
    "größe",
    "名前",
    "שלום",
    "👩‍👩‍👧 🔒",
    "\u{feff}bom\u{200b}\u{202e}",
    "\u{10ffff}",
];

/// Texts that careless comparisons take for the same: prefixes, letter case, blanks, C strings, numbers, patterns,
/// paths, hash tags, Unicode normal forms.
const LOOK_ALIKES: &[&[&str]] = &[
    &["a", "ab", "abc"],
    &["c", "bc"],
    &["lock", "Lock", "LOCK"],
    &["straße", "strasse", "STRASSE"],
    &["a", "a ", " a", "a\t", "a\n", "a\r\n"],
    &["a", "a\0", "a\0b", "a\0c"],
    &["1", "01", "1.0", "1e0", "+1", " 1"],
    &["9007199254740992", "9007199254740993"],
    &["%", "_", "*", "?", "a"],
    &["a/b", "a//b", "a/./b", "/a/b", "a/b/"],
    &["{tag}", "tag", "{tag}a", "{tag}b"],
    &["\u{e9}", "e\u{301}", "e"],
    &["a", "а"],
    &["%41", "A", "a"],
    &["\\n", "\n", "n"],
];
