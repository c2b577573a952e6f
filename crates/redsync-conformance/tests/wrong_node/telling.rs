//! Defects in who is told of what.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};

use futures_util::FutureExt;
use redsync::{Answer, ClientId, Grant, Listener, LockName, Node, NodeFault, Round, Token};

use super::fencing::preceding;
use super::{Defect, Notes, WrongNode};

/// Those who stand between the node and its listeners.
#[derive(Default)]
pub(super) struct Tellers {
    by_client: Mutex<HashMap<ClientId, Arc<Teller>>>,
    /// What those who have left would have been told.
    left: Mutex<Vec<(ClientId, Grant)>>,
}

impl Tellers {
    pub(super) fn note_left(&self, client: ClientId, grant: Grant) {
        self.left.lock().unwrap().push((client, grant));
    }

    pub(super) fn tell(&self, client: &ClientId, grant: Grant) {
        let teller = self.by_client.lock().unwrap().get(client).cloned();
        if let Some(listener) = teller.and_then(|teller| teller.listener.upgrade()) {
            listener.granted(grant);
        }
    }

    pub(super) fn all(&self) -> Vec<Arc<dyn Listener>> {
        self.by_client.lock().unwrap().values().filter_map(|teller| teller.listener.upgrade()).collect()
    }
}

thread_local! {
    static IS_SILENT: Cell<bool> = const { Cell::new(false) };
}

/// The memory node's answer, which is there at once; nobody is told meanwhile.
pub(super) fn silently<T>(answer: Answer<'_, T>) -> Result<T, NodeFault> {
    IS_SILENT.set(true);
    let answer = answer.now_or_never().expect("a memory node answers when it is asked");
    IS_SILENT.set(false);
    answer
}

impl WrongNode {
    pub(super) fn listen_to_inner(&self, client: &ClientId, listener: Weak<dyn Listener>) {
        let notes = Arc::downgrade(&self.notes);
        let teller = Arc::new(Teller { defect: self.defect, notes, listener });
        let weak = Arc::downgrade(&teller);
        self.inner.listen(client, weak);
        self.notes.tellers.by_client.lock().unwrap().insert(client.clone(), teller);
    }

    /// The node notices by now who is gone.
    pub(super) fn forget_the_gone(&self) {
        let is_there = |teller: &Teller| teller.listener.strong_count() > 0;
        self.notes.tellers.by_client.lock().unwrap().retain(|_, teller| is_there(teller));
    }
}

struct Teller {
    defect: Defect,
    notes: Weak<Notes>,
    listener: Weak<dyn Listener>,
}

impl Listener for Teller {
    fn granted(&self, grant: Grant) {
        let (Some(listener), Some(notes)) = (self.listener.upgrade(), self.notes.upgrade()) else { return };
        let fence = grant.fence.map(|fence| notes.fences.misreport(self.defect, &grant.name, fence));
        let grant = grant.fenced(fence);
        match self.defect {
            _ if IS_SILENT.get() => {}
            Defect::TellsNobody => {}
            Defect::TellsNoFences => listener.granted(grant.fenced(None)),
            Defect::TellsTheFenceBefore => listener.granted(grant.fenced(fence.map(preceding))),
            Defect::TellsTwice => {
                listener.granted(grant.clone());
                listener.granted(grant);
            }
            Defect::TellsOthersToo => {
                notes.tellers.all().iter().for_each(|listener| listener.granted(grant.clone()));
            }
            Defect::TellsThoseWhoLeft => {
                let left: Vec<_> = {
                    let left = notes.tellers.left.lock().unwrap();
                    left.iter().filter(|(_, other)| other.name == grant.name).cloned().collect()
                };
                left.into_iter().for_each(|(client, grant)| notes.tellers.tell(&client, grant));
                listener.granted(grant);
            }
            Defect::ReadsGrantsToTheFirstColon => listener.granted(reread(&grant)),
            _ => listener.granted(grant),
        }
    }

    fn freed(&self, name: LockName) {
        let (Some(listener), Some(notes)) = (self.listener.upgrade(), self.notes.upgrade()) else { return };
        match self.defect {
            _ if IS_SILENT.get() => {}
            Defect::BargingTellsNobody => {}
            Defect::BargingTellsAll => {
                notes.tellers.all().iter().for_each(|listener| listener.freed(name.clone()));
            }
            _ => listener.freed(name),
        }
    }

    fn interrupted(&self) {
        if let Some(listener) = self.listener.upgrade() {
            listener.interrupted();
        }
    }
}

impl std::fmt::Debug for Teller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Teller({:?})", self.defect)
    }
}

/// `ROUND:TOKEN:NAME`, taken apart again.
fn reread(grant: &Grant) -> Grant {
    let text = format!("{}:{}:{}", grant.round, grant.token, grant.name);
    let mut parts = text.splitn(3, ':');
    let round = parts.next().and_then(|round| round.parse().ok()).unwrap_or_default();
    let (token, name) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    match (Token::from_text(token), LockName::new(name)) {
        (Ok(token), Ok(name)) => Grant::new(name, token, Round::new(round)).fenced(grant.fence),
        _ => grant.clone(),
    }
}
