//! What led to a state, in words: one line for each step, with who does what, and what is answered.

use std::fmt;

use stateright::Path;

use crate::client::{Client, Phase};
use crate::node::{Acquired, ClientId, Extended, Placed, Released, Told};
use crate::terms::micros;
use crate::wire::{Answer, Request, Said, What};
use crate::world::{Action, State, World};
use redsync_proto::Fence;

/// The steps of `path`, those that its configuration begins with included.
pub(crate) fn told(world: &World, path: Path<State, Action>) -> Vec<String> {
    let steps = world.configuration.prelude.iter().copied().chain(path.into_actions());
    let mut state = world.first();
    let mut lines = Vec::new();
    for action in steps {
        let after = world.after(&state, action);
        lines.push(Line { world, before: &state, after: &after, action }.to_string());
        state = after;
    }
    lines
}

/// One step.
struct Line<'a> {
    world: &'a World,
    before: &'a State,
    after: &'a State,
    action: Action,
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes = self.world.nodes();
        match self.action {
            Action::Tick => write!(f, "time goes on: it is {}", self.after.now)?,
            Action::Begin(client) => write!(f, "{} {}", Name(client), self.begins(client))?,
            Action::Apply(client, node) | Action::ApplyUnheard(client, node) => {
                let request = self.before.link(nodes, client, node).requests[0];
                write!(f, "node {} {}", node + 1, self.applies(client, node, &request))?;
                match self.action {
                    Action::ApplyUnheard(..) => write!(f, "; the answer is slow")?,
                    _ => self.say_what_follows(f, client)?,
                }
            }
            Action::ApplyStray(client, node, stray) => {
                let request = self.before.link(nodes, client, node).strays[usize::from(stray)];
                let applied = self.applies(client, node, &request);
                write!(f, "node {} only now {applied}; nobody hears the answer", node + 1)?;
            }
            Action::Hear(client, node, answer) => {
                let Answer { request, said } =
                    self.before.link(nodes, client, node).answers[usize::from(answer)];
                write!(
                    f,
                    "{} hears from node {}, of its request to {}: {}",
                    Name(client),
                    node + 1,
                    Asked(&request),
                    Answered(said)
                )?;
                self.say_what_follows(f, client)?;
            }
            Action::HearPush(push) => {
                let push = self.before.pushes[usize::from(push)];
                if let Told::Granted { client: ClientId(client), round, .. } = push.told {
                    write!(
                        f,
                        "{} is told by node {} that it was granted the lease in round {round}",
                        Name(client),
                        push.node + 1
                    )?;
                    self.say_what_follows(f, client)?;
                }
            }
            Action::Renew(client) => write!(f, "{} has its places renewed", Name(client))?,
            Action::Yield(client) => {
                write!(f, "{} asks to give back what it has, which is too little", Name(client))?;
            }
            Action::Extend(client) => write!(f, "{} asks to extend", Name(client))?,
            Action::Release(client) => {
                let holds = self.phase(self.before, client) == Some(Phase::Held);
                write!(f, "{} {}", Name(client), if holds { "releases" } else { "gives up waiting" })?;
            }
            Action::Break(client, node) => {
                write!(
                    f,
                    "the connection of {} to node {} breaks: what it asked may be applied yet",
                    Name(client),
                    node + 1
                )?;
                self.say_what_follows(f, client)?;
            }
            Action::Forge(client, node) => {
                write!(f, "another tells {} in the name of node {}", Name(client), node + 1)?;
            }
            Action::Crash(client) => write!(f, "{} crashes", Name(client))?,
            Action::Restart(node, keeps_data) => {
                write!(
                    f,
                    "node {} restarts, {} its data",
                    node + 1,
                    if keeps_data { "with" } else { "without" }
                )?;
            }
        }
        self.say_who_is_told(f)
    }
}

