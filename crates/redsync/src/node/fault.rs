//! Why a node did not answer a request as it should.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use crate::protocol::words::clean;

/// Whether a request that failed may have been applied all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// Certainly not: it was never sent, or the node refused it.
    No,
    /// It was on its way when the connection broke: perhaps.
    Unknown,
}

/// What sort of failure it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FaultKind {
    /// No connection could be made: nobody listens, the name does not resolve, TLS failed, ….
    Unreachable,
    /// The connection broke while the request was under way.
    Disconnected,
    /// The node answered with an error: wrong password, read-only, out of memory, wrong type, ….
    Refused,
    /// The node answered with something that this request cannot have for an answer.
    Nonsense,
}

/// What a person has to change before the node can do what it is asked. Waiting does not help.
///
/// A call that waits for a lock ends at once when so many nodes need a remedy that no majority is left;
/// [`Error::remedy`](crate::Error::remedy) then says which. A guard that is held goes on trying to renew itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Remedy {
    /// What the node lets this client do: its password, its user, or the permissions of that.
    Access,
    /// Which node is named, and how: it is no Redis, a Sentinel or a cluster's member, too old, lacks the database, or
    /// speaks TLS and was asked without, or the reverse.
    Node,
    /// The file of a local store: its directory is missing, it may not be used, it is damaged, or its disk is full.
    Store,
}

impl Remedy {
    /// What most of `remedies` ask for, if they are so many that no majority of `total` nodes is left.
    pub(crate) fn of_too_many(remedies: impl Iterator<Item = Self>, total: usize) -> Option<Self> {
        let counts = remedies.fold([0_usize; 3], |mut counts, remedy| {
            counts[remedy as usize] += 1;
            counts
        });
        let tolerated = total - (total / 2 + 1);
        if counts.iter().sum::<usize>() <= tolerated {
            return None;
        }
        // The first of those that are as frequent: without access, nothing else can be seen to.
        [Self::Access, Self::Node, Self::Store]
            .into_iter()
            .rev()
            .max_by_key(|remedy| counts[*remedy as usize])
    }
}

/// Why a node did not answer a request as it should. Says whether the request may have been applied, and keeps the
/// cause for [`source`](Error::source).
///
/// Its message may quote the node, and is fit for a terminal: one line, without control characters, of
/// [`MESSAGE_CHARS`](NodeFault::MESSAGE_CHARS) characters at most.
#[derive(Clone, Debug)]
pub struct NodeFault {
    applied: Applied,
    kind: FaultKind,
    remedy: Option<Remedy>,
    code: Option<Box<str>>,
    message: Box<str>,
    source: Option<Arc<dyn Error + Send + Sync>>,
}

impl NodeFault {
    /// The longest message, in characters. What is longer is cut.
    pub const MESSAGE_CHARS: usize = 1_000;

    /// No connection could be made, so nothing was applied.
    pub fn unreachable(message: impl Into<String>) -> Self {
        Self::new(FaultKind::Unreachable, Applied::No, message)
    }

    /// The connection broke while the request was under way; it may have been applied.
    pub fn disconnected(message: impl Into<String>) -> Self {
        Self::new(FaultKind::Disconnected, Applied::Unknown, message)
    }

    /// The node answered with an error of the given code, such as `READONLY`, and applied nothing.
    pub fn refused(code: impl Into<String>, message: impl Into<String>) -> Self {
        // The first word of an answer, and so the node's text as well.
        let code = Some(clean(&code.into(), Self::CODE_CHARS).into());
        Self { code, ..Self::new(FaultKind::Refused, Applied::No, message) }
    }

    /// The node answered with something that this request cannot have for an answer; it may have been applied.
    pub fn nonsense(message: impl Into<String>) -> Self {
        Self::new(FaultKind::Nonsense, Applied::Unknown, message)
    }

    fn new(kind: FaultKind, applied: Applied, message: impl Into<String>) -> Self {
        let message = clean(&message.into(), Self::MESSAGE_CHARS).into();
        Self { applied, kind, remedy: None, code: None, message, source: None }
    }

    const CODE_CHARS: usize = 40;

    /// The same fault, which stays until a person has seen to `remedy`.
    #[must_use]
    pub fn with_remedy(self, remedy: Remedy) -> Self {
        Self { remedy: Some(remedy), ..self }
    }

    /// The same fault with the error that caused it.
    #[must_use]
    pub fn with_source(self, source: impl Error + Send + Sync + 'static) -> Self {
        Self { source: Some(Arc::new(source)), ..self }
    }

    /// The same fault of a request that may have been applied all the same.
    #[must_use]
    pub fn perhaps_applied(self) -> Self {
        Self { applied: Applied::Unknown, ..self }
    }

    /// Whether the request may have been applied all the same.
    pub const fn applied(&self) -> Applied {
        self.applied
    }

    /// What sort of failure it was.
    pub const fn kind(&self) -> FaultKind {
        self.kind
    }

    /// What a person has to change, where waiting does not help. `None` where the fault may pass by itself.
    pub const fn remedy(&self) -> Option<Remedy> {
        self.remedy
    }

    /// The error code in the node's own words, such as `READONLY`, if it answered with one.
    pub fn code(&self) -> Option<&str> {
        self.code.as_deref()
    }
}

/// One queue for a person, without the source's text.
impl fmt::Display for NodeFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for NodeFault {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|source| &**source as &(dyn Error + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line_without_control_characters_and_not_long() {
        let said = format!("ERR \u{1b}[31mred\u{7}\nsecond line {}", "x".repeat(3_000_000));
        for fault in [
            NodeFault::refused(said.clone(), said.clone()),
            NodeFault::unreachable(said.clone()),
            NodeFault::disconnected(said.clone()),
            NodeFault::nonsense(said),
        ] {
            let shown = fault.to_string();
            assert!(!shown.contains(char::is_control), "{shown:?}");
            assert!(shown.chars().count() <= NodeFault::MESSAGE_CHARS + 1, "{}", shown.len());
            let code = fault.code().unwrap_or_default();
            assert!(code.len() < 50 && !code.contains(char::is_control), "{code:?}");
            assert!(format!("{fault:?}").len() < 3_000);
        }
    }

    #[test]
    fn a_remedy_counts_when_no_majority_is_left_without_it() {
        use Remedy::{Access, Node, Store};
        let of = |remedies: &[Remedy], total| Remedy::of_too_many(remedies.iter().copied(), total);
        assert_eq!(of(&[], 1), None);
        assert_eq!(of(&[Store], 1), Some(Store));
        assert_eq!(of(&[Access], 3), None);
        assert_eq!(of(&[Access, Node], 3), Some(Access));
        assert_eq!(of(&[Node, Access, Node], 3), Some(Node));
        assert_eq!(of(&[Node, Node], 5), None);
        assert_eq!(of(&[Node, Node], 4), Some(Node), "three of four must agree");
    }
}
