//! The configuration in the making: what was found so far, and how it is written.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::net::own_addresses::OwnAddresses;
use crate::net::prefix::{Prefix, truncated};

/// The largest number of upstreams in a configuration.
const MOST_UPSTREAMS: usize = 32;
/// The number of upstreams that is useful.
const GOOD_UPSTREAMS: usize = 4;
/// Largest number of characters that are shown of a line of the imported file and of each note about it.
const SHOWN: usize = 160;

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
    line: u32,
    directive: String,
    notes: Vec<String>,
    upstreams: Vec<Upstream>,
    access: BTreeMap<Prefix, Access>,
    /// Keys of `[clock]` that hold for any source, with their values as TOML.
    clock: BTreeMap<&'static str, String>,
    /// How many upstreams must agree, and the line that says so.
    min_sources: Option<(u32, usize)>,
    /// Keys of `[limits]` with their values as TOML.
    limits: BTreeMap<&'static str, String>,
    local_stratum: Option<(u32, u8)>,
}

impl<'a> Plan<'a> {
    /// Makes an empty plan for a host with these addresses.
    pub(super) fn on(own: &'a OwnAddresses) -> Self {
        Self {
            own,
            line: 0,
            directive: String::new(),
            notes: Vec::new(),
            upstreams: Vec::new(),
            access: BTreeMap::new(),
            clock: BTreeMap::new(),
            min_sources: None,
            limits: BTreeMap::new(),
            local_stratum: None,
        }
    }

    /// Sets the line that the next notes are about.
    pub(super) fn at(&mut self, line: u32, directive: &str) {
        self.line = line;
        self.directive = shown(directive);
    }

    /// Notes that this line has no equivalent, or only a similar one.
    pub(super) fn note(&mut self, reason: &str) {
        self.notes.push(format!("{}: {}: {}", self.line, self.directive, shown(reason)));
    }

    pub(super) fn upstream(&mut self, upstream: Upstream) {
        let name = upstream.address.trim_end_matches('.').to_ascii_lowercase();
        if name == "pool.ntp.org" || name.ends_with(".pool.ntp.org") {
            self.note(
                "refused: a server in the pool needs upstreams that its operator has chosen; choose 4 to 7 near you",
            );
        } else if name.is_empty()
            || name.len() > 253
            || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._:%".contains(&byte))
        {
            self.note("neither a name nor an address");
        } else if let Some(unusable) = self.own.unusable_name(&upstream.address) {
            self.note(&format!("refused: `{}` {}; name another server", upstream.address, unusable.reason()));
        } else if self
            .upstreams
            .iter()
            .any(|known| known.address.eq_ignore_ascii_case(&upstream.address) && known.port == upstream.port)
        {
            self.note("it is a duplicate: each server has one vote");
        } else if self.upstreams.len() >= MOST_UPSTREAMS {
            self.note("more than 32 upstreams are not supported");
        } else {
            self.upstreams.push(upstream);
        }
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

    pub(super) fn min_sources(&mut self, fewest: usize) {
        self.min_sources = Some((self.line, fewest));
    }

    pub(super) fn limit(&mut self, key: &'static str, value: &dyn ToString) {
        self.limits.insert(key, value.to_string());
    }

    pub(super) fn local_stratum(&mut self, stratum: u8) {
        if (1..=15).contains(&stratum) {
            self.local_stratum = Some((self.line, stratum));
        } else {
            self.note("the stratum must be 1 to 15");
        }
    }

    /// Returns the configuration and the notes.
    pub(super) fn finish(mut self, interfaces: &[String]) -> (String, Vec<String>) {
        let mut local_stratum = None;
        if let Some((line, stratum)) = self.local_stratum {
            if self.upstreams.is_empty() {
                local_stratum = Some(stratum);
            } else {
                self.notes.push(format!(
                    "{line}: local stratum {stratum}: not supported with upstreams: without them this server \
                     declares itself unsynchronised"
                ));
            }
        }
        if let Some((line, fewest)) = self.min_sources
            && !self.upstreams.is_empty()
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
        let _infallible = self.write(&mut text, interfaces, local_stratum);
        (text, self.notes)
    }

    fn write(&self, text: &mut String, interfaces: &[String], local_stratum: Option<u8>) -> std::fmt::Result {
        if interfaces.is_empty() {
            writeln!(text, "# interfaces = [\"eth0\"]   # the interface to answer on")?;
        } else {
            let names: Vec<_> = interfaces.iter().map(|name| quoted(name)).collect();
            writeln!(text, "interfaces = [{}]", names.join(", "))?;
        }
        writeln!(text, "\n[clock]")?;
        if self.upstreams.is_empty() {
            writeln!(
                text,
                "source = \"system\"   # no upstream is left: another daemon has to keep the clock"
            )?;
        } else {
            writeln!(text, "source = \"upstream\"")?;
            for (key, value) in &self.clock {
                writeln!(text, "{key} = {value}")?;
            }
        }
        if let Some(stratum) = local_stratum {
            writeln!(text, "local_stratum = {stratum}   # for isolated networks; never in the pool")?;
        }
        if !(GOOD_UPSTREAMS..=7).contains(&self.upstreams.len()) {
            writeln!(text, "# {} upstreams: 4 to 7 are best", self.upstreams.len())?;
        }
        for upstream in &self.upstreams {
            write_upstream(text, upstream)?;
        }
        if !self.limits.is_empty() {
            writeln!(text, "\n[limits]")?;
            for (key, value) in &self.limits {
                writeln!(text, "{key} = {value}")?;
            }
        }
        if !self.access.is_empty() {
            writeln!(text, "\n[access]")?;
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
            for note in &self.notes {
                writeln!(text, "# {note}")?;
            }
        }
        Ok(())
    }
}

fn write_upstream(text: &mut String, upstream: &Upstream) -> std::fmt::Result {
    let Upstream { address, port, iburst, prefer, trust, minpoll, maxpoll } = upstream;
    writeln!(text, "\n[[upstream]]\naddress = {}", quoted(address))?;
    if let Some(port) = port {
        writeln!(text, "port = {port}")?;
    }
    if !iburst {
        writeln!(text, "iburst = false")?;
    }
    for (key, set) in [("prefer", prefer), ("trust", trust)] {
        if *set {
            writeln!(text, "{key} = true")?;
        }
    }
    for (key, poll) in [("minpoll", minpoll), ("maxpoll", maxpoll)] {
        if let Some(poll) = poll {
            writeln!(text, "{key} = {poll}")?;
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
