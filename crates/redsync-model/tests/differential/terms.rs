//! What is asked and answered, in words that fit every kind of node.

use std::fmt::Write;

/// A request. Tokens and names are numbers; times are in microseconds unless they are called otherwise.
#[derive(Clone, Debug)]
pub(crate) enum Request {
    Acquire(Claim),
    Enter { client: usize, places: Vec<Place> },
    Yield { client: usize, place: Place },
    Extend { claim: Claim, retakes: bool },
    Release { token: usize, barging: bool },
    Inspect,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim {
    pub(crate) token: usize,
    pub(crate) expiry_millis: u64,
    /// What is proposed, and for how many milliseconds the counter is kept.
    pub(crate) fence: Option<(u64, u64)>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) claim: Claim,
    pub(crate) ticket: u64,
    pub(crate) round: u32,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    Granted(Option<u64>),
    Taken(Holder),
    Extended(Option<u64>),
    Retaken,
    Released,
    Left,
    NotHeld,
    HeldByAnother(Holder),
    Entered {
        places: Vec<Placed>,
        holder: Holder,
        micros: u64,
        is_told: bool,
    },
    /// What was asked for is seen by the look that follows every request.
    Inspected,
    /// With this code.
    Refused(String),
    Failed(String),
    /// Nothing was there to release, or a place that was over.
    NothingToRelease,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Placed {
    Granted(Option<u64>),
    Queued(u64),
    /// Told that it is in this position, where another is.
    Misplaced(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) token: usize,
    /// Unless the node does not say.
    pub(crate) left: Option<u64>,
}

/// What a client is told.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Told {
    Granted { client: usize, name: usize, token: usize, round: u32, fence: Option<u64> },
    Freed { client: usize, name: usize },
}

/// What can be seen of one name.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct Look {
    pub(crate) holder: Option<Holder>,
    /// Tokens and tickets.
    pub(crate) queue: Vec<(usize, u64)>,
    pub(crate) waiting: u64,
    pub(crate) fence: Option<u64>,
}

/// All that comes of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) reply: Reply,
    pub(crate) told: Vec<Told>,
    pub(crate) look: Look,
}

impl Outcome {
    /// What of it is worth being met with often.
    pub(crate) fn sights(&self) -> Vec<&'static str> {
        let mut sights = vec![match &self.reply {
            Reply::Granted(None) => "granted",
            Reply::Granted(Some(_)) => "granted with a fence",
            Reply::Taken(_) => "taken",
            Reply::Extended(None) => "extended",
            Reply::Extended(Some(_)) => "extended with a fence",
            Reply::Retaken => "retaken",
            Reply::Released => "released",
            Reply::Left => "left",
            Reply::NotHeld => "not held",
            Reply::HeldByAnother(_) => "held by another",
            Reply::Entered { .. } => "entered",
            Reply::Inspected => "inspected",
            Reply::Refused(_) => "refused",
            Reply::Failed(_) => "failed",
            Reply::NothingToRelease => "nothing to release",
        }];
        if let Reply::Entered { places, .. } = &self.reply {
            sights.extend(places.iter().map(|place| match place {
                Placed::Granted(None) => "place granted",
                Placed::Granted(Some(_)) => "place granted with a fence",
                Placed::Queued(1) => "first in the queue",
                Placed::Queued(_) | Placed::Misplaced(_) => "further behind in the queue",
            }));
        }
        sights.extend(self.told.iter().map(|told| match told {
            Told::Granted { fence: None, .. } => "told of a grant",
            Told::Granted { fence: Some(_), .. } => "told of a grant with a fence",
            Told::Freed { .. } => "told that it was freed",
        }));
        sights
    }
}

/// Says things in numbers that are near zero: microseconds from when the sequence began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Words {
    pub(crate) origin: u64,
}

