//! Nodes that are wrong on purpose: a comparison that does not notice them would prove nothing.

use std::fmt;
use std::sync::Weak;
use std::time::Duration;

use redsync::{
    Acquired, Answer, Claim, ClientId, Entered, Expiry, Extended, IfFree, Listener, LockName, Look,
    MemoryNode, Node, Page, Place, Released, Round, Search, Succession, Token, Uptime,
};

/// What is done wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slip {
    LeasesLastAMillisecondLonger,
    FreeNamesAreAlwaysRetaken,
    BargingHandsOver,
    YieldingKeepsTheLease,
    HandOversAreNotCounted,
    RoundsAreNotRenewed,
    PlacesKeepTheirFirstTicket,
}

impl Slip {
    pub(crate) const ALL: [Self; 7] = [
        Self::LeasesLastAMillisecondLonger,
        Self::FreeNamesAreAlwaysRetaken,
        Self::BargingHandsOver,
        Self::YieldingKeepsTheLease,
        Self::HandOversAreNotCounted,
        Self::RoundsAreNotRenewed,
        Self::PlacesKeepTheirFirstTicket,
    ];
}

/// A node in memory with a slip in it.
pub(crate) struct Slipping {
    pub(crate) node: MemoryNode,
    pub(crate) slip: Slip,
}

impl Slipping {
    fn place(&self, mut place: Place) -> Place {
        match self.slip {
            Slip::HandOversAreNotCounted => place.claim.fence = None,
            Slip::RoundsAreNotRenewed => place.round = Round::new(1),
            _ => {}
        }
        place
    }
}

impl Node for Slipping {
    fn identity(&self) -> Answer<'_, String> {
        self.node.identity()
    }

    fn uptime(&self) -> Answer<'_, Uptime> {
        self.node.uptime()
    }

    fn health_warnings(&self) -> Answer<'_, Vec<String>> {
        self.node.health_warnings()
    }

    fn acquire<'a>(&'a self, claim: &'a Claim) -> Answer<'a, Acquired> {
        Box::pin(async move {
            let mut claim = claim.clone();
            if self.slip == Slip::LeasesLastAMillisecondLonger {
                let longer = claim.expiry.as_duration() + Duration::from_millis(1);
                claim.expiry = Expiry::new(longer).expect("it is short");
            }
            self.node.acquire(&claim).await
        })
    }

    fn extend<'a>(&'a self, claim: &'a Claim, if_free: IfFree) -> Answer<'a, Extended> {
        let always = self.slip == Slip::FreeNamesAreAlwaysRetaken;
        self.node.extend(claim, if always { IfFree::Retake } else { if_free })
    }

    fn enter<'a>(&'a self, client: &'a ClientId, places: &'a [Place]) -> Answer<'a, Entered> {
        Box::pin(async move {
            let mut places: Vec<Place> = places.iter().map(|place| self.place(place.clone())).collect();
            if self.slip == Slip::PlacesKeepTheirFirstTicket {
                let look = self.node.inspect(&places[0].claim.name).await?;
                for place in &mut places {
                    let former =
                        look.queue.iter().find(|former| former.token() == place.claim.token.as_str());
                    place.ticket = former.map_or(place.ticket, |former| former.ticket());
                }
            }
            self.node.enter(client, &places).await
        })
    }

    fn yield_lease<'a>(&'a self, client: &'a ClientId, place: &'a Place) -> Answer<'a, Entered> {
        Box::pin(async move {
            let place = self.place(place.clone());
            match self.slip {
                Slip::YieldingKeepsTheLease => self.node.enter(client, &[place]).await,
                _ => self.node.yield_lease(client, &place).await,
            }
        })
    }

    fn release<'a>(
        &'a self,
        name: &'a LockName,
        token: &'a Token,
        succession: Succession,
    ) -> Answer<'a, Released> {
        let hands_over = self.slip == Slip::BargingHandsOver;
        self.node.release(name, token, if hands_over { Succession::HandOver } else { succession })
    }

    fn inspect<'a>(&'a self, name: &'a LockName) -> Answer<'a, Look> {
        self.node.inspect(name)
    }

    fn list<'a>(&'a self, search: &'a Search, from: &'a str) -> Answer<'a, Page> {
        self.node.list(search, from)
    }

    fn listen(&self, client: &ClientId, listener: Weak<dyn Listener>) {
        self.node.listen(client, listener);
    }
}

impl fmt::Display for Slipping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a node of which {:?}", self.slip)
    }
}

impl fmt::Debug for Slipping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
