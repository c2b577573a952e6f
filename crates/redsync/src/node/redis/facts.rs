//! What a server says of itself: who it is, since when it remembers, and what makes it unfit to hold locks.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::client::Command;
use crate::node::{NodeFault, Remedy};
use crate::protocol::words::clean;

/// What a server said of itself when it was asked.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// New each time the server starts.
    run_id: String,
    /// The history of data that the server is part of. A promotion begins a new one.
    replication_id: String,
    is_replica: bool,
    /// It is part of a cluster.
    pub(super) is_cluster: bool,
    /// It was a replica before, of a server that may have granted what never reached it; or a primary that restarted with
    /// its data. Which of them, it does not say.
    has_former_history: bool,
    /// The latest instant that the server can have started at. On the runtime's clock, which stands still during suspend:
    /// that only makes it look younger.
    started: Instant,
    /// Since when it is in the place that it has, where it took that over from another or was promoted to it.
    took_over: Option<Instant>,
    pub(super) health_warnings: Vec<String>,
}

impl Facts {
    /// The sections of INFO that [`read`](Self::read) takes, in its order.
    pub(super) fn questions() -> [Command; 3] {
        ["server", "replication", "memory"].map(|section| Command::new("INFO").arg(section))
    }

    /// The facts in the answers to [`questions`](Self::questions), all of which had come at `now`. `None` where the
    /// server does not say since when it is up.
    pub(super) fn read(answers: &[String; 3], now: Instant) -> Option<Self> {
        let [server, replication, memory] = answers;
        let uptime: u64 = field(server, "uptime_in_seconds")?.parse().ok()?;
        let replication_id = field(replication, "master_replid").unwrap_or_default();
        // Zeros where there was none.
        let former = field(replication, "master_replid2").unwrap_or_default();
        Some(Self {
            run_id: field(server, "run_id")?.to_owned(),
            replication_id: replication_id.to_owned(),
            is_replica: field(replication, "role") == Some("slave"),
            // Valkey has its own word for it.
            is_cluster: ["redis_mode", "server_mode"]
                .iter()
                .any(|mode| field(server, mode) == Some("cluster")),
            has_former_history: former.bytes().any(|digit| digit != b'0'),
            // SAFETY RULE (protocol §10): whole seconds are counted conservatively. The server takes its start and the time
            // in whole seconds both, so up to one of those it counts has not passed.
            started: now
                .checked_sub(Duration::from_secs(uptime.saturating_sub(1)))
                .unwrap_or_else(|| earliest(now)),
            took_over: None,
            health_warnings: health_warnings(replication, memory),
        })
    }

    /// The facts with what was known of the same node before, whose server was last alive at `alive`.
    ///
    /// SAFETY RULE (protocol §10): a server that took the place of another, or was promoted to it, remembers nothing of what
    /// was granted there before.
    fn after(mut self, earlier: &Self, alive: Instant, now: Instant) -> Self {
        let is_promoted = earlier.is_replica && !self.is_replica;
        if self.run_id != earlier.run_id {
            // One that restarted in its place started after it was last seen alive. What claims to be older is another
            // server; or its clock was set ahead, and what it says of its age is worth nothing.
            let is_restarted = self.started >= alive && !is_promoted && !self.has_former_history;
            self.took_over = (!is_restarted).then_some(now);
        } else if is_promoted || self.replication_id != earlier.replication_id {
            self.took_over = Some(now);
        } else {
            // Both sights are true; the earlier is the closer one.
            self.started = self.started.min(earlier.started);
            self.took_over = earlier.took_over;
        }
        self
    }

    /// For how long the server has certainly remembered all leases that were granted in its place.
    pub(super) fn uptime(&self, now: Instant) -> Duration {
        // What a replica grants, it grants because it has just been promoted.
        let since =
            if self.is_replica { now } else { self.took_over.unwrap_or(self.started).max(self.started) };
        now.saturating_duration_since(since)
    }

    pub(super) const fn is_replica(&self) -> bool {
        self.is_replica
    }
}

