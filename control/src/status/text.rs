//! The status as text for people.

use std::fmt::{self, Write as _};

use super::units::{count, difference, duration, interval};
use super::{Clock, Counter, Discipline, Limits, Status};
use crate::net::xdp_mode::Mode;
use crate::status::traffic::Clients;

/// Writes the status for people.
impl fmt::Display for Status {
    fn fmt(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        let clock = &self.clock;
        match &self.daemon {
            Some(daemon) => writeln!(
                text,
                "daemon      pooltime-xdp {}, process {}, up {}, {:.1} MiB resident",
                self.version,
                daemon.pid,
                duration(daemon.uptime_s),
                mebibytes(daemon.resident_bytes)
            )?,
            None => writeln!(text, "daemon      not running")?,
        }
        writeln!(text, "clock       {}", self.clock_line())?;
        if let Some(reason) = &clock.reason {
            writeln!(text, "            {reason}")?;
        }
        writeln!(
            text,
            "            error bound {}, root delay {}, root dispersion {}",
            interval(clock.error_bound_s),
            interval(clock.root_delay_s),
            interval(clock.root_dispersion_s)
        )?;
        writeln!(
            text,
            "            horizon in {}, age {}, precision 2^{} s, steps {}",
            interval(clock.horizon_s),
            interval(clock.age_s),
            clock.precision,
            clock.steps
        )?;
        if clock.inherited {
            writeln!(text, "            the line of the daemon before: the upstreams have not agreed yet")?;
        }
        if let Some(discipline) = &clock.discipline {
            write_discipline(text, clock, discipline)?;
        }
        for interface in &self.interfaces {
            let mode = interface.mode.map_or("NOT ATTACHED", Mode::label);
            writeln!(text, "interface   {} ({mode}) {}", interface.name, interface.addresses.join(" "))?;
            if !interface.stations.is_empty() {
                writeln!(text, "            at {}", few(&interface.stations))?;
            }
            for remark in interface.idle.iter().chain(&interface.left_to_sockets) {
                writeln!(text, "            {remark}")?;
            }
            if let Some(fallback) = &interface.fallback {
                writeln!(text, "            not native: {fallback}")?;
            }
            if let Some(remark) = &interface.remark {
                writeln!(text, "            {remark}")?;
            }
            write_counters(text, &interface.counters)?;
        }
        for without_room in &self.addresses_without_room {
            writeln!(text, "addresses   {without_room}")?;
        }
        if let Some(limits) = &self.limits {
            write_limits(text, limits)?;
        }
        if let Some(quota) = &self.quota {
            write!(text, "{quota}")?;
        }
        for path in &self.userspace_path {
            match &path.failure {
                None => writeln!(text, "port 123    {} answered by this daemon's socket", path.family)?,
                Some(failure) => writeln!(text, "port 123    {}: {failure}", path.family)?,
            }
        }
        write_counters(text, &self.userspace_counters)?;
        for listener in &self.http {
            match &listener.failure {
                None => writeln!(text, "http        http://{}/", listener.address)?,
                Some(failure) => writeln!(text, "http        {}: {failure}", listener.address)?,
            }
        }
        for warning in &self.warnings {
            writeln!(text, "warning     {warning}")?;
        }
        writeln!(text, "maps        {:.1} KiB of kernel memory", kibibytes(self.maps.bytes))
    }
}

impl Status {
    /// Describes the clock in a few words.
    #[must_use]
    pub fn clock_line(&self) -> String {
        let clock = &self.clock;
        if clock.synchronised {
            format!("synchronised, stratum {}, reference {}", clock.stratum, clock.reference)
        } else {
            "NOT SYNCHRONISED: answers declare it (leap 3, stratum 0)".into()
        }
    }
}

/// The first of these; a trunk has dozens.
fn few(stations: &[String]) -> String {
    const FEW: usize = 4;
    let mut text = stations.iter().take(FEW).map(String::as_str).collect::<Vec<_>>().join(", ");
    if let Some(more @ 1..) = stations.len().checked_sub(FEW) {
        let _infallible = write!(text, " and {more} more");
    }
    text
}

