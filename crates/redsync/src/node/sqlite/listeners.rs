//! Who is told of what happens to those who wait.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::node::{ClientId, Listener};

/// Who is told, by the client's name. None of them is kept alive by it.
#[derive(Debug, Default)]
pub(super) struct Listeners(Mutex<HashMap<ClientId, Weak<dyn Listener>>>);

impl Listeners {
    pub(super) fn listen(&self, client: &ClientId, listener: Weak<dyn Listener>) {
        self.lock().insert(client.clone(), listener);
    }

    pub(super) fn of(&self, client: &ClientId) -> Option<Arc<dyn Listener>> {
        self.lock().get(client).and_then(Weak::upgrade)
    }

    pub(super) fn all(&self) -> Vec<Arc<dyn Listener>> {
        self.lock().values().filter_map(Weak::upgrade).collect()
    }

    /// Whether it listened here, and is gone. Of clients of other nodes, nothing is known.
    pub(super) fn is_gone(&self, client: &str) -> bool {
        self.lock().get(client).is_some_and(is_gone)
    }

    pub(super) fn gone(&self) -> Vec<ClientId> {
        let listeners = self.lock();
        listeners.iter().filter(|(_, listener)| is_gone(listener)).map(|(client, _)| client.clone()).collect()
    }

    pub(super) fn forget(&self, client: &ClientId) {
        self.lock().remove(client);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ClientId, Weak<dyn Listener>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_gone(listener: &Weak<dyn Listener>) -> bool {
    listener.strong_count() == 0
}
