//! What a client asks, and what it makes of the answers.

use crate::client::{Attempt, Call, FanOut, Phase, Standing};
use crate::configuration::Role;
use crate::node::{Acquired, Extended, Placed, Token};
use crate::rules::Rule;
use crate::step::Step;
use crate::terms::{Terms, instant, wall_micros};
use crate::wire::{Answer, Request, Said, What};
use redsync_proto::leases::RequestNumber;
use redsync_proto::{Fence, Fenced, Instant, Tally, Verdict};

/// How many attempts a client's tokens leave room for.
const ATTEMPTS: u16 = 16;

/// One client, at one of its attempts.
pub(crate) struct Asking<'s, 'a> {
    step: &'s mut Step<'a>,
    client: u8,
    attempt: u8,
}

impl<'s, 'a> Asking<'s, 'a> {
    /// `client`, at its last attempt.
    pub(crate) fn new(step: &'s mut Step<'a>, client: u8) -> Self {
        let attempts = step.state.clients[usize::from(client)].attempts.len() as u8;
        Self { step, client, attempt: attempts.saturating_sub(1) }
    }

    pub(crate) fn of(step: &'s mut Step<'a>, client: u8, attempt: u8) -> Self {
        Self { step, client, attempt }
    }

    fn terms(&self) -> &'a Terms {
        &self.step.world.terms
    }

    fn role(&self) -> Role {
        self.step.world.configuration.clients[usize::from(self.client)]
    }

    fn now(&self) -> Instant {
        self.step.now()
    }

    fn nodes(&self) -> std::ops::Range<u8> {
        0..self.step.world.nodes()
    }

    fn at(&mut self) -> &mut Attempt {
        self.step.attempt(self.client, self.attempt)
    }

    fn keeps(&self, rule: Rule) -> bool {
        self.step.world.keeps(rule)
    }

    /// Begins a call, or goes on with it by another token. `attempt::attempt`, `waiting::wait_in_queue`.
    pub(crate) fn begin(&mut self) {
        let (role, agreed) = (self.role(), self.step.state.agreed.iter().map(|(fence, _)| *fence).max());
        let now = self.step.state.now;
        let client = self.step.client(self.client);
        let call =
            *client.call.get_or_insert_with(|| Call { ticket: wall_micros(now, role.offset), floor: agreed });
        let number = client.attempts.len() as u8;
        let keeps_fresh = self.keeps(Rule::TokensAreFresh);
        let last = if keeps_fresh { u16::from(number) } else { 0 };
        let token = Token(u16::from(self.client) * ATTEMPTS + last);
        let quorum = self.terms().quorum;
        self.step.client(self.client).attempts.push(Attempt::new(token, call, quorum).into());
        self.attempt = number;
        match role.asks_first {
            true => self.ask_to_acquire(),
            false => self.join(),
        }
    }

    fn ask_to_acquire(&mut self) {
        let (terms, now) = (self.terms(), self.now());
        let number = self.at().ask(terms, now);
        self.at().ledger.ask_to_acquire(terms.trusted);
        self.at().fan_out = Some(FanOut { number, tally: Tally::new(terms.quorum) });
        for node in self.nodes() {
            self.send(node, number, What::Acquire);
        }
    }

    /// Takes a place in the queue on all nodes that have not granted the lease. `waiting::in_queue`.
    fn join(&mut self) {
        let (terms, now) = (self.terms(), self.now());
        self.at().phase = Phase::Waiting;
        self.at().fan_out = None;
        self.at().is_told = true;
        let nodes: Vec<u8> =
            self.nodes().filter(|node| !self.at().ledger.is_granted_on((*node).into())).collect();
        let number = self.at().ask(terms, now);
        for node in nodes {
            self.enter(node, number);
        }
        self.settle();
    }

    fn enter(&mut self, node: u8, number: RequestNumber) {
        let trusted = self.terms().trusted;
        self.at().ledger.ask_to_enter(node.into(), trusted);
        let ticket = self.at().call.ticket;
        self.send(node, number, What::Enter { ticket });
    }

    fn send(&mut self, node: u8, number: RequestNumber, what: What) {
        let proposed = self.at().call.ticket;
        // `LeaseSet::with_fence`: what was agreed on, or what is proposed.
        let fence = self.at().fence.map_or(proposed, Fence::as_u64);
        self.send_with(node, number, what, fence);
    }

    fn send_with(&mut self, node: u8, number: RequestNumber, what: What, fence: u64) {
        let fence = self.step.world.configuration.is_fenced.then_some(fence);
        let request =
            Request { attempt: self.attempt, token: self.at().token, number, what, fence, is_slow: false };
        self.step.send(self.client, node, request);
    }

    /// Renews its places where that is due. `State::take_due`.
    pub(crate) fn renew(&mut self) {
        let renewable = self.step.state.renewable(self.step.world.nodes(), self.client);
        let (terms, now) = (self.terms(), self.now());
        for node in self.nodes().filter(|node| renewable & (1 << node) != 0) {
            let number = self.at().ask(terms, now);
            self.enter(node, number);
        }
        self.step.client(self.client).due &= !renewable;
    }

    /// Gives leases back that are too few. `LeaseSet::ask_to_yield`.
    pub(crate) fn yield_leases(&mut self) {
        let (terms, now) = (self.terms(), self.now());
        let minority = self.at().ledger.minority(now);
        if minority.is_empty() {
            return;
        }
        let client = self.step.client(self.client);
        client.yields = client.yields.saturating_sub(1);
        let number = self.at().ask(terms, now);
        for node in minority {
            match self.keeps(Rule::YieldedLeasesCountForNothing) {
                true => self.at().ledger.ask_to_yield(node, number, terms.trusted),
                false => self.at().ledger.ask_to_enter(node, terms.trusted),
            }
            let ticket = self.at().call.ticket;
            self.send(node as u8, number, What::Yield { ticket });
        }
    }

    /// Extends what it holds. `LeaseSet::extend`.
    pub(crate) fn extend(&mut self) {
        let (terms, now) = (self.terms(), self.now());
        self.step.client(self.client).extensions -= 1;
        if self.at().standing(terms, now) != Standing::Held {
            if self.keeps(Rule::LossIsFinal) {
                return self.give_back();
            }
            let mut forgetful = redsync_proto::leases::Leases::new(terms.quorum);
            forgetful.presume(None);
            self.at().ledger = forgetful;
        }
        let fence = self.at().fence.map_or(0, Fence::as_u64);
        self.ask_to_extend(false, fence);
    }

    /// Asks those nodes that may have the token; or, to take the lease again, those that have not.
    fn ask_to_extend(&mut self, retakes: bool, fence: u64) {
        let (terms, now) = (self.terms(), self.now());
        let number = self.at().ask(terms, now);
        let attempt = self.at();
        let voters = match (attempt.ledger.is_kept() && !attempt.ledger.is_past(now), retakes) {
            (false, _) => Vec::new(),
            (true, false) => attempt.ledger.holders(),
            (true, true) => attempt.ledger.missing(),
        };
        for node in &voters {
            attempt.ledger.ask_to_extend(*node, terms.trusted, retakes);
        }
        let mut tally = Tally::new(terms.quorum);
        (voters.len()..terms.quorum.nodes()).for_each(|_| tally.decline());
        if !retakes {
            attempt.fan_out = Some(FanOut { number, tally });
        }
        for node in voters {
            self.send_with(node as u8, number, What::Extend { retakes }, fence);
        }
        self.decide();
    }

    /// Gives the token back, wherever it may be. `LeaseSet::release`, `undo` and `abandon`.
    pub(crate) fn give_back(&mut self) {
        let now = self.now();
        let had_it = self.at().phase == Phase::Held;
        self.at().phase = Phase::Ended;
        self.at().fan_out = None;
        self.at().is_told = false;
        if had_it {
            self.step.client(self.client).call = None;
        }
        self.at().ledger.give_back(now);
        self.release();
    }

    /// Asks those nodes to release that may have the token, and are not being asked. `Release::begin`.
    pub(crate) fn release(&mut self) {
        let number = RequestNumber::from(redsync_proto::Round::default());
        let taken = self.at().ledger.take(false);
        for (node, before) in taken {
            self.send(node as u8, number, What::Release { before: Some(before) });
        }
    }

    /// The attempt came to nothing. One who waits goes on with another token, if it may draw one.
    fn come_to_nothing(&mut self) {
        match self.keeps(Rule::FailuresAreUndone) {
            true => self.give_back(),
            false => {
                self.at().phase = Phase::Ended;
                self.at().fan_out = None;
                self.at().is_told = false;
            }
        }
        let drawn = self.step.client(self.client).attempts.len();
        if self.role().waits && drawn < usize::from(self.role().attempts) {
            Asking::new(self.step, self.client).begin();
        }
    }

    /// Hears an answer.
    pub(crate) fn hear(&mut self, node: u8, answer: Answer) {
        let Answer { request, said } = answer;
        self.attempt = request.attempt;
        let (now, index, number) = (self.now(), usize::from(node), request.number);
        let agrees = match said {
            Said::Acquired(Acquired::Granted(fence)) => self.vote(node, number, fence),
            Said::Acquired(Acquired::Taken(_) | Acquired::Uncountable) => {
                self.at().ledger.refused(index, number, now);
                false
            }
            Said::Placed(placed) => {
                if matches!(request.what, What::Yield { .. })
                    && self.keeps(Rule::YieldedLeasesCountForNothing)
                {
                    self.at().ledger.yielded(index, number);
                }
                match placed {
                    Placed::Granted(fence) => self.vote(node, number, fence),
                    Placed::Queued(_) => {
                        self.at().ledger.queued(index, number, now);
                        false
                    }
                }
            }
            Said::Extended(extended) => {
                let retakes = request.what == What::Extend { retakes: true };
                let number = self.counted_from(number);
                self.at().ledger.extended(index, number, &extended, retakes, now);
                matches!(extended, Extended::Extended(_))
            }
            Said::Released(released) => {
                if let What::Release { before: Some(before) } = request.what {
                    self.at().ledger.released(index, before, &released);
                }
                false
            }
        };
        self.count(request, agrees);
        self.see_to(node);
    }

    /// Hears that a request will not be answered. The node may have applied it, and may do so yet.
    pub(crate) fn fail(&mut self, node: u8, request: Request) {
        self.attempt = request.attempt;
        match request.what {
            What::Acquire | What::Enter { .. } | What::Extend { .. } | What::Release { before: None } => {}
            What::Yield { .. } if self.keeps(Rule::LostYieldsSpoil) => {
                self.at().ledger.yield_lost(node.into());
            }
            What::Yield { .. } => self.at().ledger.not_yielded(node.into(), request.number),
            What::Release { before: Some(_) } => self.at().ledger.leave(node.into()),
        }
        self.count(request, false);
        self.see_to(node);
    }

    /// Hears that `node` granted `token` the lease by the place of `number`. `GrantListener::granted`, `Line::granted`,
    /// `LeaseSet::told`.
    pub(crate) fn hear_push(&mut self, node: u8, token: Token, number: RequestNumber, fence: Option<Fence>) {
        let attempts = &self.step.state.clients[usize::from(self.client)].attempts;
        let is_given_back =
            |attempt: &std::sync::Arc<Attempt>| attempt.token == token && attempt.ledger.is_released();
        if let Some(given_back) = attempts.iter().rposition(is_given_back)
            && self
                .step
                .attempt(self.client, given_back as u8)
                .ledger
                .told_while_released(node.into(), number)
        {
            return;
        }
        let attempts = &self.step.state.clients[usize::from(self.client)].attempts;
        let known = attempts.iter().rposition(|attempt| attempt.token == token && attempt.is_told);
        let Some(known) = known else {
            self.step.state.unwanted.push((self.client, node, token));
            if self.keeps(Rule::UnwantedGrantsArePassedOn) {
                let release = What::Release { before: None };
                let number = RequestNumber::from(redsync_proto::Round::default());
                let request = Request {
                    attempt: self.attempt,
                    token,
                    number,
                    what: release,
                    fence: None,
                    is_slow: false,
                };
                self.step.send(self.client, node, request);
            }
            return;
        };
        self.attempt = known as u8;
        let (now, index) = (self.now(), usize::from(node));
        let sent = self.at().ledger.sent(number);
        let is_to_be_confirmed =
            self.step.world.configuration.confirms && self.keeps(Rule::ToldGrantsAreConfirmed);
        let counts = !is_to_be_confirmed && sent.is_some_and(|sent| !self.is_withheld(node, sent));
        let number = match self.keeps(Rule::GrantsCountFromTheirRound) {
            true => number,
            false => {
                let terms = self.terms();
                self.at().ask(terms, now)
            }
        };
        let mut is_news = self.at().ledger.told(index, number, fence, counts, now);
        if !is_news && !self.keeps(Rule::StaleRoundsAreOver) {
            let terms = self.terms();
            let newest = self.at().ask(terms, now);
            is_news = self.at().ledger.told(index, newest, fence, counts, now);
        }
        let stands = self.at().ledger.end_on(index).is_some_and(|end| now < end);
        if (!is_news || !counts || !stands) && self.at().is_waiting() {
            self.step.client(self.client).due |= 1 << node;
        }
        self.settle();
    }

    /// Takes down a grant, unless the node's vote is withheld. `LeaseSet::vote`.
    fn vote(&mut self, node: u8, number: RequestNumber, fence: Option<Fence>) -> bool {
        let (now, index) = (self.now(), usize::from(node));
        let sent = self.at().ledger.sent(number).unwrap_or_default();
        if self.is_withheld(node, sent) {
            self.at().ledger.granted_unconfirmed(index, number);
            return false;
        }
        let unconfirmed = self.at().ledger.unconfirmed_since(index);
        if unconfirmed.is_some_and(|sent| !self.is_withheld(node, sent)) {
            self.at().ledger.believe(index);
        }
        let number = self.counted_from(number);
        self.at().ledger.granted(index, number, fence, now);
        true
    }

    /// The request that an answer counts from: the one that was asked, before it was sent.
    fn counted_from(&mut self, number: RequestNumber) -> RequestNumber {
        let (terms, now) = (self.terms(), self.now());
        match self.keeps(Rule::BoundsStartBeforeSending) {
            true => number,
            false => self.at().ask(terms, now),
        }
    }

    /// Whether `node`'s vote is withheld from a request that was sent at `sent`. `LeaseSet::withheld`.
    fn is_withheld(&self, node: u8, sent: Instant) -> bool {
        // A single node is believed: what it has forgotten, nobody else remembers.
        let is_guarded = self.terms().quorum.nodes() > 1 && self.keeps(Rule::RestartsAreGuarded);
        let Some(started) = self.step.state.started[usize::from(node)].filter(|_| is_guarded) else {
            return false;
        };
        let now = self.now();
        let (uptime, ago) = (now.saturating_since(instant(started)), now.saturating_since(sent));
        if !self.keeps(Rule::QuarantinesLast) {
            return uptime <= ago;
        }
        let ago = if self.keeps(Rule::QuarantinesCountAttempts) { ago } else { Default::default() };
        self.terms().quarantine.wait(uptime, ago).is_some()
    }

    /// Counts an answer, if it is one to what is being asked.
    fn count(&mut self, request: Request, agrees: bool) {
        if let Some(fan_out) = self.at().fan_out.as_mut().filter(|fan_out| fan_out.number == request.number) {
            match agrees {
                true => fan_out.tally.agree(),
                false => fan_out.tally.decline(),
            }
            self.decide();
        }
        self.settle();
    }

    /// Goes on where the verdict is certain.
    fn decide(&mut self) {
        let (terms, now) = (self.terms(), self.now());
        let Some(verdict) = self.at().fan_out.map(|fan_out| fan_out.tally.verdict()) else { return };
        let is_valid = self.at().standing(terms, now) == Standing::Held;
        match (self.at().phase, verdict) {
            (_, Verdict::Open) | (Phase::Waiting | Phase::Ended, _) => {}
            (Phase::Asking, Verdict::Reached) if is_valid => self.acquired(),
            (Phase::Asking, Verdict::OutOfReach) if self.role().waits => self.join(),
            (Phase::Asking | Phase::Agreeing, Verdict::OutOfReach) => self.come_to_nothing(),
            (Phase::Agreeing, Verdict::Reached) if is_valid => self.agree(),
            (Phase::Asking | Phase::Agreeing, Verdict::Reached) => self.come_to_nothing(),
            (Phase::Held, verdict) => {
                self.at().fan_out = None;
                let is_wanted = self.role().repairs && terms.quorum.nodes() > 1;
                let has_missing = !self.at().ledger.missing().is_empty();
                if verdict == Verdict::Reached && is_valid && is_wanted && has_missing {
                    let fence = self.at().fence.map_or(0, Fence::as_u64);
                    self.ask_to_extend(true, fence);
                }
            }
        }
    }

    /// It has the lock. `attempt::acquired`.
    fn acquired(&mut self) {
        self.at().fan_out = None;
        match self.step.world.configuration.is_fenced {
            true => {
                self.at().phase = Phase::Agreeing;
                self.agree();
            }
            false => self.at().phase = Phase::Held,
        }
    }

    /// Agrees with the nodes on a fence. `LeaseSet::agree_on_fence`.
    fn agree(&mut self) {
        let (terms, now) = (self.terms(), self.now());
        self.at().fan_out = None;
        let is_valid = self.at().standing(terms, now) == Standing::Held;
        let standing = match self.keeps(Rule::FencesStandWithTheirLeases) {
            true => now,
            false => Instant::default(),
        };
        let counted = Fenced::by(terms.quorum, &self.at().ledger.fences(standing));
        match counted {
            Fenced::Agreed(fence) if is_valid => self.have(fence),
            Fenced::Diverged(highest) if !self.keeps(Rule::FencesAreConfirmed) => self.have(highest),
            Fenced::Diverged(highest) if usize::from(self.at().rounds) <= terms.quorum.nodes() => {
                self.at().rounds += 1;
                self.ask_to_extend(false, highest.as_u64());
            }
            Fenced::Agreed(_) | Fenced::Diverged(_) | Fenced::Uncounted => self.come_to_nothing(),
        }
    }

    fn have(&mut self, fence: Fence) {
        self.at().fence = Some(fence);
        self.at().phase = Phase::Held;
        let floor = self.at().call.floor;
        self.step.state.agreed.push((fence, floor));
    }

    /// How one who waits stands, after something was heard. `Line::settle`, `Member::outlook`.
    fn settle(&mut self) {
        if self.at().phase != Phase::Waiting {
            return;
        }
        let (terms, now) = (self.terms(), self.now());
        let standing = self.at().standing(terms, now);
        if self.at().ledger.has_lost_a_yield() || standing == Standing::Lost {
            return self.come_to_nothing();
        }
        if standing == Standing::Held && !self.at().ledger.is_yielding() {
            self.acquired();
        }
    }

    /// What was granted after it was given back is released at once. `LeaseSet::chase`.
    fn see_to(&mut self, node: u8) {
        let attempt = self.at();
        if attempt.ledger.is_released() && attempt.ledger.is_granted_on(node.into()) {
            self.release();
        }
    }
}
