//! Nodes of several kinds on one clock, asked the same, one request after the other; and what counts as the same answer.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use redsync::{Clock, DrivenClock};

use super::library::Library;
use super::modelled::Modelled;
use super::operation::{
    Advance, By, CLIENTS, NAMES, Operation, Proposed, RETENTIONS, Stand, Which, Wish, client_of,
};
use super::terms::{Claim, Holder, Look, Outcome, Place, Placed, Reply, Request, Words, name_of};

/// What the clock shows at first. Any time does that leaves room for clocks that are wrong.
pub(crate) const BEGINNING: Duration = Duration::from_secs(1_700_000_000);

pub(crate) enum Kind {
    Model(Box<Modelled>),
    Library(Box<Library>),
}

/// How exactly time is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grain {
    /// All kinds count microseconds at least: they agree whenever they are asked.
    Micros,
    /// Redis is among them, whose keys expire by whole milliseconds.
    Millis,
}

pub(crate) struct World {
    clock: DrivenClock,
    kinds: Vec<(&'static str, Kind)>,
    pub(crate) grain: Grain,
    sequences: u64,
    /// How many requests every kind has answered.
    pub(crate) asked: u64,
    /// What happened how often, that all kinds agreed on.
    pub(crate) sights: BTreeMap<&'static str, u64>,
    /// Whether time has moved since the last request.
    has_moved: bool,
    sequence: Sequence,
}

/// What is known of the sequence that is under way.
#[derive(Default)]
struct Sequence {
    origin: u64,
    /// Places that were answered so: by name and token, when they are over, and whose they are.
    places: HashMap<(usize, usize), (u64, usize, u8)>,
    /// Which of those who came one after the other in each client's place is there now.
    generations: [u8; CLIENTS],
    /// When leases, places and counters end.
    ends: BTreeSet<u64>,
    /// Milliseconds in which leases and counters end.
    ending: BTreeSet<u64>,
    /// Somebody has asked for a fence.
    is_counted: bool,
    transcript: Vec<String>,
}

/// What was said before kinds disagreed, and then.
#[derive(Debug)]
pub(crate) struct Disagreement(pub(crate) Vec<String>);

impl World {
    pub(crate) fn new(grain: Grain, clock: DrivenClock, kinds: Vec<(&'static str, Kind)>) -> Self {
        let (sights, sequence) = (BTreeMap::new(), Sequence::default());
        Self { clock, kinds, grain, sequences: 0, asked: 0, sights, has_moved: true, sequence }
    }

    /// Goes through a sequence on names that nobody has had before.
    pub(crate) async fn run(&mut self, operations: &[Operation]) -> Result<(), Disagreement> {
        self.begin();
        for operation in operations {
            match operation {
                Operation::Advance(advance) => self.advance(*advance).await?,
                Operation::Die { client } => self.die(*client).await,
                operation => {
                    let name = operation.name();
                    let holder = self.holder(name).await.map(|holder| holder.token);
                    if let Some(request) = self.request(operation, name, holder) {
                        self.step(name, &request).await?;
                    }
                }
            }
        }
        Ok(())
    }

    fn begin(&mut self) {
        // On a whole millisecond, and when all is over that was before.
        self.set_clock((self.now() / 1_000 + 2_000) * 1_000);
        self.sequences += 1;
        self.sequence = Sequence { origin: self.now(), ..Sequence::default() };
        for (_, kind) in &mut self.kinds {
            match kind {
                Kind::Model(model) => model.begin(),
                Kind::Library(library) => library.begin(self.sequences),
            }
        }
    }

    async fn step(&mut self, name: usize, request: &Request) -> Result<(), Disagreement> {
        // A file's node tells of what came after the last it told of: two hand-overs may not fall on one instant.
        if !self.has_moved {
            self.set_clock(self.now() + 1);
        }
        self.has_moved = false;
        self.asked += 1;
        let said = Words { origin: self.sequence.origin }.request(name, request);
        let had_lapsed = self.has_lapsed(name, request);
        let mut outcomes = Vec::new();
        for (_, kind) in &mut self.kinds {
            outcomes.push(match kind {
                Kind::Model(model) => {
                    let reply = model.ask(name, request);
                    Outcome { reply, told: model.told(), look: model.look(name) }
                }
                Kind::Library(library) => {
                    let reply = library.ask(name, request).await;
                    let look = library.look(name).await;
                    Outcome { reply, told: library.told(), look }
                }
            });
        }
        self.take_down(name, request, &outcomes[0]);
        for outcome in &mut outcomes {
            self.normalise(name, request, had_lapsed, outcome);
        }
        self.compare(&said, &outcomes)
    }

    async fn advance(&mut self, advance: Advance) -> Result<(), Disagreement> {
        let now = self.now();
        let mut then = match advance {
            Advance::By(millis) => now + millis * 1_000,
            Advance::To { which, from } => {
                let ends: Vec<u64> = self.sequence.ends.range(now + 1..).copied().collect();
                match (ends.is_empty(), self.grain) {
                    (true, _) => now,
                    (false, Grain::Micros) => ends[which % ends.len()].saturating_add_signed(from),
                    (false, Grain::Millis) => {
                        let end = ends[which % ends.len()] / 1_000;
                        end.saturating_add_signed(from / 1_000) * 1_000 + now % 1_000
                    }
                }
            }
        };
        // Redis has a key through the whole of the millisecond in which it expires; the others take the moment itself for the
        // end. In that millisecond they would rightly differ, so nobody is asked in it.
        while self.grain == Grain::Millis && self.sequence.ending.contains(&(then / 1_000)) {
            then += 1_000;
        }
        if then <= now {
            return Ok(());
        }
        self.set_clock(then);
        self.has_moved = true;
        for name in 0..NAMES {
            let mut outcomes = Vec::new();
            for (_, kind) in &mut self.kinds {
                let (told, look) = match kind {
                    Kind::Model(model) => (model.told(), model.look(name)),
                    Kind::Library(library) => {
                        let look = library.look(name).await;
                        (library.told(), look)
                    }
                };
                outcomes.push(Outcome { reply: Reply::Inspected, told, look });
            }
            for outcome in &mut outcomes {
                self.normalise(name, &Request::Inspect, false, outcome);
            }
            let moved = then - now;
            let said = format!("{}.{:03}ms later: {}", moved / 1_000, moved % 1_000, name_of(name));
            self.compare(&said, &outcomes)?;
        }
        Ok(())
    }

    async fn die(&mut self, client: usize) {
        // A file's node, which alone learns of a death without asking anybody, releases what the dead had in the queue at once. Where
        // nobody else has the lease, that is a step of its own, which the others do not take.
        let waited_for = self.sequence.places.keys().filter(|(_, token)| client_of(*token) == client);
        for &(name, _) in waited_for {
            let holder = self.holder(name).await;
            // It dies a microsecond from now.
            let stands = |holder: Holder| client_of(holder.token) != client && holder.left != Some(1);
            if !holder.is_some_and(stands) {
                return;
            }
        }
        // So many clients can be told apart in the model.
        if self.sequence.generations[client] == 9 {
            return;
        }
        self.sequence.generations[client] += 1;
        self.set_clock(self.now() + 1);
        for (_, kind) in &mut self.kinds {
            match kind {
                Kind::Model(model) => model.die(client),
                Kind::Library(library) => library.die(client).await,
            }
        }
        *self.sights.entry("client gone").or_default() += 1;
        self.sequence.transcript.push(format!("c{client} is gone; another takes its place"));
    }

    async fn holder(&self, name: usize) -> Option<Holder> {
        match &self.kinds[0].1 {
            Kind::Model(model) => model.look(name).holder,
            Kind::Library(library) => library.look(name).await.holder,
        }
    }

    /// Keeps account of when what ends.
    fn take_down(&mut self, name: usize, request: &Request, outcome: &Outcome) {
        let now = self.now();
        let claims: Vec<Claim> = match request {
            Request::Acquire(claim) | Request::Extend { claim, .. } => vec![*claim],
            Request::Enter { places, .. } => places.iter().map(|place| place.claim).collect(),
            Request::Yield { place, .. } => vec![place.claim],
            Request::Release { .. } | Request::Inspect => Vec::new(),
        };
        if let Reply::Entered { places, .. } = &outcome.reply {
            for (claim, placed) in claims.iter().zip(places) {
                let (over, client) = (now + claim.expiry_millis * 1_000, client_of(claim.token));
                if matches!(placed, Placed::Queued(_)) {
                    let place = (over, client, self.sequence.generations[client]);
                    self.sequence.places.insert((name, claim.token), place);
                    self.sequence.ends.insert(over);
                }
            }
        }
        if let Some(Holder { left: Some(left), .. }) = outcome.look.holder {
            self.sequence.ends.insert(now + left);
            self.sequence.ending.insert((now + left) / 1_000);
        }
        let kept =
            claims.iter().filter_map(|claim| claim.fence).map(|(_, retention)| now + retention * 1_000);
        self.sequence.ends.extend(kept);
        // A counter that is at its end is kept, too, and not shown.
        self.sequence.is_counted |=
            outcome.look.fence.is_some() || claims.iter().any(|claim| claim.fence.is_some());
        if self.sequence.is_counted {
            // Whoever was handed the lease may have asked for another retention than the caller.
            let millis = RETENTIONS.map(|retention| now / 1_000 + retention);
            self.sequence.ending.extend(millis);
        }
    }

    /// Whether the request releases a place that is over, by its time or by its client's death.
    fn has_lapsed(&self, name: usize, request: &Request) -> bool {
        let Request::Release { token, .. } = request else { return false };
        self.sequence.places.contains_key(&(name, *token)) && !self.is_alive(name, *token)
    }

    fn is_alive(&self, name: usize, token: usize) -> bool {
        let place = self.sequence.places.get(&(name, token));
        place.is_some_and(|&(over, client, generation)| {
            self.now() < over && generation == self.sequence.generations[client]
        })
    }

    /// Takes away what kinds may differ in.
    fn normalise(&self, name: usize, request: &Request, had_lapsed: bool, outcome: &mut Outcome) {
        let Outcome { reply, look, .. } = outcome;
        // Places that are over: who is skipped is dropped from the queue at some time until then. Redis forgets a line when the
        // last in it is over, a file's node those whose client is gone, the others when they come upon them.
        let whole = look.queue.clone();
        look.queue.retain(|(token, _)| self.is_alive(name, *token));
        if look.waiting == whole.len() as u64 {
            look.waiting = look.queue.len() as u64;
        }
        let asked: &[Place] = match request {
            Request::Enter { places, .. } => places,
            Request::Yield { place, .. } => std::slice::from_ref(place),
            _ => &[],
        };
        if let Reply::Entered { places, .. } = reply {
            // Positions count them too. They are where the node's own queue has them, and where they are among the living.
            for (place, placed) in asked.iter().zip(places) {
                let Placed::Queued(position) = *placed else { continue };
                let is_this = |queue: &[(usize, u64)], at: u64| {
                    usize::try_from(at).is_ok_and(|at| {
                        at > 0 && queue.get(at - 1).is_some_and(|(token, _)| *token == place.claim.token)
                    })
                };
                let living = (1..=look.queue.len() as u64).find(|at| is_this(&look.queue, *at));
                *placed = match living.filter(|_| is_this(&whole, position)) {
                    Some(living) => Placed::Queued(living),
                    None => Placed::Misplaced(position),
                };
            }
        }
        // Whether there was something left to leave.
        if had_lapsed && matches!(reply, Reply::Left | Reply::NotHeld | Reply::HeldByAnother(_)) {
            *reply = Reply::NothingToRelease;
        }
        let said = match reply {
            Reply::Taken(holder) | Reply::HeldByAnother(holder) => Some(holder),
            Reply::Entered { holder, .. } => Some(holder),
            _ => None,
        };
        let mut said = said;
        // `SET` does not say for how long the holder has it.
        if let (Some(said), Some(shown)) = (&mut said, &look.holder)
            && said.left.is_none()
            && said.token == shown.token
            && matches!(request, Request::Acquire(_))
        {
            said.left = shown.left;
        }
        // Redis tells whole milliseconds.
        if self.grain == Grain::Millis {
            let Look { holder, .. } = look;
            for holder in [said, holder.as_mut()].into_iter().flatten() {
                holder.left = holder.left.map(|left| left.div_ceil(1_000) * 1_000);
            }
        }
    }

    fn compare(&mut self, said: &str, outcomes: &[Outcome]) -> Result<(), Disagreement> {
        let words = Words { origin: self.sequence.origin };
        let is_agreed = outcomes.windows(2).all(|pair| pair[0] == pair[1]);
        let transcript = &mut self.sequence.transcript;
        let at = self.clock.wall_micros() - self.sequence.origin;
        let at = format!("{:>5}.{:03}", at / 1_000, at % 1_000);
        if is_agreed {
            transcript.push(format!("{at}  {said} → {}", words.outcome(&outcomes[0])));
            for sight in outcomes[0].sights() {
                *self.sights.entry(sight).or_default() += 1;
            }
            return Ok(());
        }
        transcript.push(format!("{at}  {said}"));
        for ((label, _), outcome) in self.kinds.iter().zip(outcomes) {
            transcript.push(format!("           {label:>8} → {}", words.outcome(outcome)));
        }
        Err(Disagreement(std::mem::take(transcript)))
    }

    /// What is asked by `operation`, if anything is, where `holder` has the lease.
    fn request(&self, operation: &Operation, name: usize, holder: Option<usize>) -> Option<Request> {
        // It takes place at this time.
        let now = self.now() + u64::from(!self.has_moved);
        let asks = |token: usize, by: By| holder.filter(|_| by == By::Holder).unwrap_or(token);
        let claim = |wish: &Wish, by: By| Claim {
            token: asks(wish.token, by),
            expiry_millis: wish.expiry,
            fence: wish.fence.as_ref().map(|Proposed { which, retention }| {
                let fence = match which {
                    Which::FromNow(distance) => now.saturating_add_signed(*distance),
                    Which::Least => 1,
                    Which::Most => (1 << 53) - 1,
                };
                (fence, *retention)
            }),
        };
        let place = |stand: &Stand, by: By| Place {
            claim: claim(&stand.wish, by),
            ticket: self.sequence.origin + stand.ticket,
            round: stand.round,
        };
        Some(match operation {
            Operation::Acquire { wish, .. } => Request::Acquire(claim(wish, By::Named)),
            Operation::Enter { client, places, .. } => {
                let mut places: Vec<Place> = places.iter().map(|stand| place(stand, By::Named)).collect();
                // Nobody asks for a place that it has, while it holds the lease by other means. A file's node would take it
                // for one that was granted, and tell it of nothing any more; the others would tell it if its lease ran out
                // before its place, and it was handed the next.
                places.retain(|place| {
                    Some(place.claim.token) != holder || !self.is_alive(name, place.claim.token)
                });
                if places.is_empty() {
                    return None;
                }
                Request::Enter { client: *client, places }
            }
            Operation::Yield { place: stand, client, by, .. } => {
                let place = place(stand, *by);
                let client = if *by == By::Holder { client_of(place.claim.token) } else { *client };
                Request::Yield { client, place }
            }
            Operation::Extend { wish, retakes, by, .. } => {
                Request::Extend { claim: claim(wish, *by), retakes: *retakes }
            }
            Operation::Release { token, barging, by, .. } => {
                Request::Release { token: asks(*token, *by), barging: *barging }
            }
            Operation::Inspect { .. } => Request::Inspect,
            Operation::Advance(_) | Operation::Die { .. } => return None,
        })
    }

    fn set_clock(&mut self, micros: u64) {
        self.clock.advance(Duration::from_micros(micros - self.now()));
        for (_, kind) in &mut self.kinds {
            match kind {
                Kind::Model(model) => model.set_clock(micros),
                Kind::Library(library) => library.set_clock(micros),
            }
        }
    }

    fn now(&self) -> u64 {
        self.clock.wall_micros()
    }
}
