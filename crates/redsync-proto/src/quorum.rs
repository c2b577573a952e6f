//! Votes in, verdict out: the majority rule.

use super::InvalidOption;

/// How many of N nodes must agree: a majority, N / 2 + 1.
///
/// Two majorities of the same nodes share at least one node, and that node grants one token at a time: this is
/// why at most one caller holds. Redlock §"The Redlock algorithm".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Quorum {
    nodes: usize,
}

impl Quorum {
    /// The quorum of `nodes` nodes.
    ///
    /// # Errors
    ///
    /// [`InvalidOption`] when there are none.
    pub fn of(nodes: usize) -> Result<Self, InvalidOption> {
        match nodes {
            0 => Err(InvalidOption::new("nodes", "there are none; a lock needs at least one")),
            _ => Ok(Self { nodes }),
        }
    }

    /// N: how many nodes there are.
    pub const fn nodes(self) -> usize {
        self.nodes
    }

    /// M: how many of them are a majority.
    pub const fn majority(self) -> usize {
        self.nodes / 2 + 1
    }
}

/// What the votes counted so far decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A majority agreed. More votes change nothing.
    Reached,
    /// So many refused or failed that a majority can no longer agree.
    OutOfReach,
    /// It is still open.
    Open,
}

/// Counts one vote per node and tells the verdict as soon as it is certain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tally {
    quorum: Quorum,
    agreed: usize,
    declined: usize,
}

impl Tally {
    /// A count with no votes in it.
    pub const fn new(quorum: Quorum) -> Self {
        Self { quorum, agreed: 0, declined: 0 }
    }

    /// Counts a node that agreed.
    pub const fn agree(&mut self) {
        self.agreed += 1;
    }

    /// Counts a node that refused, failed, or did not answer in time.
    pub const fn decline(&mut self) {
        self.declined += 1;
    }

    /// The quorum that is counted for.
    pub const fn quorum(&self) -> Quorum {
        self.quorum
    }

    /// What the votes so far decide.
    pub const fn verdict(&self) -> Verdict {
        if self.agreed >= self.quorum.majority() {
            Verdict::Reached
        } else if self.quorum.nodes() - self.declined < self.quorum.majority() {
            Verdict::OutOfReach
        } else {
            Verdict::Open
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_majority_is_more_than_half() {
        let majorities: Vec<usize> = (1..=7).map(|n| Quorum::of(n).unwrap().majority()).collect();
        assert_eq!(majorities, [1, 2, 2, 3, 3, 4, 4]);
        assert!(Quorum::of(0).is_err());
    }

    #[test]
    fn any_two_majorities_share_a_node() {
        for n in 1..=9 {
            let quorum = Quorum::of(n).unwrap();
            assert!(2 * quorum.majority() > n);
        }
    }

    #[test]
    fn the_verdict_comes_as_soon_as_it_is_certain_and_never_changes() {
        for n in 1..=7_u32 {
            let quorum = Quorum::of(n as usize).unwrap();
            for votes in 0..(1_u32 << n) {
                let total = votes.count_ones() as usize;
                let mut tally = Tally::new(quorum);
                let mut decided = None;
                for node in 0..n {
                    match votes & (1 << node) {
                        0 => tally.decline(),
                        _ => tally.agree(),
                    }
                    match (decided, tally.verdict()) {
                        (None, Verdict::Open) => {}
                        (None, verdict) => decided = Some(verdict),
                        (Some(before), verdict) => assert_eq!(before, verdict, "n={n} votes={votes:b}"),
                    }
                }
                let expected =
                    if total >= quorum.majority() { Verdict::Reached } else { Verdict::OutOfReach };
                assert_eq!(decided, Some(expected), "n={n} votes={votes:b}");
            }
        }
    }

    #[test]
    fn an_even_split_is_out_of_reach() {
        let mut tally = Tally::new(Quorum::of(2).unwrap());
        tally.agree();
        assert_eq!(tally.verdict(), Verdict::Open);
        tally.decline();
        assert_eq!(tally.verdict(), Verdict::OutOfReach);
    }
}
