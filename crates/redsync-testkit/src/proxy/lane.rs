//! One way of a connection: a queue between two sockets.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Instant;

use super::mode::{Fate, Mode, Way};

/// What one side sent and the other has not got yet, in order.
#[derive(Debug)]
pub(super) struct Lane {
    way: Way,
    /// With the time at which each piece reached the proxy: when it is due depends on the mode of the moment.
    under_way: VecDeque<(Instant, Piece)>,
    source_has_ended: bool,
    end_is_delivered: bool,
}

impl Lane {
    pub(super) fn new(way: Way) -> Self {
        Self { way, under_way: VecDeque::new(), source_has_ended: false, end_is_delivered: false }
    }

    /// Whether the side that sends has closed or reset its connection. Nothing more will come from it.
    pub(super) fn source_has_ended(&self) -> bool {
        self.source_has_ended
    }

    /// Takes in what `source` has sent, and hands to `sink` what is due. Never blocks.
    pub(super) fn pump(&mut self, source: &TcpStream, sink: &TcpStream, mode: Mode, now: Instant) -> Next {
        let drained = self.take_in(source, now);
        match self.hand_out(sink, mode, now) {
            Next::Event | Next::At(_) if !drained => Next::At(now),
            next => next,
        }
    }

    /// Returns whether the source is empty.
    fn take_in(&mut self, mut source: &TcpStream, now: Instant) -> bool {
        let mut buffer = [0; READ_SIZE];
        for _ in 0..READS_AT_A_TIME {
            if self.source_has_ended {
                return true;
            }
            let piece = match source.read(&mut buffer) {
                Ok(0) => Piece::End,
                Ok(length) => Piece::Bytes(buffer[..length].to_vec()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                // Also how a connect that failed shows: ECONNREFUSED.
                Err(_) => Piece::Reset,
            };
            self.source_has_ended = !matches!(piece, Piece::Bytes(_));
            self.under_way.push_back((now, piece));
        }
        false
    }

    fn hand_out(&mut self, sink: &TcpStream, mode: Mode, now: Instant) -> Next {
        while let Some((came, piece)) = self.under_way.front_mut() {
            match mode.fate(self.way, piece) {
                Fate::Kept => return Next::Event,
                Fate::Fatal => return Next::Reset,
                Fate::Dropped => {}
                Fate::DeliveredAfter(latency) => {
                    let Some(due) = came.checked_add(latency) else {
                        return Next::Event; // Later than this clock can count.
                    };
                    if due > now {
                        return Next::At(due);
                    }
                    match piece {
                        Piece::Bytes(bytes) => {
                            if !write_all_of(bytes, sink) {
                                return Next::Event;
                            }
                        }
                        Piece::End => {
                            // An error means that the sink is closed already.
                            let _ = sink.shutdown(Shutdown::Write);
                            self.end_is_delivered = true;
                        }
                        Piece::Reset => return Next::Reset,
                    }
                }
            }
            self.under_way.pop_front();
        }
        if self.end_is_delivered { Next::Over } else { Next::Event }
    }
}

/// What travels over a lane.
#[derive(Debug)]
pub(super) enum Piece {
    Bytes(Vec<u8>),
    /// The source will send no more (FIN).
    End,
    /// The source's connection is broken (RST).
    Reset,
}

/// When a lane or a connection has to be looked at again.
#[derive(Debug, Clone, Copy)]
pub(super) enum Next {
    /// When one of its sockets has news, or the mode changes.
    Event,
    /// At this time, or earlier when one of its sockets has news.
    At(Instant),
    /// Never: all is delivered.
    Over,
    /// Never: its connection is to be reset.
    Reset,
}

/// Returns whether nothing is left to write. What is written is removed.
fn write_all_of(bytes: &mut Vec<u8>, mut sink: &TcpStream) -> bool {
    while !bytes.is_empty() {
        match sink.write(bytes) {
            Ok(length) => drop(bytes.drain(..length)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // The sink is gone. That is for the lane to tell that reads from it; bytes sent to it vanish.
            Err(_) => bytes.clear(),
        }
    }
    true
}

const READ_SIZE: usize = 16 * 1024;

/// One connection that never falls silent must not have the proxy to itself.
const READS_AT_A_TIME: usize = 256;
