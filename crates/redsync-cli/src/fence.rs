//! Fences: the holder's, as the nodes' counters tell it, and what to do about a counter that is broken.

use std::fmt;

use redsync::{Error, Fence, Inspection, NodeError, NodeReport};

/// What the counters say of the holder's fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counted {
    /// Nobody holds, or the holder has no fence.
    Nothing,
    /// The last that was given out: the holder's, if it asked for one.
    Latest(Fence),
    /// There are counters, of which no majority agrees.
    Unclear,
}

impl Counted {
    /// As those nodes count on which the holder has the lease; the others may have counted for those that asked in vain.
    pub(crate) fn of(looked: &Inspection) -> Self {
        let Some(holder) = looked.holder() else { return Self::Nothing };
        let has_it = |report: &&NodeReport| matches!(&report.answer, Ok(Some(there)) if there.token() == holder.token());
        let nodes = looked.nodes();
        Self::by(nodes.len(), nodes.iter().filter(has_it).filter_map(|report| report.fence))
    }

    fn by(nodes: usize, counters: impl Iterator<Item = Fence>) -> Self {
        let counters: Vec<Fence> = counters.collect();
        let agree = |fence: &&Fence| counters.iter().filter(|other| other == fence).count() > nodes / 2;
        match counters.iter().find(agree) {
            Some(fence) => Self::Latest(*fence),
            None if counters.is_empty() => Self::Nothing,
            None => Self::Unclear,
        }
    }

    pub(crate) const fn fence(self) -> Option<Fence> {
        match self {
            Self::Latest(fence) => Some(fence),
            Self::Nothing | Self::Unclear => None,
        }
    }

    /// What one node adds to that, for people: its counter, where no majority agrees on one.
    pub(crate) fn on(self, report: &NodeReport) -> String {
        match (self, report.fence) {
            (Self::Unclear, Some(counter)) if report.answer.is_ok() => {
                format!("; fence counter at {counter}")
            }
            (Self::Unclear, None) if report.answer.is_ok() => "; no fence counter".to_owned(),
            _ => String::new(),
        }
    }
}

/// `; latest fence 1785312345678901`.
impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => Ok(()),
            Self::Latest(fence) => write!(f, "; latest fence {fence}"),
            Self::Unclear => f.write_str("; its fence cannot be told, the nodes' counters differ"),
        }
    }
}

/// What to do where nodes could not count for the lock called `name`, if that is what went wrong.
pub(crate) fn advice(error: &Error, name: &str) -> Option<String> {
    let is_uncounted = |error: &&NodeError| matches!(error, NodeError::Failed { source, .. } if source.code() == Some(UNCOUNTED));
    let mut uncounted = error.nodes().iter().filter(is_uncounted).peekable();
    uncounted.peek()?;
    let is_key = uncounted.any(|error| !error.node().starts_with("sqlite:"));
    Some(match is_key {
        true => format!(
            " (delete {} there if it is junk, and counting begins anew at the time of day; or lock with --no-fence)",
            counter_key(name)
        ),
        false => " (--no-fence locks without a fence)".to_owned(),
    })
}

/// The error code of a node whose counter cannot be raised.
const UNCOUNTED: &str = "FENCE";

/// The counter's key on a server, as told in `docs/operating.md`: in one slot with the name, whose own hash tag is kept.
fn counter_key(name: &str) -> String {
    let tag = name.split_once('{').and_then(|(_, rest)| rest.split_once('}'));
    match tag {
        Some((tag, _)) if !tag.is_empty() => format!("{name}:redsync:tagged:fence"),
        _ => format!("{{{name}}}:redsync:fence"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by(nodes: usize, counters: &[u64]) -> Counted {
        Counted::by(nodes, counters.iter().map(|number| Fence::new(*number).unwrap()))
    }

    #[test]
    fn a_fence_is_told_only_where_a_majority_of_all_nodes_has_it() {
        let latest = |number| Counted::Latest(Fence::new(number).unwrap());
        assert_eq!(by(1, &[5]), latest(5));
        assert_eq!(by(3, &[5, 5]), latest(5));
        assert_eq!(by(3, &[9, 5, 5]), latest(5));
        assert_eq!(by(3, &[5, 6]), Counted::Unclear);
        assert_eq!(by(3, &[5]), Counted::Unclear);
        assert_eq!(by(4, &[5, 5]), Counted::Unclear);
        assert_eq!(by(3, &[]), Counted::Nothing);
    }
}