/// What is known of a node's server.
#[derive(Debug, Default)]
pub(super) struct Seen(Mutex<History>);

#[derive(Debug, Default)]
struct History {
    /// What it said the last time that it was asked; nothing where it refused.
    last: Option<Arc<Facts>>,
    /// What it, or one before it in its place, said the last time that it said something; and when it was last alive.
    known: Option<(Arc<Facts>, Instant)>,
}

impl Seen {
    /// Takes down what the server says now; nothing where it refuses to say.
    pub(super) fn note(&self, facts: Option<Facts>) -> Option<Arc<Facts>> {
        let now = Instant::now();
        let mut history = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        history.last = facts.map(|facts| {
            Arc::new(match &history.known {
                Some((earlier, alive)) => facts.after(earlier, *alive, now),
                None => facts,
            })
        });
        if let Some(facts) = &history.last {
            history.known = Some((Arc::clone(facts), now));
        }
        history.last.clone()
    }

    /// Takes down that the connection to the server has come to its end: until now, it may have been alive.
    pub(super) fn note_end(&self) {
        let mut history = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, alive)) = &mut history.known {
            *alive = Instant::now();
        }
    }

    pub(super) fn last(&self) -> Option<Arc<Facts>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).last.clone()
    }
}

/// Why what answered to `INFO server` keeps no locks, whoever asks.
pub(super) fn no_store(server: &str) -> Option<NodeFault> {
    let mode = ["redis_mode", "server_mode"].iter().find_map(|mode| field(server, mode));
    (mode == Some("sentinel")).then(|| {
        NodeFault::unreachable(
            "a Sentinel answers there, which keeps no locks: name the server that it watches (ask it: SENTINEL masters)",
        )
        .with_remedy(Remedy::Node)
    })
}

/// For a server that has been up for longer than this machine can count back.
fn earliest(now: Instant) -> Instant {
    let reachable = (0..40).rev().map(|power| Duration::from_secs(1 << power));
    reachable.fold(now, |instant, step| instant.checked_sub(step).unwrap_or(instant))
}

/// The value of `name` in an answer to INFO.
pub(super) fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    let mut fields = info.lines().filter_map(|line| line.split_once(':'));
    fields.find_map(|(field, value)| (field == name).then(|| value.trim()))
}

/// So much of what a server says of itself is passed on, in characters.
const SHOWN: usize = 100;

