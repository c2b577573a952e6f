//! What came of holding a node against the contract.

use std::error::Error;
use std::fmt;

/// What a node keeps of the contract, and what it breaks.
#[derive(Clone, Debug)]
#[must_use = "a report fails nothing by itself: see `assert_ok`"]
pub struct Report {
    node: String,
    passed: Vec<&'static str>,
    failures: Vec<Failure>,
}

impl Report {
    pub(crate) fn new(
        node: String,
        verdicts: impl Iterator<Item = (&'static str, Result<(), Failure>)>,
    ) -> Self {
        let mut report = Self { node, passed: Vec::new(), failures: Vec::new() };
        for (clause, verdict) in verdicts {
            match verdict {
                Ok(()) => report.passed.push(clause),
                Err(failure) => report.failures.push(failure),
            }
        }
        report
    }

    /// The names of the clauses that the node keeps.
    pub fn passed(&self) -> &[&'static str] {
        &self.passed
    }

    /// The clauses that the node breaks, and how.
    pub fn failures(&self) -> &[Failure] {
        &self.failures
    }

    /// Nothing, if the node keeps every clause.
    ///
    /// # Panics
    ///
    /// With the report's text, if it breaks any.
    #[track_caller]
    pub fn assert_ok(&self) {
        assert!(self.failures.is_empty(), "{self}");
    }
}

/// One queue when all is well, otherwise each failure with what was expected and what came.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node, passed, failures } = self;
        let all = passed.len() + failures.len();
        if failures.is_empty() {
            return write!(f, "{node} keeps all {all} clauses of the node contract");
        }
        write!(f, "{node} breaks {} of {all} clauses of the node contract:", failures.len())?;
        // A server that is down breaks everything in the same way: say so once.
        let mut alike: Vec<(&Failure, Vec<&str>)> = Vec::new();
        for failure in failures {
            let same = |first: &Failure| first.expected == failure.expected && first.came == failure.came;
            match alike.iter_mut().find(|(first, _)| same(first)) {
                Some((_, clauses)) => clauses.push(failure.clause),
                None => alike.push((failure, vec![failure.clause])),
            }
        }
        for (Failure { expected, came, .. }, clauses) in alike {
            write!(f, "\n\n  {}\n    expected  {expected}\n    came      {came}", clauses.join("\n  "))?;
        }
        Ok(())
    }
}

/// A clause that a node breaks, and how.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Failure {
    /// The clause's name.
    pub clause: &'static str,
    /// What the contract wants.
    pub expected: String,
    /// What the node did.
    pub came: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: expected {}, came {}", self.clause, self.expected, self.came)
    }
}

impl Error for Failure {}
