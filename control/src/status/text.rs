//! The status as text for people.

use std::fmt::{self, Write as _};

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
                "daemon      pooltime-xdp {}, process {}, up {:.0} s, {:.1} MiB resident",
                self.version,
                daemon.pid,
                daemon.uptime_s,
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
            "            root delay {:.6} s, root dispersion {:.6} s, precision 2^{} s, horizon in {:.1} s, age {:.3} s, steps {}",
            clock.root_delay_s,
            clock.root_dispersion_s,
            clock.precision,
            clock.horizon_s,
            clock.age_s,
            clock.steps
        )?;
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
    let show = |value: Option<f64>, digits: usize| {
        value.map_or_else(|| "unknown".into(), |value| format!("{value:+.digits$}"))
    };
    writeln!(
        text,
        "            offset {} s, frequency {} ppm, skew {} ppm, root distance {:.6} s",
        show(clock.offset_s, 9),
        show(clock.frequency_ppm, 3),
        show(discipline.skew_ppm, 3),
        clock.error_bound_s,
    )?;
    writeln!(text, "            kernel's clock {kernel_clock}")?;
    discipline.trouble.iter().try_for_each(|trouble| writeln!(text, "            {trouble}"))
}

fn write_limits(text: &mut fmt::Formatter<'_>, limits: &Limits) -> fmt::Result {
    let Limits { rate, burst, ipv4_prefix, ipv6_prefix, leak, kod, .. } = limits;
    if limits.enabled {
        writeln!(
            text,
            "limits      {rate}/s and bursts of {burst} per source (/{ipv4_prefix}, /{ipv6_prefix}), leak 1 in {}, at most {kod} kisses per second",
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
        writeln!(text, "            about {last_hour} clients over {family} in the last hour")?;
    }
    writeln!(
        text,
        "            about {} of {} source entries in use, {} evicted early, {} entries in the access lists",
        limits.table_in_use, limits.table_entries, limits.evictions, limits.access_entries
    )
}

fn write_counters(text: &mut fmt::Formatter<'_>, counters: &[Counter]) -> fmt::Result {
    for counter in counters {
        let Counter { verdict, family, version, packets, .. } = counter;
        let version = if *version == 0 { String::new() } else { format!(" v{version}") };
        writeln!(text, "  {packets:>14}  {verdict} {family}{version}")?;
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
