//! The configuration in the making: what was found so far, and how it is written.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use responder::udp::NTP_PORT;

use super::format::Understanding;
use crate::config::{ClockConfig, LeapFile, is_pool_name};
use crate::net::own_addresses::OwnAddresses;
use crate::net::prefix::{Prefix, truncated};
use crate::net::server_name::ServerName;

/// The largest number of upstreams in a configuration.
const MOST_UPSTREAMS: usize = 32;
/// The number of upstreams that is useful.
const GOOD_UPSTREAMS: usize = 4;
/// Largest number of characters that are shown of a line of the imported file and of each note about it.
const SHOWN: usize = 160;
/// Largest number of notes that are repeated in the configuration.
const MOST_COMMENTS: usize = 200;

/// An upstream server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Upstream {
    pub(super) address: String,
    pub(super) port: Option<u16>,
    pub(super) iburst: bool,
    pub(super) prefer: bool,
    pub(super) trust: bool,
    pub(super) minpoll: Option<u8>,
    pub(super) maxpoll: Option<u8>,
}

/// How requests from a prefix are treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Allow,
    Deny,
}

/// Everything that was found in the imported file.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    own: &'a OwnAddresses,
    /// Whether the other daemon goes on keeping the clock, so that only who is answered matters, and how often.
    is_beside: bool,
    line: u32,
    directive: String,
    /// Whether the directive is one that stays with the other daemon.
    is_left_alone: bool,
    notes: Vec<String>,
    understanding: Understanding,
    upstreams: Vec<Upstream>,
    servers: BTreeSet<(ServerName, u16)>,
    /// Whether the file names a source of time beside the host's own clock, be it one that cannot be followed here.
    names_a_source: bool,
    /// The line of a reference clock that the other daemon follows.
    reference_clock: Option<(u32, String)>,
    access: BTreeMap<Prefix, Access>,
    /// Keys of `[clock]` for upstreams, with their values as TOML.
    clock: BTreeMap<&'static str, String>,
    /// How many upstreams must agree, and the line that says so.
    min_sources: Option<(u32, usize)>,
    /// Keys of `[limits]` with their values as TOML.
    limits: BTreeMap<&'static str, String>,
    local_stratum: Option<(u32, u8)>,
    /// The line of a peer of the other daemon: it asks here, too, and the other daemon has to answer itself.
    peer: Option<u32>,
}

impl<'a> Plan<'a> {
    /// Makes an empty plan for a host with these addresses.
    pub(super) fn on(own: &'a OwnAddresses) -> Self {
        Self {
            own,
            is_beside: false,
            line: 0,
            directive: String::new(),
            is_left_alone: false,
            notes: Vec::new(),
            understanding: Understanding::default(),
            upstreams: Vec::new(),
            servers: BTreeSet::new(),
            names_a_source: false,
            reference_clock: None,
            access: BTreeMap::new(),
            clock: BTreeMap::new(),
            min_sources: None,
            limits: BTreeMap::new(),
            local_stratum: None,
            peer: None,
        }
    }

    /// Makes an empty plan for a server beside the other daemon, which goes on keeping the clock.
    pub(super) fn beside(own: &'a OwnAddresses) -> Self {
        Self { is_beside: true, ..Self::on(own) }
    }

    /// Whether the other daemon goes on keeping the clock.
    pub(super) const fn is_beside(&self) -> bool {
        self.is_beside
    }

    /// Takes the directive for one that concerns nobody who asks: if the other daemon keeps the clock, there is nothing to
    /// say about it.
    pub(super) const fn leave_alone(&mut self) {
        self.is_left_alone = self.is_beside;
    }

    /// Goes on to the next directive. Notes are about it from here on.
    pub(super) fn at(&mut self, line: u32, directive: &str) {
        self.understanding.directives += 1;
        self.about(line, directive);
    }

    /// Sets the line that the next notes are about.
    pub(super) fn about(&mut self, line: u32, directive: &str) {
        self.line = line;
        self.directive = shown(directive);
        self.is_left_alone = false;
    }

