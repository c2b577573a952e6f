//! How a connection misbehaves: a table from what travels over it to what becomes of that.

use std::time::Duration;

use super::lane::Piece;

/// The behaviour of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) enum Mode {
    Pass,
    Delay(Duration),
    Hold,
    DropBoth,
    DropRequests,
    DropReplies,
    ResetOnRequest,
    SlowClose(Duration),
}

impl Mode {
    pub(super) fn fate(self, way: Way, piece: &Piece) -> Fate {
        match (self, way, piece) {
            (Self::Hold, _, _) => Fate::Kept,
            (Self::Delay(latency), Way::Requests, _) => Fate::DeliveredAfter(latency),
            (Self::DropBoth, _, piece)
            | (Self::DropRequests, Way::Requests, piece)
            | (Self::DropReplies, Way::Replies, piece) => match piece {
                Piece::Bytes(_) => Fate::Dropped,
                // Were the end lost for good, the connection would stay behind after it has healed.
                Piece::End | Piece::Reset => Fate::Kept,
            },
            (Self::ResetOnRequest, Way::Requests, Piece::Bytes(_)) => Fate::Fatal,
            (Self::SlowClose(late), _, Piece::End | Piece::Reset) => Fate::DeliveredAfter(late),
            _ => Fate::DeliveredAfter(Duration::ZERO),
        }
    }
}

/// The two ways of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) enum Way {
    /// From the client to the server.
    Requests,
    /// From the server to the client.
    Replies,
}

/// What becomes of a piece.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fate {
    /// It reaches the other side so long after it reached the proxy.
    DeliveredAfter(Duration),
    /// It stays, and all that comes after it, until the mode changes.
    Kept,
    /// It is gone.
    Dropped,
    /// It costs the connection its life.
    Fatal,
}
