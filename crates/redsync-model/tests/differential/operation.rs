//! What is asked of the nodes, at random: few names, clients, tokens and durations, so that they meet often.

use proptest::prelude::*;

pub(crate) const NAMES: usize = 2;
pub(crate) const CLIENTS: usize = 2;
const TOKENS_EACH: usize = 3;
pub(crate) const TOKENS: usize = CLIENTS * TOKENS_EACH;

/// In milliseconds. Counters may be kept for less long than leases.
const EXPIRIES: [u64; 3] = [10, 15, 40];
pub(crate) const RETENTIONS: [u64; 3] = [12, 60, 900];

/// One step of a sequence. What depends on the time is worked out when its turn comes, so that a sequence still means
/// something when parts of it are left out.
#[derive(Clone, Debug)]
pub(crate) enum Operation {
    Acquire {
        name: usize,
        wish: Wish,
    },
    Enter {
        name: usize,
        client: usize,
        places: Vec<Stand>,
    },
    Yield {
        name: usize,
        client: usize,
        place: Stand,
        by: By,
    },
    Extend {
        name: usize,
        wish: Wish,
        retakes: bool,
        by: By,
    },
    Release {
        name: usize,
        token: usize,
        barging: bool,
        by: By,
    },
    Inspect {
        name: usize,
    },
    Advance(Advance),
    /// The client is gone, and another takes up its tokens.
    Die {
        client: usize,
    },
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// Whoever is named.
    Named,
    /// Whoever has the lease, if anybody.
    Holder,
}

/// A lease that is wished for.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    pub(crate) token: usize,
    pub(crate) expiry: u64,
    pub(crate) fence: Option<Proposed>,
}

/// A place that is wished for.
#[derive(Clone, Debug)]
pub(crate) struct Stand {
    /// Its token is one of its client's.
    pub(crate) wish: Wish,
    /// Microseconds after the sequence began.
    pub(crate) ticket: u64,
    pub(crate) round: u32,
}

/// A fence that is proposed.
#[derive(Clone, Debug)]
pub(crate) struct Proposed {
    pub(crate) which: Which,
    /// Milliseconds.
    pub(crate) retention: u64,
}

/// Which number is proposed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Which {
    /// So many microseconds from what the node's clock shows.
    FromNow(i64),
    Least,
    Most,
}

/// By how much time moves.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Advance {
    /// Milliseconds.
    By(u64),
    /// To some lease's, place's or counter's end, or so many microseconds from it.
    To { which: usize, from: i64 },
}

/// A sequence. `fine`: time may also stand a microsecond before and after an end.
pub(crate) fn sequences(fine: bool) -> impl Strategy<Value = Vec<Operation>> {
    prop::collection::vec(operations(fine), 1..60)
}

fn operations(fine: bool) -> impl Strategy<Value = Operation> {
    let (name, token) = (0..NAMES, 0..TOKENS);
    let distances: &[i64] = if fine { &[0, -1, 1, -1_000, 1_000] } else { &[0, -1_000, 1_000] };
    prop_oneof![
        2 => name.clone().prop_map(|name| Operation::Inspect { name }),
        6 => (name.clone(), wish(token.clone())).prop_map(|(name, wish)| Operation::Acquire { name, wish }),
        8 => (name.clone(), token.clone(), any::<bool>(), by())
            .prop_map(|(name, token, barging, by)| Operation::Release { name, token, barging, by }),
        8 => advance(distances).prop_map(Operation::Advance),
        14 => entering().prop_map(|(name, client, places)| Operation::Enter { name, client, places }),
        4 => (entering(), by()).prop_map(|((name, client, mut places), by)| {
            let place = places.swap_remove(0);
            Operation::Yield { name, client, place, by }
        }),
        5 => (name, wish(token), any::<bool>(), by())
            .prop_map(|(name, wish, retakes, by)| Operation::Extend { name, wish, retakes, by }),
        1 => (0..CLIENTS).prop_map(|client| Operation::Die { client }),
    ]
}

fn by() -> impl Strategy<Value = By> {
    prop_oneof![1 => Just(By::Named), 2 => Just(By::Holder)]
}

/// A name, a client, and what it asks for there.
fn entering() -> impl Strategy<Value = (usize, usize, Vec<Stand>)> {
    let stands = prop::collection::vec(stand(), 1..=TOKENS_EACH);
    (0..NAMES, 0..CLIENTS, stands).prop_map(|(name, client, mut stands)| {
        // A token asks for one place at a time.
        let mut has_asked = [false; TOKENS_EACH];
        stands.retain(|stand| !std::mem::replace(&mut has_asked[stand.wish.token], true));
        for stand in &mut stands {
            stand.wish.token += client * TOKENS_EACH;
        }
        (name, client, stands)
    })
}

fn advance(distances: &'static [i64]) -> impl Strategy<Value = Advance> {
    prop_oneof![
        (1_u64..6).prop_map(Advance::By),
        (1_u64..60).prop_map(Advance::By),
        (0_usize..6, prop::sample::select(distances)).prop_map(|(which, from)| Advance::To { which, from }),
    ]
}

fn stand() -> impl Strategy<Value = Stand> {
    (wish(0..TOKENS_EACH), 0_u64..6, 1_u32..9).prop_map(|(wish, ticket, round)| Stand { wish, ticket, round })
}

fn wish(token: std::ops::Range<usize>) -> impl Strategy<Value = Wish> {
    (token, prop::sample::select(&EXPIRIES), prop::option::of(proposed()))
        .prop_map(|(token, expiry, fence)| Wish { token, expiry, fence })
}

fn proposed() -> impl Strategy<Value = Proposed> {
    const SECOND: i64 = 1_000_000;
    let which = prop_oneof![
        8 => (-3_i64..4).prop_map(Which::FromNow),
        2 => prop::sample::select(&[-10 * SECOND, -SECOND, SECOND / 2, SECOND, SECOND + 1, 10 * SECOND])
            .prop_map(Which::FromNow),
        1 => Just(Which::Least),
        2 => Just(Which::Most),
    ];
    (which, prop::sample::select(&RETENTIONS)).prop_map(|(which, retention)| Proposed { which, retention })
}

/// Whose token it is.
pub(crate) const fn client_of(token: usize) -> usize {
    token / TOKENS_EACH
}

impl Operation {
    /// The name that it is about; any where it is about none.
    pub(crate) const fn name(&self) -> usize {
        match self {
            Self::Acquire { name, .. }
            | Self::Enter { name, .. }
            | Self::Yield { name, .. }
            | Self::Extend { name, .. }
            | Self::Release { name, .. }
            | Self::Inspect { name } => *name,
            Self::Advance(_) | Self::Die { .. } => 0,
        }
    }
}