    /// Notes that this line has no equivalent, or only a similar one.
    pub(super) fn note(&mut self, reason: &str) {
        if !self.is_left_alone {
            self.say(reason);
        }
    }

    fn say(&mut self, reason: &str) {
        self.notes.push(format!("{}: {}: {}", self.line, self.directive, shown(reason)));
    }

    /// Notes that the daemon has no such directive.
    pub(super) fn unknown(&mut self) {
        self.understanding.unknown += 1;
        self.say("unknown directive");
    }

    /// Notes that the daemon has no such option.
    pub(super) fn unknown_option(&mut self, option: &str) {
        self.understanding.unknown_options += 1;
        self.note(&format!("unknown option `{option}`"));
    }

    /// Returns how much was understood so far.
    pub(super) const fn understanding(&self) -> Understanding {
        self.understanding
    }

    /// Adds a server, unless it cannot be followed.
    pub(super) fn upstream(&mut self, upstream: Upstream) {
        self.names_a_source = true;
        if self.is_beside {
            return;
        }
        let server: ServerName = match upstream.address.parse() {
            Ok(server) => server,
            Err(error) => {
                return self.note(&format!("refused: `{}` {}", upstream.address, error.reason));
            }
        };
        if is_pool_name(&upstream.address) {
            self.note(
                "refused: a server in the pool needs upstreams that its operator has chosen; choose 4 to 7 near you",
            );
        } else if let Some(unusable) = self.own.unusable_name(&upstream.address) {
            self.note(&format!("refused: `{}` {}; name another server", upstream.address, unusable.reason()));
        } else if !self.servers.insert((server, upstream.port.unwrap_or(NTP_PORT))) {
            self.note("it is a duplicate: each server has one vote");
        } else if self.upstreams.len() >= MOST_UPSTREAMS {
            self.note("more than 32 upstreams are not supported");
        } else {
            self.upstreams.push(upstream);
        }
    }

    /// Notes that this line names a peer: it asks here, too, in a mode of its own.
    pub(super) fn peer(&mut self) {
        self.peer = Some(self.line);
        if self.is_beside {
            self.say("`symmetric = false` leaves the requests of peers to the daemon that has them as peers");
        } else {
            self.note("symmetric mode is not supported: it is queried as a server");
        }
    }

    /// Notes that this line names a source of time, or a file that may name one, which is not used here.
    pub(super) fn other_source(&mut self, reason: &str) {
        self.names_a_source = true;
        self.note(reason);
    }

    /// Notes a reference clock, and whether the other daemon follows it.
    pub(super) fn reference_clock(&mut self, is_followed: bool) {
        if is_followed && self.reference_clock.is_none() {
            self.reference_clock = Some((self.line, self.directive.clone()));
        }
        self.other_source(
            "reference clocks are not supported: leave them to a daemon that supports them, and serve the system clock",
        );
    }

    pub(super) fn access(&mut self, prefix: Prefix, access: Access) {
        self.access.insert(prefix, access);
    }

    /// Forgets what was said about addresses within `prefix`; that is the meaning of `all` in chrony's
    /// directives.
    pub(super) fn forget_within(&mut self, prefix: Prefix) {
        self.access.retain(|known, _| {
            known.address().is_ipv4() != prefix.address().is_ipv4()
                || known.length() < prefix.length()
                || truncated(known.address(), prefix.length()) != prefix.address()
        });
    }

    /// Denies a prefix unless something was said about it.
    pub(super) fn deny_unless_named(&mut self, prefix: Prefix) {
        self.access.entry(prefix).or_insert(Access::Deny);
    }

    /// Whether any prefix is treated in this way.
    pub(super) fn has_access(&self, access: Access) -> bool {
        self.access.values().any(|known| *known == access)
    }

    pub(super) fn clock(&mut self, key: &'static str, value: &dyn ToString) {
        self.clock.insert(key, value.to_string());
    }

    /// Takes back what was said about a key of `[clock]`.
    pub(super) fn forget_clock(&mut self, key: &'static str) {
        self.clock.remove(key);
    }