impl Line<'_> {
    fn phase(&self, state: &State, client: u8) -> Option<Phase> {
        state.clients[usize::from(client)].current().map(|attempt| attempt.phase)
    }

    fn begins(&self, client: u8) -> String {
        let attempt = self.after.clients[usize::from(client)].attempt().map(|attempt| attempt.call.ticket);
        let ticket = attempt.unwrap_or_default();
        match self.phase(self.after, client) {
            Some(Phase::Waiting) => {
                format!("asks all nodes for a place in the queue, with ticket {}", Number(ticket))
            }
            _ => format!("asks all nodes for the lease, and proposes fence {}", Number(ticket)),
        }
    }

    /// What the node makes of a request, told by asking it once more.
    fn applies(&self, client: u8, node: u8, request: &Request) -> String {
        let mut again = self.before.clone();
        let said = crate::step::Step::new(self.world, &mut again).answer(client, node, *request, true);
        format!("applies the request of {} to {}: {}", Name(client), Asked(request), Answered(said))
    }

    /// How the client stands, if that is new.
    fn say_what_follows(&self, f: &mut fmt::Formatter<'_>, client: u8) -> fmt::Result {
        let (before, after) = (self.at(self.before, client), self.at(self.after, client));
        let phases = |client: &Client| (client.attempts.len(), client.attempt().map(|attempt| attempt.phase));
        if phases(before) == phases(after) {
            return Ok(());
        }
        if after.attempts.len() > before.attempts.len() {
            write!(f, "; it goes on with another token")?;
        }
        match after.attempt().map(|attempt| (attempt.phase, attempt.fence)) {
            Some((Phase::Held, Some(fence))) => {
                write!(f, "; {} holds, with fence {}", Name(client), Number(fence.as_u64()))
            }
            Some((Phase::Held, None)) => write!(f, "; {} holds", Name(client)),
            Some((Phase::Agreeing, _)) => write!(f, "; it asks the nodes to agree on a fence"),
            Some((Phase::Waiting, _)) => write!(f, "; it waits in the queue"),
            Some((Phase::Ended, _)) => write!(f, "; it gives up, and gives back what it may have"),
            Some((Phase::Asking, _)) | None => Ok(()),
        }
    }

    fn say_who_is_told(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for push in &self.after.pushes {
            let is_new =
                !self.before.pushes.iter().any(|other| (other.node, other.told) == (push.node, push.told));
            if let Told::Granted { client, round, fence, .. } = push.told
                && is_new
            {
                write!(
                    f,
                    "; it hands the lease over to {}, in round {round}{}",
                    Name(client.0),
                    Counted(fence)
                )?;
            }
        }
        Ok(())
    }

    fn at<'s>(&self, state: &'s State, client: u8) -> &'s Client {
        &state.clients[usize::from(client)]
    }
}

/// A client's name.
struct Name(u8);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", char::from(b'A' + self.0))
    }
}

/// A ticket or a fence, counted in ticks and millionths: `2+1` is one more than the clock shows at 2.
struct Number(u64);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tick = micros(1) - micros(0);
        let since = self.0.cast_signed() - micros(0).cast_signed();
        if since < -500 * tick.cast_signed() {
            return write!(f, "{}", self.0);
        }
        let (ticks, more) = (since.div_euclid(tick.cast_signed()), since.rem_euclid(tick.cast_signed()));
        match more {
            0 => write!(f, "{ticks}"),
            more => write!(f, "{ticks}+{more}"),
        }
    }
}

/// Where a counter stands.
struct Counted(Option<Fence>);

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(fence) => write!(f, ", counted {}", Number(fence.as_u64())),
            None => Ok(()),
        }
    }
}

/// What is asked for.
struct Asked<'a>(&'a Request);

impl fmt::Display for Asked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let round = self.0.number.round();
        match self.0.what {
            What::Acquire => write!(f, "acquire"),
            What::Enter { .. } => write!(f, "enter in round {round}"),
            What::Yield { .. } => write!(f, "yield in round {round}"),
            What::Extend { retakes } => {
                write!(f, "{}", if retakes { "extend, or take again" } else { "extend" })?;
                self.0.fence.map_or(Ok(()), |fence| write!(f, " and raise the counter to {}", Number(fence)))
            }
            What::Release { before: Some(_) } => write!(f, "release"),
            What::Release { before: None } => write!(f, "pass on what it did not want"),
        }
    }
}

/// What is answered.
struct Answered(Said);

impl fmt::Display for Answered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Said::Acquired(Acquired::Granted(fence)) | Said::Placed(Placed::Granted(fence)) => {
                write!(f, "granted{}", Counted(fence))
            }
            Said::Acquired(Acquired::Taken(_)) => write!(f, "taken"),
            Said::Acquired(Acquired::Uncountable) => write!(f, "refused"),
            Said::Placed(Placed::Queued(position)) => write!(f, "in the queue, number {position}"),
            Said::Extended(Extended::Extended(fence)) => write!(f, "extended{}", Counted(fence)),
            Said::Extended(Extended::Retaken) => write!(f, "taken again"),
            Said::Extended(Extended::NotHeld) | Said::Released(Released::NotHeld) => {
                write!(f, "nobody has it")
            }
            Said::Extended(Extended::HeldByAnother(_)) | Said::Released(Released::HeldByAnother(_)) => {
                write!(f, "another has it")
            }
            Said::Released(Released::Released) => write!(f, "released"),
            Said::Released(Released::Left) => write!(f, "left the line"),
        }
    }
}
