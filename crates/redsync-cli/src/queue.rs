//! Who waits for a lock, in the queue.

use std::fmt;

use redsync::{Holder, Inspection, NodeReport, QueueEntry};
use serde_json::{Value, json};

/// Those who wait for a lock, the next first.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Queue<'a> {
    /// The first of them, as far as nodes tell of them.
    first: Vec<&'a QueueEntry>,
    waiting: u64,
}

impl<'a> Queue<'a> {
    /// As all nodes together tell.
    pub(crate) fn of(looked: &'a Inspection) -> Self {
        Self::behind(looked.holder().as_ref(), looked.queue(), looked.waiting())
    }

    /// As one of the nodes tells.
    pub(crate) fn on(report: &'a NodeReport, looked: &Inspection) -> Self {
        Self::behind(looked.holder().as_ref(), &report.queue, report.waiting)
    }

    /// A majority is enough to hold a lock: its holder may still have a place on other nodes, and waits for nothing.
    fn behind(holder: Option<&Holder>, queue: &'a [QueueEntry], waiting: u64) -> Self {
        let waits = |place: &&QueueEntry| holder.is_none_or(|holder| holder.token() != place.token());
        let first: Vec<&QueueEntry> = queue.iter().filter(waits).collect();
        let holders = queue.len() - first.len();
        Self { first, waiting: waiting.saturating_sub(holders as u64) }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// Where the one with `token` is, if that is known.
    pub(crate) fn place_of(&self, token: &str) -> Option<Place> {
        let shown = self.first.len();
        match self.first.iter().position(|place| place.token() == token) {
            Some(before) => Some(Place::Nth(before + 1)),
            None if self.waiting > shown as u64 => Some(Place::Beyond(shown)),
            None => None,
        }
    }

    /// How many wait, as JSON.
    pub(crate) fn waiting_in_json(&self) -> Value {
        json!(self.waiting)
    }

    /// The first of them, as JSON. `since_ms` is when each came, in milliseconds since 1970.
    pub(crate) fn in_json(&self) -> Value {
        let place = |place: &&QueueEntry| {
            json!({
                "token": place.token(),
                "owner": place.owner(),
                "since_ms": place.ticket().as_micros() / 1000,
            })
        };
        self.first.iter().map(place).collect()
    }
}

/// `3 wait in line: web-1:20, web-3:7, db-1:99`.
impl fmt::Display for Queue<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.waiting {
            0 => return f.write_str("nobody waits"),
            1 => f.write_str("1 waits in the queue: ")?,
            waiting => write!(f, "{waiting} wait in the queue: ")?,
        }
        let names: Vec<String> = self.first.iter().take(NAMED).map(ToString::to_string).collect();
        f.write_str(&names.join(", "))?;
        match self.waiting.saturating_sub(names.len() as u64) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// Who is named to people: as many as can be read at a glance.
const NAMED: usize = 10;

/// A place in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// 1 is next.
    Nth(usize),
    /// After the first so many.
    Beyond(usize),
}

/// `3rd in line`.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Nth(number) => {
                let ending = match (number % 100, number % 10) {
                    (11..=13, _) => "th",
                    (_, 1) => "st",
                    (_, 2) => "nd",
                    (_, 3) => "rd",
                    _ => "th",
                };
                write!(f, "{number}{ending} in queue")
            }
            Self::Beyond(first) => write!(f, "more than {first} before us"),
        }
    }
}

#[cfg(test)]
mod tests {
    use redsync::{Ticket, TimeLeft};

    use super::*;

    fn places(number: u64) -> Vec<QueueEntry> {
        (1..=number)
            .map(|n| QueueEntry::new(format!("token{n}@web-{n}:20"), Ticket::from_micros(n)))
            .collect()
    }

    #[test]
    fn numbers_end_as_people_say_them() {
        let places = [1, 2, 3, 4, 10, 11, 12, 13, 20, 21, 22, 23, 24, 100].map(|n| Place::Nth(n).to_string());
        let numbers: Vec<&str> =
            places.iter().map(|place| place.strip_suffix(" in queue").unwrap()).collect();
        let expected = [
            "1st", "2nd", "3rd", "4th", "10th", "11th", "12th", "13th", "20th", "21st", "22nd", "23rd",
            "24th", "100th",
        ];
        assert_eq!(numbers, expected);
    }

    #[test]
    fn a_place_is_told_by_its_token_as_far_as_nodes_tell_of_them() {
        let places = places(100);
        let queue = Queue::behind(None, &places, 100);
        assert_eq!(queue.place_of("token7@web-7:20"), Some(Place::Nth(7)));
        assert_eq!(queue.place_of("another@web-7:20"), None);
        let longer = Queue::behind(None, &places, 101);
        let beyond = longer.place_of("another@web-7:20").unwrap();
        assert_eq!(beyond.to_string(), "more than 100 before us");
    }

    #[test]
    fn no_more_are_named_than_can_be_read() {
        let places = places(100);
        let queue = |number: usize| Queue::behind(None, &places[..number], number as u64).to_string();
        assert_eq!(queue(0), "nobody waits");
        assert_eq!(queue(1), "1 waits in the queue: web-1:20");
        assert_eq!(queue(3), "3 wait in the queue: web-1:20, web-2:20, web-3:20");
        assert!(queue(10).ends_with(", web-10:20"), "{}", queue(10));
        assert!(queue(12).ends_with(", web-10:20 and 2 more"), "{}", queue(12));
        let long = Queue::behind(None, &places, 4711).to_string();
        assert!(long.starts_with("4711 wait in the queue: ") && long.ends_with(" and 4701 more"), "{long}");
    }

    #[test]
    fn who_has_the_lock_does_not_wait_for_it() {
        let places = places(3);
        let holder = Holder::new(places[0].token(), TimeLeft::Forever);
        let queue = Queue::behind(Some(&holder), &places, 3);
        assert_eq!(queue.to_string(), "2 wait in the queue: web-2:20, web-3:20");
        assert_eq!(queue.place_of(places[1].token()), Some(Place::Nth(1)));
    }
}
