//! What is not wrong with a configuration, but not good either.

use std::fmt::{self, Display};
use std::path::PathBuf;

use responder::Family;

/// Something that an operator should know or change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Warning {
    /// So many upstreams, and `source = "system"`.
    NotUsed(usize),
    /// So many upstreams: a wrong one may win, or be missed.
    TooFew(usize),
    /// So many upstreams: more than anybody needs.
    TooMany(usize),
    /// An upstream is asked more often than strangers should.
    PollsTooOften {
        /// Its name or address.
        upstream: String,
        /// The shortest interval, as a power of two in s.
        minpoll: u8,
    },
    /// The list of leap seconds is not used, because it has expired.
    LeapListExpired {
        /// The file.
        path: PathBuf,
        /// How long ago.
        days: i64,
    },
    /// The list of leap seconds is not used, because it cannot be understood.
    LeapListDamaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The access lists deny all clients of a family.
    NobodyAnswered(Family),
}

impl Warning {
    /// Returns what to do about it, where that is not part of the text.
    #[must_use]
    pub const fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::TooFew(_) | Self::TooMany(_) => Some(
                "`pooltime-xdp upstream probe NAME...` measures candidates and prints a configuration with the best",
            ),
            Self::LeapListExpired { .. } | Self::LeapListDamaged { .. } => Some(
                "a new list comes with the package `tzdata`, and from \
                 https://hpiers.obspm.fr/iers/bul/bulc/ntp/leap-seconds.list",
            ),
            Self::NobodyAnswered(_) => Some(
                "add to `allow` in [access] those who are to be answered, or take the entries out of `deny`",
            ),
            Self::NotUsed(_) | Self::PollsTooOften { .. } => None,
        }
    }
}

impl Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotUsed(count) => write!(
                f,
                "{count} upstreams are not used, because `clock.source` is \"system\"; set it to \"upstream\" to use them"
            ),
            Self::TooFew(count) => {
                let why = match count {
                    1 => "nothing can tell when it is wrong",
                    2 => "when they disagree, nothing can tell which one is wrong",
                    _ => "if one of them fails, the remaining two may disagree",
                };
                write!(f, "{count} upstreams are too few: {why}; use 4 to 7")
            }
            Self::TooMany(count) => write!(f, "{count} upstreams are more than useful; use 4 to 7"),
            Self::PollsTooOften { upstream, minpoll } => write!(
                f,
                "upstream `{upstream}`: minpoll {minpoll} polls every {} s: use it only for your own servers",
                1 << minpoll
            ),
            Self::LeapListExpired { path, days } => {
                let when = match days {
                    0 => "today".into(),
                    1 => "yesterday".into(),
                    days => format!("{days} days ago"),
                };
                write!(
                    f,
                    "the list of leap seconds {} expired {when} and has no say any more: the upstreams alone announce \
                     leap seconds",
                    path.display()
                )
            }
            Self::LeapListDamaged { path, why } => {
                write!(f, "the list of leap seconds {} is damaged and not used: {why}", path.display())
            }
            Self::NobodyAnswered(family) => {
                let family = match family {
                    Family::Ipv4 => "IPv4",
                    Family::Ipv6 => "IPv6",
                };
                write!(f, "the access lists deny every {family} client: no request over {family} is answered")
            }
        }
    }
}
