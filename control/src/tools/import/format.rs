//! Whose configuration a file is.
//!
//! Nothing but the readers knows what each daemon understands. So a file is read as each daemon's in turn, and belongs
//! to the one with the fewest unknown lines.

use std::path::Path;

use clap::ValueEnum;

use super::plan::Plan;
use super::{chrony, ntp, ntpd_rs, openntpd, timesyncd};
use crate::net::own_addresses::OwnAddresses;

/// The program that a configuration belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// ntpd's, of either make
    Ntp,
    /// chronyd's
    Chrony,
    /// openntpd's
    Openntpd,
    /// systemd-timesyncd's
    Timesyncd,
    /// ntpd-rs's
    NtpdRs,
}

/// How much of the imported file was understood.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Understanding {
    /// Number of directives.
    pub(super) directives: usize,
    /// Number of directives that the daemon does not have.
    pub(super) unknown: usize,
    /// Number of options that the daemon does not have.
    pub(super) unknown_options: usize,
}

impl Format {
    const ALL: [Self; 5] = [Self::Ntp, Self::Chrony, Self::Openntpd, Self::Timesyncd, Self::NtpdRs];

    /// Returns the name of the program.
    pub(super) const fn daemon(self) -> &'static str {
        match self {
            Self::Ntp => "ntpd",
            Self::Chrony => "chronyd",
            Self::Openntpd => "OpenNTPD",
            Self::Timesyncd => "systemd-timesyncd",
            Self::NtpdRs => "ntpd-rs",
        }
    }

    /// Reads a file of this format into a plan.
    pub(super) fn read(self, plan: &mut Plan<'_>, text: &str) {
        match self {
            Self::Ntp => ntp::read(plan, text),
            Self::Chrony => chrony::read(plan, text),
            Self::Openntpd => openntpd::read(plan, text),
            Self::Timesyncd => timesyncd::read(plan, text),
            Self::NtpdRs => ntpd_rs::read(plan, text),
        }
    }

    /// Returns the program whose file this is, or `None` if most of it makes no sense to any.
    pub(super) fn of(path: &Path, text: &str) -> Option<Self> {
        let named = Self::named(path);
        let unknown = |format: Self, Understanding { directives, unknown, unknown_options }| {
            // Nothing understood is no file of this daemon's, and a third of it may be a coincidence.
            let is_likely = (directives - unknown) * 3 > directives;
            is_likely.then_some((unknown, unknown_options, Some(format) != named))
        };
        Self::ALL
            .into_iter()
            .filter_map(|format| Some((unknown(format, understanding(format, text))?, format)))
            .min_by_key(|(unknown, _)| *unknown)
            .map(|(_, format)| format)
    }

    /// Returns what the name of a file says, for files that could be several daemons'.
    fn named(path: &Path) -> Option<Self> {
        let text = path.to_string_lossy().to_ascii_lowercase();
        if text.contains("chrony") {
            Some(Self::Chrony)
        } else if text.contains("openntpd") || text.ends_with("/ntpd.conf") {
            Some(Self::Openntpd)
        } else {
            None
        }
    }
}

fn understanding(format: Format, text: &str) -> Understanding {
    let own = OwnAddresses::default();
    let mut plan = Plan::on(&own);
    format.read(&mut plan, text);
    plan.understanding()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_told_from_the_content_then_from_the_name() {
        for (name, text, format) in [
            ("a", "server x\nrestrict default\n", Format::Ntp),
            ("ntp.conf", "server x\nmakestep 1 3\nrtcsync\n", Format::Chrony),
            ("a", "server x\ndeny 192.0.2.0/24\n", Format::Chrony),
            ("a", "server x\nlocal stratum 10\n", Format::Chrony),
            ("a", "server x\nratelimit\n", Format::Chrony),
            ("a", "server x\nhwtimestamp *\n", Format::Chrony),
            ("ntp.conf", "refclock SHM 0 refid GPS\nserver x\n", Format::Chrony),
            ("chrony", "refclock shm unit 0 refid GPS\nserver x\n", Format::Ntp),
            ("/etc/chrony.conf", "server x\n", Format::Chrony),
            ("/etc/ntp.conf", "server x\n", Format::Ntp),
            ("/etc/openntpd/ntpd.conf", "server x\n", Format::Openntpd),
            ("a", "server x weight 5\n", Format::Openntpd),
            ("a", "servers pool.ntp.org\nlisten on *\n", Format::Openntpd),
            ("a", "[Time]\nNTP=x\n", Format::Timesyncd),
            ("a", "[[source]]\nmode = \"server\"\naddress = \"x\"\n", Format::NtpdRs),
        ] {
            assert_eq!(Format::of(Path::new(name), text), Some(format), "{name}: {text}");
        }
    }

    #[test]
    fn what_no_daemon_understands_is_nobody_s() {
        for text in [
            "",
            "# nothing\n",
            "root:x:0:0:root:/root:/bin/bash\ndaemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n",
            "127.0.0.1 localhost\n::1 localhost\n",
            "The server is in the cellar.\nNobody has ever seen it.\nIt keeps the time.\n",
            "Port 22\nPermitRootLogin no\nUsePAM yes\nX11Forwarding no\n",
            "{\"a\": [1, 2]}\n",
            "[Unit]\nDescription=x\n[Service]\nExecStart=/bin/true\n",
            "a = 1\n[b]\nc = 2\n",
        ] {
            assert_eq!(Format::of(Path::new("a"), text), None, "{text}");
        }
    }
}
