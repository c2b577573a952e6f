//! The configurations: small worlds that are searched to the end, and larger ones that are not.

use crate::configuration::{Configuration, Faults, Role, Search};
use crate::world::Action;

const NO_FAULTS: Faults = Faults { delays: 2, breaks: 0, crashes: 0, restarts: 0, wipes: 0, forgeries: 0 };

/// What most configurations have.
fn base(name: &'static str, words: &'static str, nodes: u8, clients: Vec<Role>) -> Configuration {
    Configuration {
        name,
        words,
        nodes,
        clients,
        expiry: 2,
        ticks: 3,
        hurry: 0,
        is_fenced: false,
        confirms: false,
        faults: NO_FAULTS,
        prelude: Vec::new(),
        search: Search::Exhaustive,
        is_quick: true,
        sights: &["holds"],
    }
}

/// The one of this name.
pub(crate) fn named(name: &str) -> Option<Configuration> {
    all().into_iter().find(|configuration| configuration.name == name)
}

/// Those that are checked with all rules, by the time they take.
pub(crate) fn all() -> Vec<Configuration> {
    let tries = Role::tries();
    let waits = Role::waits();
    let extends = Role { extensions: 1, ..tries };
    vec![
        Configuration {
            faults: Faults { breaks: 1, delays: 1, ..NO_FAULTS },
            sights: &["holds", "is refused"],
            ..base("one-tries", "one node, two clients that try", 1, vec![Role { attempts: 2, ..tries }; 2])
        },
        Configuration {
            sights: &["holds", "extends", "loses"],
            ..base("one-extends", "one node, two clients that try and extend", 1, vec![extends; 2])
        },
        Configuration {
            hurry: 1,
            expiry: 3,
            faults: Faults { delays: 1, ..NO_FAULTS },
            ..base("one-fast", "one node with a fast clock, two clients that try", 1, vec![tries; 2])
        },
        Configuration {
            faults: Faults { delays: 1, breaks: 1, ..NO_FAULTS },
            sights: &["holds", "is handed a lease", "waits behind another"],
            ..base(
                "one-waits",
                "one node, two clients that wait",
                1,
                vec![Role { cancels: true, ..waits }; 2],
            )
        },
        Configuration {
            faults: Faults { delays: 2, crashes: 1, ..NO_FAULTS },
            sights: &["holds", "is handed a lease", "loses"],
            ..base("one-crashes", "one node, two clients that wait, one of which crashes", 1, vec![waits; 2])
        },
        Configuration {
            confirms: true,
            is_fenced: true,
            faults: Faults { delays: 1, forgeries: 1, ..NO_FAULTS },
            sights: &["holds", "is handed a lease", "extends"],
            ..base(
                "one-forged",
                "one node, two clients that wait, and another who tells them of grants that there were not",
                1,
                vec![Role { extensions: 1, ..waits }, waits],
            )
        },
        Configuration {
            is_fenced: true,
            faults: Faults { delays: 1, ..NO_FAULTS },
            sights: &["is handed a lease", "agrees on two fences"],
            ..base("one-line", "one node, three clients in the queue", 1, vec![waits; 3])
        },
        Configuration {
            faults: Faults { delays: 2, ..NO_FAULTS },
            ..base("three-tries", "three nodes, two clients that try", 3, vec![tries; 2])
        },
        Configuration {
            faults: Faults { delays: 1, breaks: 1, ..NO_FAULTS },
            search: Search::Depth(13),
            is_quick: false,
            prelude: vec![Action::Begin(0), Action::Apply(0, 0), Action::Apply(0, 1), Action::Apply(0, 2)],
            sights: &["extends"],
            ..base("three-extends", "three nodes, two clients that try", 3, vec![extends, tries])
        },
        Configuration {
            ticks: 4,
            faults: Faults { delays: 1, wipes: 1, ..NO_FAULTS },
            search: Search::Depth(14),
            is_quick: false,
            sights: &["holds", "withholds a vote"],
            ..base("three-wipes", "three nodes, one of which loses its data", 3, vec![tries; 2])
        },
        Configuration {
            is_fenced: true,
            ticks: 1,
            faults: Faults { delays: 0, ..NO_FAULTS },
            sights: &["confirms a fence", "agrees on two fences"],
            ..base(
                "three-fences",
                "three nodes, two clients that try and want a fence, one of them twice",
                3,
                vec![tries, Role { attempts: 2, ..tries }],
            )
        },
        Configuration {
            is_fenced: true,
            faults: Faults { delays: 1, wipes: 1, ..NO_FAULTS },
            sights: &["withholds a vote"],
            ..base(
                "three-wiped-fences",
                "the same, and one node loses its data",
                3,
                vec![Role { releases: false, ..tries }; 2],
            )
        },
        Configuration {
            is_fenced: true,
            ticks: 4,
            expiry: 3,
            faults: Faults { delays: 3, wipes: 1, ..NO_FAULTS },
            prelude: vec![
                Action::Begin(0),
                Action::Apply(0, 0),
                Action::Apply(0, 1),
                Action::Restart(1, false),
                Action::Tick,
                Action::Tick,
            ],
            sights: &["withholds a vote"],
            ..base(
                "three-wrong-clocks",
                "three nodes, one of which lost its data, and clients of which one is ahead and one behind",
                3,
                vec![
                    Role { offset: 2, releases: false, ..tries },
                    Role { offset: -3, releases: false, ..tries },
                ],
            )
        },
        Configuration {
            is_fenced: true,
            faults: Faults { delays: 3, ..NO_FAULTS },
            prelude: vec![
                Action::Begin(1),
                Action::Apply(1, 0),
                Action::Apply(1, 1),
                Action::Apply(1, 2),
                Action::Release(1),
                Action::Apply(1, 0),
                Action::Apply(1, 1),
                Action::Apply(1, 2),
                Action::Tick,
                Action::Begin(0),
                Action::Apply(0, 0),
                Action::Tick,
                Action::Renew(0),
                Action::Tick,
                Action::Begin(1),
                Action::Apply(1, 0),
            ],
            search: Search::Depth(15),
            is_quick: false,
            sights: &["agrees on two fences", "confirms a fence"],
            ..base(
                "three-lapsed",
                "three nodes, of which one granted a lease that has run out, to one who still waits for the others",
                3,
                vec![waits, Role { attempts: 2, ..tries }],
            )
        },
        Configuration {
            ticks: 2,
            faults: Faults { delays: 0, wipes: 1, ..NO_FAULTS },
            is_quick: false,
            sights: &["withholds a vote"],
            ..base(
                "three-repairs",
                "three nodes, one of which loses its data, and a holder that takes its lease again",
                3,
                vec![Role { extensions: 1, repairs: true, ..tries }, tries],
            )
        },
        Configuration {
            ticks: 2,
            faults: Faults { delays: 0, ..NO_FAULTS },
            search: Search::Depth(14),
            is_quick: false,
            sights: &["waits behind another", "yields"],
            ..base("three-waits", "three nodes, two clients that wait", 3, vec![waits; 2])
        },
        Configuration {
            ticks: 2,
            faults: Faults { delays: 1, breaks: 1, ..NO_FAULTS },
            search: Search::Depth(11),
            is_quick: false,
            sights: &["yields", "gives up a token of which a yield was lost"],
            ..base(
                "three-yields",
                "the same, a connection breaks, and a token is given up",
                3,
                vec![Role { attempts: 2, ..waits }, waits],
            )
        },
        Configuration {
            ticks: 2,
            faults: Faults { delays: 3, breaks: 1, ..NO_FAULTS },
            prelude: vec![
                Action::Begin(0),
                Action::Apply(0, 0),
                Action::Tick,
                Action::Renew(0),
                Action::Break(0, 0),
                Action::Apply(0, 1),
                Action::Apply(0, 2),
                Action::Extend(0),
            ],
            is_quick: false,
            ..base(
                "three-refused",
                "three nodes, and one who waited, extends, and finds another where its place was being renewed",
                3,
                vec![Role { extensions: 1, ..waits }, tries],
            )
        },
        Configuration {
            ticks: 1,
            faults: Faults { delays: 3, restarts: 1, ..NO_FAULTS },
            prelude: vec![
                Action::Begin(1),
                Action::Apply(1, 2),
                Action::Begin(0),
                Action::Apply(0, 0),
                Action::Apply(0, 1),
                Action::Apply(0, 2),
                Action::Extend(0),
            ],
            is_quick: false,
            ..base(
                "three-told",
                "three nodes, and one who is told of the third when it has asked whether that is free, and given up",
                3,
                vec![Role { extensions: 1, repairs: true, ..waits }, tries],
            )
        },
        Configuration {
            is_fenced: true,
            faults: Faults { delays: 1, wipes: 1, ..NO_FAULTS },
            prelude: vec![
                Action::Begin(0),
                Action::Begin(1),
                Action::Apply(1, 0),
                Action::Apply(1, 1),
                Action::Restart(1, false),
            ],
            is_quick: false,
            ..base(
                "three-spans",
                "three nodes, one of which loses its data, and one who waits beyond the end of its quarantine",
                3,
                vec![Role { yields: 0, ..waits }, tries],
            )
        },
        Configuration {
            faults: Faults { delays: 3, breaks: 2, crashes: 1, restarts: 1, wipes: 1, forgeries: 0 },
            ticks: 8,
            is_fenced: true,
            search: Search::Random { states: 2_000_000 },
            is_quick: false,
            ..base(
                "three-of-everything",
                "three nodes, three clients, and everything that goes wrong, at random",
                3,
                vec![
                    Role { attempts: 3, asks_first: true, cancels: true, extensions: 2, yields: 3, ..waits },
                    Role { attempts: 3, extensions: 2, yields: 3, repairs: true, ..waits },
                    Role { attempts: 3, extensions: 2, repairs: true, ..tries },
                ],
            )
        },
        Configuration {
            faults: Faults { delays: 3, breaks: 2, crashes: 1, restarts: 1, wipes: 0, forgeries: 0 },
            ticks: 8,
            is_fenced: true,
            search: Search::Random { states: 1_000_000 },
            is_quick: false,
            ..base(
                "three-with-clocks",
                "the same, where no data is lost, and clocks are wrong",
                3,
                vec![
                    Role { attempts: 3, asks_first: true, cancels: true, offset: 2, ..waits },
                    Role { attempts: 3, extensions: 2, yields: 3, repairs: true, offset: -3, ..waits },
                    Role { attempts: 3, extensions: 2, repairs: true, ..tries },
                ],
            )
        },
        Configuration {
            faults: Faults { delays: 4, breaks: 2, crashes: 1, restarts: 1, wipes: 1, forgeries: 0 },
            ticks: 8,
            is_fenced: true,
            search: Search::Random { states: 1_000_000 },
            is_quick: false,
            ..base(
                "five-of-everything",
                "the same with five nodes",
                5,
                vec![
                    Role { attempts: 3, asks_first: true, cancels: true, extensions: 2, yields: 3, ..waits },
                    Role { attempts: 3, extensions: 2, yields: 3, repairs: true, ..waits },
                    Role { attempts: 3, extensions: 2, repairs: true, ..tries },
                ],
            )
        },
    ]
}
