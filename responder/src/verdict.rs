//! Verdicts on packets, and the names under which they are counted.

/// What the program tells the driver to do with the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// `XDP_TX`: send it back out of the interface on which it arrived.
    Transmit,
    /// `XDP_PASS`: pass it to the kernel's stack, and to the socket in user space if it is for port 123.
    Pass,
    /// `XDP_DROP`: drop it.
    Drop,
}

macro_rules! verdicts {
    ($($(#[$doc:meta])* $name:ident = $label:literal, $action:ident;)*) => {
        /// Every way out of [`crate::respond`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Verdict {
            $($(#[$doc])* $name,)*
        }

        impl Verdict {
            /// All verdicts, in the order of their counters.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Returns the name under which it is counted and shown.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self {
                    $(Self::$name => $label,)*
                }
            }

            /// Returns what happens to the frame.
            #[must_use]
            #[inline(always)]
            pub const fn action(self) -> Action {
                match self {
                    $(Self::$name => Action::$action,)*
                }
            }
        }
    };
}

verdicts! {
    /// Not recognisably for port 123. Never counted: the host's other traffic touches no map.
    NotNtp = "not_ntp", Pass;
    /// Answered with the time.
    Answered = "answered", Transmit;
    /// Answered as unsynchronised, because the clock is not known to be good: leap 3, stratum 0.
    Unsynchronised = "answered_unsynchronised", Transmit;
    /// Answered with the time, by chance: the source is over its rate.
    Leaked = "answered_leaked", Transmit;
    /// Answered with the time: the source is over its rate, but it is known from earlier, and the request came by its usual
    /// path.
    AnsweredKnown = "answered_known", Transmit;
    /// Answered with a kiss of death with the code RATE: the client must send fewer requests.
    KissRate = "kiss_rate", Transmit;
    /// Answered with a kiss of death with the code DENY: the client must stop.
    KissDeny = "kiss_deny", Transmit;
    /// To port 123 of an address that is not served here: forwarded, or another interface's.
    PassForOthers = "pass_for_others", Pass;
    /// To an address that is served here, but in a frame for another station: for another MAC address, a group of
    /// stations, or in a VLAN that this host is not in. The kernel decides.
    PassStation = "pass_station", Pass;
    /// A first fragment, of a source that is admitted if it is of a request: the kernel puts the packet together for the
    /// socket.
    PassFragment = "pass_fragment", Pass;
    /// An admitted client's request with more than the 48 bytes: extension fields or a MAC.
    PassLong = "pass_long", Pass;
    /// Not a client's request, but a server's answer, a broadcast, or a symmetric peer's message that is not to be
    /// answered: another process may wait for it.
    PassMode = "pass_mode", Pass;
    /// A client's request in a version that is not supported here, which another process may answer.
    PassVersion = "pass_version", Pass;
    /// The clock line could not be read whole; the socket answers from its own copy.
    PassClock = "pass_clock", Pass;
    /// From a source that cannot be a client: multicast, broadcast, loopback, zero, or ourselves; or from port 0, which
    /// nobody listens at.
    DropSource = "drop_source", Drop;
    /// A control or private message (modes 6 and 7) from the wire.
    DropControl = "drop_control", Drop;
    /// As [`Self::PassMode`] or [`Self::PassVersion`], where nobody else on this host answers or waits for it.
    DropUnanswered = "drop_unanswered", Drop;
    /// Shorter than its headers claim, shorter than 48 bytes, or not a whole number of words.
    DropLength = "drop_length", Drop;
    /// The IPv4 header's checksum is wrong, or there is no UDP checksum over IPv6, where there must be one.
    DropChecksum = "drop_checksum", Drop;
    /// The source is over its rate.
    DropLimited = "drop_limited", Drop;
    /// An access list denies the source.
    DropDenied = "drop_denied", Drop;
    /// The server's budget is spent, and the source owes more than others.
    DropBudget = "drop_budget", Drop;
    /// The answer could not be sent from the socket: there is no route, a firewall forbids it, or memory is short.
    DropUnsent = "drop_unsent", Drop;
}

impl Verdict {
    /// The inverse of `as u8` for the verdicts of [`crate::admission::Client::admit`]. Any other value is a request that is
    /// dropped.
    #[must_use]
    #[inline(always)]
    pub const fn of_admission(value: u8) -> Self {
        const ANSWERED: u8 = Verdict::Answered as u8;
        const LEAKED: u8 = Verdict::Leaked as u8;
        const KNOWN: u8 = Verdict::AnsweredKnown as u8;
        const KISS_RATE: u8 = Verdict::KissRate as u8;
        const KISS_DENY: u8 = Verdict::KissDeny as u8;
        const DENIED: u8 = Verdict::DropDenied as u8;
        const BUDGET: u8 = Verdict::DropBudget as u8;
        match value {
            ANSWERED => Self::Answered,
            LEAKED => Self::Leaked,
            KNOWN => Self::AnsweredKnown,
            KISS_RATE => Self::KissRate,
            KISS_DENY => Self::KissDeny,
            DENIED => Self::DropDenied,
            BUDGET => Self::DropBudget,
            _ => Self::DropLimited,
        }
    }

    /// Returns whether the access lists, the limiter or the budget decided it.
    #[must_use]
    pub const fn is_of_limits(self) -> bool {
        matches!(
            self,
            Self::Leaked
                | Self::AnsweredKnown
                | Self::KissRate
                | Self::KissDeny
                | Self::DropLimited
                | Self::DropDenied
                | Self::DropBudget
        )
    }
}

/// The network protocol of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl Family {
    /// Both families, in the order of their counters.
    pub const ALL: &'static [Self] = &[Self::Ipv4, Self::Ipv6];

    /// Returns the name under which it is counted and shown.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
        }
    }
}

