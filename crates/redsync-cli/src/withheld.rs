//! Votes that do not count yet: of nodes that restarted, and may have forgotten who holds.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use redsync::{Inspection, NodeReport, Uptime};

use crate::duration::in_words;

/// What the restart guard makes of what the nodes said.
pub(crate) struct Withheld<'a> {
    looked: &'a Inspection,
    /// `None` where the restart guard is off, and so every vote counts.
    expiry: Option<Duration>,
    /// Of whoever looks, if it asks for the lock.
    token: Option<&'a str>,
}

/// A vote that does not count.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Vote {
    /// For so much longer.
    For(Duration),
    /// As long as the node does not say since when it is up.
    UpSinceUnknown,
}

impl<'a> Withheld<'a> {
    /// The votes that would not count for a lock of this expiry.
    pub(crate) const fn of(looked: &'a Inspection, expiry: Option<Duration>) -> Self {
        Self { looked, expiry, token: None }
    }

    /// The same for the one who asks with `token`.
    pub(crate) const fn seen_by(self, token: &'a str) -> Self {
        Self { token: Some(token), ..self }
    }

    /// How the vote of one node is withheld, if it is.
    pub(crate) fn vote(&self, report: &NodeReport) -> Option<Vote> {
        let expiry = self.expiry?;
        match report.uptime {
            _ if report.answer.is_err() => None,
            Uptime::Unknown => Some(Vote::UpSinceUnknown),
            _ => report.withheld_for(expiry).map(Vote::For),
        }
    }

    /// Whether nothing else keeps the lock from being taken: without these votes no majority can be had, with them one can.
    pub(crate) fn is_in_the_way(&self) -> bool {
        let nodes = self.looked.nodes();
        let majority = nodes.len() / 2 + 1;
        let free = nodes.iter().filter(|report| match &report.answer {
            Ok(None) => true,
            // Whoever waits in the queue is granted leases that do not count yet.
            Ok(Some(holder)) => self.token == Some(holder.token()),
            Err(_) => false,
        });
        let (withheld, counted): (Vec<_>, Vec<_>) = free.partition(|report| self.vote(report).is_some());
        counted.len() < majority && counted.len() + withheld.len() >= majority
    }

    fn votes(&self) -> impl Iterator<Item = (&str, Vote)> {
        let votes = self.looked.nodes().iter();
        votes.filter_map(|report| self.vote(report).map(|vote| (report.node.as_str(), vote)))
    }
}

/// `restarted nodes do not vote for another 7 s: NODE, NODE; for another 3 s: NODE`. Nothing where all votes count.
///
/// The time comes first: a terminal may have no room for the rest.
impl fmt::Display for Withheld<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut by_seconds: BTreeMap<Reverse<u64>, Vec<&str>> = BTreeMap::new();
        let mut silent = Vec::new();
        for (node, vote) in self.votes() {
            match vote {
                // Whole seconds, so that those that started together are told together.
                Vote::For(time) => {
                    let seconds = time.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX);
                    by_seconds.entry(Reverse(seconds)).or_default().push(node);
                }
                Vote::UpSinceUnknown => silent.push(node),
            }
        }
        let mut begin = "restarted nodes do not vote";
        for (Reverse(seconds), nodes) in by_seconds {
            let time = in_words(Duration::from_secs(seconds));
            write!(f, "{begin} for another {time}: {}", nodes.join(", "))?;
            begin = ";";
        }
        if !silent.is_empty() {
            let begin = if begin == ";" { "; " } else { "" };
            write!(
                f,
                "{begin}nodes that do not say since when they are up do not vote: {}",
                silent.join(", ")
            )?;
        }
        Ok(())
    }
}
