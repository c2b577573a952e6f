//! The rules that can be broken on purpose: each is one that the protocol needs, and a model in which breaking it changes
//! nothing would prove nothing.

/// A rule of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the words are in `Rule::words`, where they are printed from")]
pub enum Rule {
    BoundsStartBeforeSending,
    DriftIsTakenOff,
    AMajorityOfEndsStands,
    LossIsFinal,
    FailuresAreUndone,
    TokensAreFresh,
    ReleasingChecksTheOwner,
    RestartsAreGuarded,
    QuarantinesLast,
    QuarantinesCountAttempts,
    GrantsCountFromTheirRound,
    StaleRoundsAreOver,
    YieldedLeasesCountForNothing,
    LostYieldsSpoil,
    UnwantedGrantsArePassedOn,
    ToldGrantsAreConfirmed,
    TheDeadAreSkipped,
    HandingOverCounts,
    FencesAreConfirmed,
    FencesStandWithTheirLeases,
    ConfirmingChecksTheOwner,
    CountersFollowTime,
}

impl Rule {
    /// All of them.
    pub const ALL: [Self; 22] = [
        Self::BoundsStartBeforeSending,
        Self::DriftIsTakenOff,
        Self::AMajorityOfEndsStands,
        Self::LossIsFinal,
        Self::FailuresAreUndone,
        Self::TokensAreFresh,
        Self::ReleasingChecksTheOwner,
        Self::RestartsAreGuarded,
        Self::QuarantinesLast,
        Self::QuarantinesCountAttempts,
        Self::GrantsCountFromTheirRound,
        Self::StaleRoundsAreOver,
        Self::YieldedLeasesCountForNothing,
        Self::LostYieldsSpoil,
        Self::UnwantedGrantsArePassedOn,
        Self::ToldGrantsAreConfirmed,
        Self::TheDeadAreSkipped,
        Self::HandingOverCounts,
        Self::FencesAreConfirmed,
        Self::FencesStandWithTheirLeases,
        Self::ConfirmingChecksTheOwner,
        Self::CountersFollowTime,
    ];

    /// The name of the mutant that breaks it.
    pub const fn mutant(self) -> &'static str {
        match self {
            Self::BoundsStartBeforeSending => "bound-from-the-answer",
            Self::DriftIsTakenOff => "no-drift",
            Self::AMajorityOfEndsStands => "largest-end",
            Self::LossIsFinal => "revival",
            Self::FailuresAreUndone => "no-undo",
            Self::TokensAreFresh => "one-token",
            Self::ReleasingChecksTheOwner => "release-anybodys",
            Self::RestartsAreGuarded => "no-restart-guard",
            Self::QuarantinesLast => "trusted-again-at-once",
            Self::QuarantinesCountAttempts => "trusted-by-earlier-attempts",
            Self::GrantsCountFromTheirRound => "grant-from-when-heard",
            Self::StaleRoundsAreOver => "stale-rounds",
            Self::YieldedLeasesCountForNothing => "yielded-leases-count",
            Self::LostYieldsSpoil => "lost-yields-forgotten",
            Self::UnwantedGrantsArePassedOn => "unwanted-grants-kept",
            Self::ToldGrantsAreConfirmed => "told-grants-believed",
            Self::TheDeadAreSkipped => "the-dead-are-granted",
            Self::HandingOverCounts => "uncounted-hand-over",
            Self::FencesAreConfirmed => "unconfirmed-fence",
            Self::FencesStandWithTheirLeases => "lapsed-fence",
            Self::ConfirmingChecksTheOwner => "confirmed-by-anybody",
            Self::CountersFollowTime => "plain-counters",
        }
    }

    /// The rule, and what its mutant does instead.
    pub const fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::BoundsStartBeforeSending => (
                "bounds start before the first byte is sent",
                "a lease is counted from when its answer is heard",
            ),
            Self::DriftIsTakenOff => (
                "an allowance for drift is taken off",
                "the whole expiry is believed, though nodes' clocks run fast",
            ),
            Self::AMajorityOfEndsStands => ("valid_until is the M-th largest lease end", "it is the largest"),
            Self::LossIsFinal => {
                ("extending cannot revive what is over", "a lost guard extends, and believes what it is told")
            }
            Self::FailuresAreUndone => ("a failed attempt is undone", "what it was granted is left"),
            Self::TokensAreFresh => {
                ("a token belongs to one attempt", "all attempts of a client have the same")
            }
            Self::ReleasingChecksTheOwner => {
                ("a release ends nobody else's lease", "it ends the lease, whosever it is")
            }
            Self::RestartsAreGuarded => {
                ("votes of a node that may have forgotten are withheld", "they count")
            }
            Self::QuarantinesLast => (
                "they are withheld for the expiry and drift",
                "only the attempt that saw the restart withholds them",
            ),
            Self::QuarantinesCountAttempts => (
                "and from attempts that began before that was over",
                "what counts is when the answer is heard",
            ),
            Self::GrantsCountFromTheirRound => {
                ("a grant counts from before its round was sent", "it counts from when it is heard of")
            }
            Self::StaleRoundsAreOver => {
                ("a grant of a stale round is over", "it counts as one of the newest round")
            }
            Self::YieldedLeasesCountForNothing => {
                ("a lease counts for nothing from before it is yielded", "it counts until the answer comes")
            }
            Self::LostYieldsSpoil => (
                "a token of which a yield is lost is given up",
                "a lost yield is taken for one that was never sent",
            ),
            Self::UnwantedGrantsArePassedOn => {
                ("a grant that nobody wants any more is released", "it is ignored")
            }
            Self::ToldGrantsAreConfirmed => (
                "where others may publish, a grant that is told of counts once the node has confirmed it",
                "it counts when it is told of",
            ),
            Self::TheDeadAreSkipped => (
                "who let its place lapse, or cannot be told, is skipped",
                "the first in the queue gets it, dead or alive",
            ),
            Self::HandingOverCounts => {
                ("a hand-over raises the counter", "only leases that are asked for do")
            }
            Self::FencesAreConfirmed => {
                ("a fence is what a majority has exactly", "it is the highest that any node counted")
            }
            Self::FencesStandWithTheirLeases => {
                ("what was counted for a lease that has run out is no vote for a fence", "it is one")
            }
            Self::ConfirmingChecksTheOwner => {
                ("a node raises its counter for the holder alone", "for whoever asks")
            }
            Self::CountersFollowTime => {
                ("counters follow the time", "they start at one, and go up by one, whatever is proposed")
            }
        }
    }
}