/// A verdict with everything that its counter depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What happens to the frame.
    pub verdict: Verdict,
    /// The network protocol.
    pub family: Family,
    /// The NTP version that the packet claims; 0 where none was read.
    pub version: u8,
}

/// Number of verdicts that the counters have room for. It is a power of two, so that the index needs only
/// shifts.
pub const VERDICT_ROOM: usize = if cfg!(feature = "other-layout") { 64 } else { 32 };
/// Number of NTP versions: the field has three bits.
pub const VERSIONS: usize = 8;
/// Counters of an interface, one for each verdict, family and version.
pub const COUNTERS: usize = if cfg!(feature = "other-layout") { 1024 } else { 512 };

const _: () = assert!(COUNTERS == VERDICT_ROOM * 2 * VERSIONS && Verdict::ALL.len() <= VERDICT_ROOM);

impl Outcome {
    /// A packet that is not for us.
    pub const NOT_NTP: Self = Self { verdict: Verdict::NotNtp, family: Family::Ipv4, version: 0 };

    /// Returns all outcomes that have a counter.
    pub fn all() -> impl Iterator<Item = Self> {
        let of_version = |version| {
            let of = move |verdict: &Verdict, family: &Family| Self {
                verdict: *verdict,
                family: *family,
                version,
            };
            Verdict::ALL
                .iter()
                .flat_map(move |verdict| Family::ALL.iter().map(move |family| of(verdict, family)))
        };
        (0..8).flat_map(of_version)
    }

    #[inline(always)]
    pub(crate) const fn new(verdict: Verdict, family: Family) -> Self {
        Self { verdict, family, version: 0 }
    }

    #[inline(always)]
    pub(crate) const fn with_version(self, version: u8) -> Self {
        Self { version, ..self }
    }

    /// Returns the index of the counter, below [`COUNTERS`].
    #[must_use]
    #[inline(always)]
    pub const fn counter(self) -> usize {
        ((self.verdict as usize) << 4 | (self.family as usize) << 3 | (self.version as usize & 7))
            & (COUNTERS - 1)
    }
}