fn health_warnings(replication: &str, memory: &str) -> Vec<String> {
    let mut health_warnings = Vec::new();
    if field(replication, "role") == Some("slave") {
        let primary = clean(field(replication, "master_host").unwrap_or("another server"), SHOWN);
        let port = field(replication, "master_port").map(|port| format!(":{}", clean(port, SHOWN)));
        let port = port.unwrap_or_default();
        health_warnings.push(format!(
            "it is a replica of {primary}{port}, and grants nothing; name a server that is independent of all others"
        ));
    }
    let is_limited = field(memory, "maxmemory").is_some_and(|limit| limit != "0");
    if let Some(policy) = field(memory, "maxmemory_policy")
        && is_limited
        && policy != "noeviction"
    {
        let policy = clean(policy, SHOWN);
        health_warnings.push(format!(
            "it drops keys when its memory is full, locks among them (maxmemory-policy {policy}); set noeviction"
        ));
    }
    health_warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn facts(run_id: &str, uptime: u64, role: &str, now: Instant) -> Facts {
        let server = format!("# Server\r\nrun_id:{run_id}\r\nuptime_in_seconds:{uptime}\r\n");
        let replication = format!("role:{role}\r\nmaster_replid:0123\r\n");
        Facts::read(&[server, replication, String::new()], now).unwrap()
    }

    /// An instant that has a past, whenever the machine was started.
    fn now() -> Instant {
        Instant::now() + Duration::from_secs(1_000)
    }

    #[test]
    fn whole_seconds_are_counted_conservatively() {
        let now = now();
        assert_eq!(facts("a", 0, "master", now).uptime(now), Duration::ZERO);
        assert_eq!(facts("a", 1, "master", now).uptime(now), Duration::ZERO);
        assert_eq!(facts("a", 10, "master", now).uptime(now + SECOND / 2), 9 * SECOND + SECOND / 2);
    }

    #[test]
    fn a_server_that_has_been_up_for_ages_remembers_as_far_as_can_be_counted() {
        let now = now();
        assert!(facts("a", u64::MAX, "master", now).uptime(now) >= 1_000 * SECOND);
    }

    #[test]
    fn a_server_that_says_nothing_of_its_uptime_is_not_guessed_at() {
        let answers = ["run_id:a\r\n".into(), String::new(), String::new()];
        assert!(Facts::read(&answers, now()).is_none());
    }

    #[test]
    fn the_same_server_seen_again_keeps_the_closer_sight() {
        let first = now();
        let earlier = facts("a", 10, "master", first);
        // Rounded down, the second sight would make it a little younger.
        let again = facts("a", 10, "master", first + SECOND).after(&earlier, first, first + SECOND);
        assert_eq!(again.uptime(first + SECOND), 10 * SECOND);
    }

    #[test]
    fn a_restarted_server_counts_from_its_start() {
        let died = now();
        let earlier = facts("a", 500, "master", died - 100 * SECOND);
        let seen = died + 10 * SECOND;
        let restarted = facts("b", 9, "master", seen).after(&earlier, died, seen);
        assert_eq!(restarted.uptime(seen), 8 * SECOND);
    }

    #[test]
    fn a_server_that_was_up_before_the_one_in_its_place_had_ended_counts_from_when_it_was_seen_there() {
        let died = now();
        let earlier = facts("a", 500, "master", died - 100 * SECOND);
        let seen = died + 10 * SECOND;
        let another = facts("b", 900, "master", seen).after(&earlier, died, seen);
        assert_eq!(another.uptime(seen), Duration::ZERO);
    }

    #[test]
    fn a_server_that_was_promoted_while_nobody_looked_counts_from_when_it_was_seen() {
        let (last_seen, now) = (now(), now() + 600 * SECOND);
        let earlier = facts("a", 500, "master", last_seen);
        let promoted = Facts { has_former_history: true, ..facts("b", 500, "master", now) };
        assert_eq!(promoted.after(&earlier, last_seen, now).uptime(now), Duration::ZERO);
    }

    #[test]
    fn a_promoted_replica_counts_from_when_it_was_seen_as_such_and_still_does_when_it_is_seen_again() {
        let first = now();
        let replica = facts("a", 500, "slave", first);
        assert_eq!(replica.uptime(first), Duration::ZERO, "what it grants, it grants as a primary");
        let promoted = facts("a", 501, "master", first + SECOND).after(&replica, first, first + SECOND);
        assert_eq!(promoted.uptime(first + SECOND), Duration::ZERO);
        let again = facts("a", 503, "master", first + 3 * SECOND).after(
            &promoted,
            first + 2 * SECOND,
            first + 3 * SECOND,
        );
        assert_eq!(again.uptime(first + 3 * SECOND), 2 * SECOND);
    }

    #[test]
    fn a_refusal_to_speak_does_not_make_the_past_forgotten() {
        let seen = Seen::default();
        seen.note(Some(facts("a", 500, "slave", Instant::now())));
        assert!(seen.note(None).is_none());
        let promoted = seen.note(Some(facts("a", 500, "master", Instant::now()))).unwrap();
        assert!(promoted.uptime(Instant::now()) < SECOND);
    }

    #[test]
    fn a_limit_of_memory_is_a_health_warning_only_where_keys_are_dropped_for_it() {
        let memory = |limit, policy| {
            health_warnings("", &format!("maxmemory:{limit}\r\nmaxmemory_policy:{policy}\r\n"))
        };
        assert_eq!(memory("0", "allkeys-lru").len(), 0);
        assert_eq!(memory("1000", "noeviction").len(), 0);
        assert_eq!(
            memory("1000", "volatile-ttl"),
            [
                "it drops keys when its memory is full, locks among them (maxmemory-policy volatile-ttl); set noeviction"
            ]
        );
    }
}