impl Words {
    pub(crate) fn request(self, name: usize, request: &Request) -> String {
        let name = name_of(name);
        match request {
            Request::Acquire(claim) => format!("acquire {name} {}", self.claim(claim)),
            Request::Enter { client, places } => {
                let places: Vec<String> = places.iter().map(|place| self.place(place)).collect();
                format!("enter {name} by c{client}: {}", places.join("; "))
            }
            Request::Yield { client, place } => format!("yield {name} by c{client}: {}", self.place(place)),
            Request::Extend { claim, retakes } => {
                let if_free = if *retakes { "retake" } else { "leave" };
                format!("extend {name} {} (if free: {if_free})", self.claim(claim))
            }
            Request::Release { token, barging } => {
                format!("release {name} t{token} {}", if *barging { "barging" } else { "handing over" })
            }
            Request::Inspect => format!("inspect {name}"),
        }
    }

    fn claim(self, claim: &Claim) -> String {
        let fence = claim.fence.map_or_else(String::new, |(fence, retention)| {
            format!(" proposing {} kept {retention}ms", self.number(fence))
        });
        format!("t{} for {}ms{fence}", claim.token, claim.expiry_millis)
    }

    fn place(self, place: &Place) -> String {
        format!("{} ticket {} round {}", self.claim(&place.claim), self.number(place.ticket), place.round)
    }

    pub(crate) fn outcome(self, outcome: &Outcome) -> String {
        let Outcome { reply, told, look } = outcome;
        let mut text = match reply {
            Reply::Granted(fence) => format!("granted{}", self.fence(*fence)),
            Reply::Taken(holder) => format!("taken by {}", holder_of(holder)),
            Reply::Extended(fence) => format!("extended{}", self.fence(*fence)),
            Reply::HeldByAnother(holder) => format!("held by {}", holder_of(holder)),
            Reply::Entered { places, holder, micros, is_told } => {
                let place = |place: &Placed| match place {
                    Placed::Granted(fence) => format!("granted{}", self.fence(*fence)),
                    Placed::Queued(position) => format!("queued {position}"),
                    Placed::Misplaced(position) => format!("said to be queued {position}"),
                };
                let places: Vec<String> = places.iter().map(place).collect();
                let deaf = if *is_told { "" } else { ", asks again" };
                format!(
                    "[{}], held by {}, clock {}{deaf}",
                    places.join(", "),
                    holder_of(holder),
                    self.number(*micros)
                )
            }
            Reply::Retaken => "retaken".into(),
            Reply::Released => "released".into(),
            Reply::Left => "left".into(),
            Reply::NotHeld => "not held".into(),
            Reply::Inspected => "seen".into(),
            Reply::NothingToRelease => "nothing to release".into(),
            Reply::Refused(code) => format!("refused: {code}"),
            Reply::Failed(fault) => format!("failed: {fault}"),
        };
        for told in told {
            let _ = match told {
                Told::Granted { client, name, token, round, fence } => write!(
                    text,
                    "; tells c{client}: {} granted to t{token} in round {round}{}",
                    name_of(*name),
                    self.fence(*fence)
                ),
                Told::Freed { client, name } => write!(text, "; tells c{client}: {} freed", name_of(*name)),
            };
        }
        let _ = write!(text, " | {}", self.look(look));
        text
    }

    fn look(self, look: &Look) -> String {
        let holder = look.holder.as_ref().map_or_else(|| "free".into(), holder_of);
        let queue: Vec<String> =
            look.queue.iter().map(|(token, ticket)| format!("t{token}@{}", self.number(*ticket))).collect();
        format!("{holder}, {} in the queue: [{}]{}", look.waiting, queue.join(" "), self.fence(look.fence))
    }

    fn fence(self, fence: Option<u64>) -> String {
        fence.map_or_else(String::new, |fence| format!(" #{}", self.number(fence)))
    }

    fn number(self, number: u64) -> String {
        match number {
            0x1f_ffff_ffff_ffff => "most".into(),
            number if number < self.origin / 2 => number.to_string(),
            number => format!("{:+}", i128::from(number) - i128::from(self.origin)),
        }
    }
}

pub(crate) fn name_of(name: usize) -> char {
    ['a', 'b', 'c', 'd'][name]
}

fn holder_of(holder: &Holder) -> String {
    let left =
        holder.left.map_or_else(|| "?".into(), |left| format!("{}.{:03}ms", left / 1_000, left % 1_000));
    format!("t{} ({left})", holder.token)
}
