//! What can happen to a job: [`Kind`].
#![forbid(unsafe_code)]

use clap::ValueEnum;

/// A kind of event. A frozen or cut-off rank that comes back must be told that it is the one, and must harm nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum)]
pub enum Kind {
    /// SIGKILL to any rank
    Kill,
    /// SIGKILL to the lowest rank, in whose process the root of the control plane is
    KillRoot,
    /// SIGKILL to two ranks, one right after the other
    KillTwo,
    /// SIGKILL to a rank while the others shrink because of another one
    KillInShrink,
    /// SIGSTOP to a rank while the others shrink because of another one; SIGCONT when they have gone on
    StopInShrink,
    /// SIGSTOP to any rank; SIGCONT when the others have gone on
    Freeze,
    /// The same to the lowest rank
    FreezeRoot,
    /// SIGSTOP for less than the heartbeat timeout: nobody may be given up
    Nap,
    /// A rank that makes no call for longer than the heartbeat timeout: nobody may be given up
    Slow,
    /// Random bytes, silence and haste at every listening port: nobody may be given up
    Stranger,
    /// One or two newcomers
    Join,
    /// A process that claims to be a rank that lives
    DuplicateJoin,
    /// SIGKILL to a member while it admits a newcomer
    KillInGrow,
    /// SIGKILL to a newcomer while it is admitted
    KillNewcomer,
    /// A rank's packets get lost on their way out
    CutOut,
    /// A rank's packets get lost on their way in
    CutIn,
    /// A rank's cable is pulled
    CutBoth,
    /// A bit of what a rank receives is turned over: the sender is named, and all go on
    BitFlip,
}

impl Kind {
    /// All kinds.
    pub fn all() -> &'static [Kind] {
        Kind::value_variants()
    }

    /// The name in tables and on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().map_or(String::new(), |value| value.get_name().to_string())
    }

    /// How many members there must be.
    pub fn needs(self) -> usize {
        match self {
            Kind::Stranger | Kind::Join | Kind::DuplicateJoin | Kind::KillNewcomer => 1,
            Kind::Kill | Kind::KillRoot | Kind::Freeze | Kind::FreezeRoot | Kind::Nap | Kind::Slow => 2,
            Kind::KillInGrow | Kind::BitFlip => 2,
            // Those who live and can be reached must be more than those who merely cannot be.
            Kind::KillTwo | Kind::KillInShrink | Kind::CutOut | Kind::CutIn | Kind::CutBoth => 3,
            Kind::StopInShrink => 4,
        }
    }

    /// Whether members may become more.
    pub fn grows(self) -> bool {
        matches!(self, Kind::Join | Kind::KillInGrow | Kind::KillNewcomer)
    }

    /// Whether each rank must have a network of its own.
    pub fn needs_networks(self) -> bool {
        matches!(self, Kind::CutOut | Kind::CutIn | Kind::CutBoth)
    }

    /// Whether what travels must carry checksums, or it would not be noticed.
    pub fn needs_checksums(self) -> bool {
        self == Kind::BitFlip
    }

    /// Whether the referee must reach the ranks' ports.
    pub fn needs_ports(self) -> bool {
        matches!(self, Kind::Stranger | Kind::DuplicateJoin)
    }
}
