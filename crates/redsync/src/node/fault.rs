//! Why a node did not answer a request as it should.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

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

/// Why a node did not answer a request as it should. Says whether the request may have been applied, and keeps the
/// cause for [`source`](Error::source).
#[derive(Clone, Debug)]
pub struct NodeFault {
    applied: Applied,
    kind: FaultKind,
    code: Option<Box<str>>,
    message: Box<str>,
    source: Option<Arc<dyn Error + Send + Sync>>,
}

impl NodeFault {
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
        let code = Some(code.into().into());
        Self { code, ..Self::new(FaultKind::Refused, Applied::No, message) }
    }

    /// The node answered with something that this request cannot have for an answer; it may have been applied.
    pub fn nonsense(message: impl Into<String>) -> Self {
        Self::new(FaultKind::Nonsense, Applied::Unknown, message)
    }

    fn new(kind: FaultKind, applied: Applied, message: impl Into<String>) -> Self {
        Self { applied, kind, code: None, message: message.into().into(), source: None }
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

    /// The error code in the node's own words, such as `READONLY`, if it answered with one.
    pub fn code(&self) -> Option<&str> {
        self.code.as_deref()
    }
}

/// One line for a person, without the source's text.
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