fn write_discipline(text: &mut fmt::Formatter<'_>, clock: &Clock, discipline: &Discipline) -> fmt::Result {
    let Discipline { selected, upstreams, kernel_clock, .. } = discipline;
    let reference = discipline.system_peer.as_deref().unwrap_or("none");
    writeln!(text, "upstreams   {selected} of {upstreams} are followed, system peer {reference}")?;
    let unknown = || "unknown".to_owned();
    let ppm = |value: Option<f64>| value.map_or_else(unknown, |value| format!("{value:+.3} ppm"));
    writeln!(
        text,
        "            offset {}, frequency {}, skew {}",
        clock.offset_s.map_or_else(unknown, difference),
        ppm(clock.frequency_ppm),
        ppm(discipline.skew_ppm),
    )?;
    if let Some(holdover_s) = clock.holdover_s {
        writeln!(text, "            without upstreams the time is good for about {}", duration(holdover_s))?;
    }
    writeln!(text, "            kernel's clock {kernel_clock}")?;
    discipline.trouble.iter().try_for_each(|trouble| writeln!(text, "            {trouble}"))
}

fn write_limits(text: &mut fmt::Formatter<'_>, limits: &Limits) -> fmt::Result {
    let Limits { rate, burst, ipv4_prefix, ipv6_prefix, leak, kod, .. } = limits;
    if limits.enabled {
        writeln!(
            text,
            "limits      {rate}/s and bursts of {burst} per source (/{ipv4_prefix}, /{ipv6_prefix})\n            \
             leak 1 in {}, at most {kod} kisses of death per second",
            1_u64.checked_shl((*leak).into()).unwrap_or(u64::MAX)
        )?;
    } else {
        writeln!(text, "limits      OFF: sources are not rate limited")?;
    }
    let budgets = [
        limits.budget_answers_per_s.map(|answers| format!("{answers} answers/s")),
        limits.budget_bits_per_s.map(|bits| format!("{bits} bits/s")),
    ];
    if budgets.iter().any(Option::is_some) {
        let budgets: Vec<_> = budgets.into_iter().flatten().collect();
        writeln!(text, "            budget of the whole server: {}", budgets.join(" and "))?;
    }
    for Clients { family, last_hour } in &limits.clients {
        writeln!(text, "            about {} clients over {family} in the last hour", count(*last_hour))?;
    }
    if let Some(known) = limits.known_sources {
        writeln!(text, "            {} sources known from earlier", count(known.into()))?;
    }
    writeln!(
        text,
        "            about {} of {} source entries in use\n            {} evicted early, {} entries in the access lists",
        count(limits.table_in_use.into()),
        count(limits.table_entries.into()),
        count(limits.evictions),
        count(limits.access_entries as u64)
    )
}

fn write_counters(text: &mut fmt::Formatter<'_>, counters: &[Counter]) -> fmt::Result {
    for counter in counters {
        let Counter { verdict, family, version, packets, .. } = counter;
        let version = if *version == 0 { String::new() } else { format!(" v{version}") };
        writeln!(text, "  {:>26}  {verdict} {family}{version}", count(*packets))?;
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "for showing")]
fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / 1_048_576.0
}

#[expect(clippy::cast_precision_loss, reason = "for showing")]
fn kibibytes(bytes: u64) -> f64 {
    bytes as f64 / 1024.0
}

#[cfg(test)]
mod tests {
    use crate::status::sample;

    #[test]
    fn the_status_has_lines_of_at_most_80_columns_and_units_that_people_read() {
        let mut status = sample();
        status.daemon.as_mut().unwrap().uptime_s = 1e7;
        status.interfaces[0].counters[0].packets = u64::MAX;
        status.clock.inherited = true;
        let limits = status.limits.as_mut().unwrap();
        (limits.table_in_use, limits.evictions, limits.access_entries) = (65_536, 9_999_999_999, 2_000_000);
        let text = status.to_string();
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
        for part in [
            "up 115 d 17 h",
            "error bound 2.00 ms",
            "offset +12.0 us",
            "18,446,744,073,709,551,615  answered ipv4 v3",
        ] {
            assert!(text.contains(part), "no `{part}` in:\n{text}");
        }
    }
}
