//! A database, as far as the recipes for SQL see it.

use redsync::Fence;

/// A database of the test's own.
pub(crate) trait Engine: Sync {
    type Session<'a>: Session
    where
        Self: 'a;

    /// One more connection.
    fn session(&self) -> Self::Session<'_>;

    /// What has `account` write the fence of each row that it is given into `let_in`, in that order.
    const AUDIT: &'static str;
}

pub(crate) trait Session {
    /// Has statements done that have no values.
    fn batch(&mut self, sql: &str);

    /// Has one statement done, with values for `$1`, `$2` and so on.
    fn run(&mut self, statement: &str, values: &[Value<'_>]) -> Outcome;
}

#[derive(Clone, Copy)]
pub(crate) enum Value<'a> {
    Text(&'a str),
    Number(u64),
    /// For a `BIGINT`.
    Fence(Fence),
}

/// What became of a statement.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// How many rows it changed.
    pub(crate) changed: usize,
    /// The rows that it returned, of one column.
    pub(crate) returned: Vec<u64>,
}
