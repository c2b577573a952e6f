//! What a server says of itself: who it is, since when it remembers, and what makes it unfit to hold locks.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::client::Command;

/// What a server said of itself when it was connected to.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// New each time the server starts.
    run_id: String,
    /// The history of data that the server is part of. A promotion begins a new one.
    replication_id: String,
    is_replica: bool,
    /// It was a replica before, of a server that may have granted what never reached it.
    was_promoted: bool,
    /// The latest instant that its memory of leases can have begun at. On the runtime's clock, which stands still during
    /// suspend: that only makes the uptime look shorter.
    remembers_since: Instant,
    pub(super) concerns: Vec<String>,
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
        // The second id is the history that a promoted server was a replica in; zeros where there was none.
        let former = field(replication, "master_replid2").unwrap_or_default();
        Some(Self {
            run_id: field(server, "run_id")?.to_owned(),
            replication_id: replication_id.to_owned(),
            is_replica: field(replication, "role") == Some("slave"),
            was_promoted: former.bytes().any(|digit| digit != b'0'),
            // SAFETY RULE (design §11): whole seconds are counted conservatively. The server takes its start and the time
            // in whole seconds both, so up to one of those it counts has not passed.
            remembers_since: now
                .checked_sub(Duration::from_secs(uptime.saturating_sub(1)))
                .unwrap_or_else(|| earliest(now)),
            concerns: concerns(replication, memory),
        })
    }

    /// The facts with what was seen of the same node before: where another server has taken its place, or it was promoted,
    /// it remembers since then at the earliest.
    fn after(mut self, earlier: &Self, now: Instant) -> Self {
        let is_same = self.run_id == earlier.run_id && self.replication_id == earlier.replication_id;
        let took_over = (earlier.is_replica || !is_same) && self.was_promoted && !self.is_replica;
        if is_same && !earlier.is_replica {
            // Both are true of one incarnation; the earlier sight is the closer one.
            self.remembers_since = self.remembers_since.min(earlier.remembers_since);
        } else if took_over || (earlier.is_replica && !self.is_replica) {
            self.remembers_since = now;
        }
        self
    }

    pub(super) const fn is_replica(&self) -> bool {
        self.is_replica
    }

    /// For how long the server has certainly remembered all leases.
    pub(super) fn uptime(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.remembers_since)
    }
}

/// What a node's server said of itself, the last time that it was asked.
#[derive(Debug, Default)]
pub(super) struct Seen(Mutex<Option<Arc<Facts>>>);

impl Seen {
    /// Takes down what the server says now; nothing where it refuses to say.
    pub(super) fn note(&self, facts: Option<Facts>) -> Option<Arc<Facts>> {
        let now = Instant::now();
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *seen = facts.map(|facts| {
            Arc::new(match &*seen {
                Some(earlier) => facts.after(earlier, now),
                None => facts,
            })
        });
        seen.clone()
    }

    pub(super) fn last(&self) -> Option<Arc<Facts>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
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

fn concerns(replication: &str, memory: &str) -> Vec<String> {
    let mut concerns = Vec::new();
    if field(replication, "role") == Some("slave") {
        let primary = field(replication, "master_host").unwrap_or("another server");
        let port = field(replication, "master_port").map(|port| format!(":{port}")).unwrap_or_default();
        concerns.push(format!(
            "it is a replica of {primary}{port}, and grants nothing; name a server that is independent of all others"
        ));
    }
    let is_limited = field(memory, "maxmemory").is_some_and(|limit| limit != "0");
    if let Some(policy) = field(memory, "maxmemory_policy")
        && is_limited
        && policy != "noeviction"
    {
        concerns.push(format!(
            "it drops keys when its memory is full, locks among them (maxmemory-policy {policy}); set noeviction"
        ));
    }
    concerns
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn facts(run_id: &str, uptime: u64, role: &str, former: &str, now: Instant) -> Facts {
        let server = format!("# Server\r\nrun_id:{run_id}\r\nuptime_in_seconds:{uptime}\r\n");
        let replication = format!("role:{role}\r\nmaster_replid:{run_id}\r\nmaster_replid2:{former}\r\n");
        Facts::read(&[server, replication, String::new()], now).unwrap()
    }

    /// An instant that has a past, whenever the machine was started.
    fn now() -> Instant {
        Instant::now() + Duration::from_secs(1_000)
    }

    #[test]
    fn whole_seconds_are_counted_conservatively() {
        let now = now();
        assert_eq!(facts("a", 0, "master", "000", now).uptime(now), Duration::ZERO);
        assert_eq!(facts("a", 1, "master", "000", now).uptime(now), Duration::ZERO);
        assert_eq!(facts("a", 10, "master", "000", now).uptime(now + SECOND / 2), 9 * SECOND + SECOND / 2);
    }

    #[test]
    fn a_server_that_has_been_up_for_ages_remembers_as_far_as_can_be_counted() {
        let now = now();
        assert!(facts("a", u64::MAX, "master", "000", now).uptime(now) >= 1_000 * SECOND);
    }

    #[test]
    fn a_server_that_says_nothing_of_its_uptime_is_not_guessed_at() {
        let answers = ["run_id:a\r\n".into(), String::new(), String::new()];
        assert!(Facts::read(&answers, now()).is_none());
    }

    #[test]
    fn the_same_server_seen_again_keeps_the_closer_sight() {
        let first = now();
        let earlier = facts("a", 10, "master", "000", first);
        // Rounded down, the second sight would make it a little younger.
        let again = facts("a", 10, "master", "000", first + SECOND).after(&earlier, first + SECOND);
        assert_eq!(again.uptime(first + SECOND), 10 * SECOND);
    }

    #[test]
    fn a_restarted_server_counts_from_its_start() {
        let now = now();
        let earlier = facts("a", 500, "master", "000", now);
        assert_eq!(facts("b", 3, "master", "000", now).after(&earlier, now).uptime(now), 2 * SECOND);
    }

    #[test]
    fn a_promoted_replica_counts_from_when_it_was_seen_as_such() {
        let now = now();
        let in_place = facts("a", 500, "slave", "000", now);
        assert_eq!(facts("a", 500, "master", "fff", now).after(&in_place, now).uptime(now), Duration::ZERO);
        let elsewhere = facts("b", 500, "master", "000", now);
        assert_eq!(facts("a", 500, "master", "fff", now).after(&elsewhere, now).uptime(now), Duration::ZERO);
    }

    #[test]
    fn a_limit_of_memory_is_a_concern_only_where_keys_are_dropped_for_it() {
        let memory =
            |limit, policy| concerns("", &format!("maxmemory:{limit}\r\nmaxmemory_policy:{policy}\r\n"));
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