    /// Sets a key of milliseconds to a number of seconds.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "within bounds that are positive"
    )]
    pub(super) fn milliseconds(
        &mut self,
        key: &'static str,
        seconds: Option<f64>,
        bounds_s: std::ops::RangeInclusive<f64>,
    ) {
        match seconds {
            Some(seconds) if bounds_s.contains(&seconds) => self.clock(key, &((seconds * 1_000.0) as u64)),
            _ => self.note(&format!("not a number from {} to {}", bounds_s.start(), bounds_s.end())),
        }
    }

    /// Takes a list of leap seconds, if this host has it and it is of use.
    pub(super) fn leap_seconds_list(&mut self, path: &str) {
        let clock = ClockConfig { leap_seconds_list: Some(path.into()), ..ClockConfig::default() };
        let without = "without it, the list that the system ships is used";
        match LeapFile::read(&clock) {
            _ if !path.starts_with('/') => self.note(&format!("not the full path of a file: {without}")),
            Err(_) | Ok(None) => self.note(&format!("there is no such file on this host: {without}")),
            Ok(Some(file)) => match file.warning_now() {
                Some(_) => self.note(&format!("the list has expired or is damaged: {without}")),
                None => self.clock("leap_seconds_list", &quoted(path)),
            },
        }
    }

    /// Says how many upstreams must agree.
    pub(super) fn min_sources(&mut self, fewest: Option<usize>) {
        match fewest {
            Some(fewest @ 1..=MOST_UPSTREAMS) => self.min_sources = Some((self.line, fewest)),
            _ => self.note(&format!("not a number from 1 to {MOST_UPSTREAMS}")),
        }
    }

    pub(super) fn limit(&mut self, key: &'static str, value: &dyn ToString) {
        self.limits.insert(key, value.to_string());
    }

    /// Takes the stratum under which the other daemon serves the host's clock as a last resort.
    pub(super) fn local_stratum(&mut self, stratum: u8) {
        if self.is_beside {
            // The other daemon says itself whether it falls back to its own clock.
        } else if (1..=15).contains(&stratum) {
            self.local_stratum = Some((self.line, stratum));
        } else {
            self.note("the stratum must be 1 to 15");
        }
    }

    /// Whether the upstreams are asked. A reference clock goes before them in the other daemon, so that with one the
    /// system clock is better than they are.
    fn follows_upstreams(&self) -> bool {
        self.reference_clock.is_none() && !self.upstreams.is_empty()
    }

    /// Returns the configuration and the notes.
    pub(super) fn finish(mut self, daemon: &str, interfaces: &[String]) -> (String, Vec<String>) {
        if let Some((line, stratum)) = self.local_stratum.filter(|_| self.names_a_source) {
            self.notes.push(format!(
                "{line}: local stratum {stratum}: a last resort beside other sources, which is not supported: \
                 without them this server declares itself unsynchronised"
            ));
        }
        if let Some((line, directive)) = self.reference_clock.clone().filter(|_| !self.upstreams.is_empty()) {
            self.notes.push(format!(
                "{line}: {directive}: it goes before the servers, which are comments therefore; for this server to \
                 follow them itself, set source = \"upstream\" and take the comment signs away"
            ));
        }
        if let Some((line, fewest)) = self.min_sources
            && self.follows_upstreams()
        {
            let fits = fewest.min(self.upstreams.len());
            if fits < fewest {
                self.notes.push(format!(
                    "{line}: minsources {fewest}: more than the remaining upstreams: {fits} is used instead"
                ));
            }
            self.clock("min_sources", &fits);
        }
        let mut text = String::new();
        let _infallible = self.write(&mut text, daemon, interfaces);
        (text, self.notes)
    }

    fn write(&self, text: &mut String, daemon: &str, interfaces: &[String]) -> std::fmt::Result {
        writeln!(text, "# Imported from a configuration of {daemon}.\n")?;
        if interfaces.is_empty() {
            writeln!(text, "# interfaces = [\"eth0\"]   # the interface to answer on")?;
        } else {
            let names: Vec<_> = interfaces.iter().map(|name| quoted(name)).collect();
            writeln!(text, "interfaces = [{}]", names.join(", "))?;
        }
        self.write_clock(text, daemon)?;
        if !self.is_beside && !(GOOD_UPSTREAMS..=7).contains(&self.upstreams.len()) {
            writeln!(text, "# {} upstreams: 4 to 7 are best", self.upstreams.len())?;
        }
        for upstream in &self.upstreams {
            write_upstream(text, upstream, if self.follows_upstreams() { "" } else { "# " })?;
        }
        if !self.limits.is_empty() {
            writeln!(text, "\n[limits]")?;
            for (key, value) in &self.limits {
                writeln!(text, "{key} = {value}")?;
            }
        }
        let has_own_peers = self.is_beside && self.peer.is_some();
        if !self.access.is_empty() || has_own_peers {
            writeln!(text, "\n[access]")?;
            if has_own_peers {
                writeln!(text, "symmetric = false   # requests of peers are for {daemon}")?;
            }
            for (key, access) in [("deny", Access::Deny), ("allow", Access::Allow)] {
                let prefixes: Vec<_> = self
                    .access
                    .iter()
                    .filter(|(_, known)| **known == access)
                    .map(|(prefix, _)| quoted(&prefix.to_string()))
                    .collect();
                if !prefixes.is_empty() {
                    writeln!(text, "{key} = [{}]", prefixes.join(", "))?;
                }
            }
        }
        if !self.notes.is_empty() {
            writeln!(text, "\n# Without an exact equivalent, with line numbers:")?;
            for note in self.notes.iter().take(MOST_COMMENTS) {
                writeln!(text, "# {note}")?;
            }
            if self.notes.len() > MOST_COMMENTS {
                writeln!(text, "# ... and {} more", self.notes.len() - MOST_COMMENTS)?;
            }
        }
        Ok(())
    }

    fn write_clock(&self, text: &mut String, daemon: &str) -> std::fmt::Result {
        writeln!(text, "\n[clock]")?;
        if self.is_beside {
            return writeln!(text, "source = \"system\"   # {daemon} keeps the clock");
        }
        let is_isolated = !self.names_a_source && self.local_stratum.is_some();
        if self.follows_upstreams() {
            writeln!(text, "source = \"upstream\"")?;
            for (key, value) in &self.clock {
                writeln!(text, "{key} = {value}")?;
            }
        } else {
            let why = if self.reference_clock.is_some() {
                "the daemon with the reference clock keeps the clock"
            } else if is_isolated {
                "the clock of this host, which nobody keeps"
            } else {
                "no upstream is left: another daemon has to keep the clock"
            };
            writeln!(text, "source = \"system\"   # {why}")?;
        }
        match self.local_stratum {
            Some((_, stratum)) if is_isolated => {
                writeln!(text, "local_stratum = {stratum}   # for isolated networks; never in the pool")
            }
            Some((_, stratum)) => writeln!(
                text,
                "# local_stratum = {stratum}   # only with source = \"system\" in an isolated network: it is not for a \
                 host with other sources"
            ),
            None => Ok(()),
        }
    }
}

fn write_upstream(text: &mut String, upstream: &Upstream, before: &str) -> std::fmt::Result {
    let Upstream { address, port, iburst, prefer, trust, minpoll, maxpoll } = upstream;
    writeln!(text, "\n{before}[[upstream]]\n{before}address = {}", quoted(address))?;
    if let Some(port) = port {
        writeln!(text, "{before}port = {port}")?;
    }
    if !iburst {
        writeln!(text, "{before}iburst = false")?;
    }
    for (key, set) in [("prefer", prefer), ("trust", trust)] {
        if *set {
            writeln!(text, "{before}{key} = true")?;
        }
    }
    for (key, poll) in [("minpoll", minpoll), ("maxpoll", maxpoll)] {
        if let Some(poll) = poll {
            writeln!(text, "{before}{key} = {poll}")?;
        }
    }
    Ok(())
}

/// Replaces control characters, which neither comments nor terminals should get.
fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(SHOWN).collect()
}

/// Returns the text as a TOML string.
pub(super) fn quoted(text: &str) -> String {
    toml::Value::String(text.into()).to_string()
}
