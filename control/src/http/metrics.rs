//! Defines every metric and where in a [`Status`] its values are found. `docs/metrics.md` lists them.
//!
//! No series belongs to a single client, so the number of series is bounded by the interfaces, verdicts, families,
//! versions and upstreams.

use responder::verdict::{Action, Family as Protocol, Verdict};

use crate::net::xdp_mode::Mode;
use crate::status::exposition::{Family, Kind, Metric};
use crate::status::health::Health;
use crate::status::kernel_clock::{KernelClockStatus, Treatment};
use crate::status::sources::{Peer, Tally};
use crate::status::{Counter, Status};

/// Label values and value of each sample.
type Samples = Vec<(Vec<String>, f64)>;

/// Declares metrics together with the functions that read them.
macro_rules! metrics {
    ($($name:literal $kind:ident [$($label:literal),*] $help:literal = $read:expr;)*) => {
        /// All metrics, in the order in which they are exported.
        const METRICS: &[(Metric, fn(&Status) -> Samples)] = &[$(
            (Metric { name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help }, $read),
        )*];
    };
}

metrics! {
    "pooltime_build_info" Gauge ["version", "revision", "target"]
        "Version, commit and target of the running daemon; the value is always 1." =
        |status| {
            let revision = status.revision.clone().unwrap_or_else(|| "unknown".into());
            vec![(vec![status.version.clone(), revision, status.target.clone()], 1.0)]
        };
    "pooltime_healthy" Gauge [] "Whether synchronised time is served within its error limit on all interfaces." =
        |status| one(flag(Health::of(status).healthy));
    "pooltime_daemon_starts_total" Counter [] "Number of daemons that were started since the program was attached." =
        |status| daemon(status, |daemon| number(daemon.starts));

    "pooltime_packets_total" Counter ["interface", "verdict", "family", "version"]
        "Number of packets to port 123 that the program has seen, by verdict; the version is 0 where it was not read." =
        |status| by_interface(status, packets);
    "pooltime_received_bytes_total" Counter ["interface", "family"]
        "Number of bytes in the packets to port 123 that the program has seen, counted as whole frames." =
        |status| by_interface(status, |counters| bytes(counters, |_| true));
    "pooltime_sent_bytes_total" Counter ["interface", "family"]
        "Number of bytes in the answers that the program has made, counted as whole frames." =
        |status| by_interface(status, |counters| bytes(counters, |action| action == Action::Transmit));
    "pooltime_socket_packets_total" Counter ["verdict", "family", "version"]
        "Number of packets that the daemon's sockets have received since it started: passed up by the program, or over loopback." =
        |status| packets(&status.userspace_counters);
    "pooltime_socket_received_bytes_total" Counter ["family"]
        "Number of bytes in the packets that the daemon's sockets have received, counted as UDP payload." =
        |status| bytes(&status.userspace_counters, |_| true);
    "pooltime_socket_listening" Gauge ["family"]
        "Whether the daemon holds port 123; where it does not, the process that holds the port answers." =
        |status| {
            let path = &status.userspace_path;
            path.iter().map(|path| (vec![path.family.clone()], flag(path.failure.is_none()))).collect()
        };

    "pooltime_limiter_enabled" Gauge [] "Whether sources that are on no access list are rate limited." =
        |status| limits(status, |limits| flag(limits.enabled));
    "pooltime_limiter_entries" Gauge [] "Number of sources that the limiter's table has room for." =
        |status| limits(status, |limits| f64::from(limits.table_entries));
    "pooltime_limiter_entries_in_use" Gauge []
        "Number of sources in the limiter's table that are not fully refilled, estimated from a sample." =
        |status| limits(status, |limits| f64::from(limits.table_in_use));
    "pooltime_limiter_evictions_total" Counter []
        "Number of sources that the limiter has forgotten before they were refilled, estimated from a sample, since the daemon started." =
        |status| limits(status, |limits| number(limits.evictions));
    "pooltime_known_sources" Gauge []
        "Number of sources that were seen in two periods of 18 minutes and within a day; it is absent until the table was walked through once." =
        |status| status.limits.iter().filter_map(|limits| limits.known_sources).map(|known| (vec![], f64::from(known))).collect();
    "pooltime_clients" Gauge ["family"]
        "Number of distinct clients in the last hour, estimated; it is absent if rate limits are disabled." =
        |status| {
            let clients = status.limits.iter().flat_map(|limits| &limits.clients);
            clients.map(|clients| (vec![clients.family.clone()], number(clients.last_hour))).collect()
        };
    "pooltime_access_list_entries" Gauge [] "Number of entries in the access lists." =
        |status| limits(status, |limits| number(limits.access_entries as u64));

    "pooltime_pool_probes_total" Counter ["family", "outcome"]
        "Number of requests that look like probes of the pool's monitors, by what became of them, since the daemon started." =
        |status| {
            let counts = status.probes.iter();
            counts.map(|count| (vec![count.family.clone(), count.outcome.clone()], number(count.requests))).collect()
        };
    "pooltime_quota_bytes" Gauge []
        "Traffic that may be used in each period; it is absent without a quota, as are all of its metrics." =
        |status| quota(status, |quota| Some(number(quota.quota_bytes)));
    "pooltime_quota_used_bytes" Gauge [] "Traffic that was used of the quota in this period." =
        |status| quota(status, |quota| Some(number(quota.used_bytes)));
    "pooltime_quota_forecast_bytes" Gauge []
        "Traffic at the end of the period if the rate stays and all requests are answered; it is absent while that is not known." =
        |status| quota(status, |quota| quota.forecast_bytes.map(number));
    "pooltime_quota_rate_bytes_per_second" Gauge []
        "Traffic per second that counts if all requests are answered, on average over about the last day; it is absent in the first minute." =
        |status| quota(status, |quota| quota.rate_bytes_per_s);
    "pooltime_quota_period_end_timestamp_seconds" Gauge []
        "Moment at which the quota begins again, since the Unix epoch; it is absent while the time is not known." =
        |status| quota(status, |quota| quota.period_end_unix_s.map(timestamp));
    "pooltime_quota_capped" Gauge [] "Whether the quota caps the answers, because it would not last." =
        |status| quota(status, |quota| Some(flag(quota.cap_bytes_per_s.is_some())));
    "pooltime_quota_cap_bytes_per_second" Gauge []
        "Traffic per second to which the quota caps all answers; it is 0 while there is no cap." =
        |status| quota(status, |quota| Some(quota.cap_bytes_per_s.unwrap_or(0.0)));

    "pooltime_clock_synchronised" Gauge [] "Whether answers declare the clock synchronised." =
        |status| one(flag(status.clock.synchronised));
    "pooltime_clock_stratum" Gauge [] "Stratum in answers; 0 means that they declare the clock unsynchronised." =
        |status| one(f64::from(status.clock.stratum));
    "pooltime_clock_reference_info" Gauge ["source", "reference", "reference_id"]
        "Reference that answers name, where the time comes from (system or upstream), and the reference ID in hexadecimal digits; the value is always 1." =
        |status| {
            let clock = &status.clock;
            let source = clock.source.clone().unwrap_or_default();
            vec![(vec![source, clock.reference.clone(), format!("{:08x}", clock.reference_id)], 1.0)]
        };
    "pooltime_clock_reference_timestamp_seconds" Gauge []
        "Moment at which the clock was last corrected, since the Unix epoch; it is absent before the first correction." =
        |status| some(status.clock.reference_unix_s);
    "pooltime_clock_leap_indicator" Gauge []
        "Leap indicator in answers; 3 means that they declare the clock unsynchronised." =
        |status| one(f64::from(status.clock.leap));
    "pooltime_clock_offset_seconds" Gauge []
        "Correction that is still to be applied to the clock; it is positive if the clock is slow." =
        |status| some(status.clock.offset_s);
    "pooltime_clock_frequency_ratio" Gauge []
        "Correction of the oscillator's frequency, as a fraction of it; it is positive if the clock is made to run faster." =
        |status| some(status.clock.frequency_ppm.map(ratio));
    "pooltime_clock_skew_ratio" Gauge []
        "Uncertainty of the frequency correction, one standard deviation, as a fraction of the frequency." =
        |status| some(status.clock.discipline.as_ref().and_then(|discipline| discipline.skew_ppm).map(ratio));
    "pooltime_clock_root_delay_seconds" Gauge [] "Round-trip delay to the primary source." =
        |status| one(status.clock.root_delay_s);
    "pooltime_clock_root_dispersion_seconds" Gauge [] "Dispersion to the primary source, with its growth up to now." =
        |status| one(status.clock.root_dispersion_s);
    "pooltime_clock_error_bound_seconds" Gauge []
        "Bound of the clock's error: half the root delay plus the root dispersion." =
        |status| one(status.clock.error_bound_s);
    "pooltime_clock_error_limit_seconds" Gauge []
        "Error bound above which answers declare the clock unsynchronised." =
        |status| some(status.clock.error_limit_s);
    "pooltime_clock_horizon_seconds" Gauge []
        "Time until answers declare the clock unsynchronised if nothing more is published; it is negative afterwards." =
        |status| one(status.clock.horizon_s);
    "pooltime_clock_horizon_limit_seconds" Gauge []
        "Time from a publication of the clock to the horizon, as it is configured." =
        |status| some(status.clock.horizon_limit_s);
    "pooltime_clock_holdover_seconds" Gauge []
        "Time until the error bound reaches its limit if no upstream answers, estimated; it is absent without upstreams." =
        |status| some(status.clock.holdover_s);
    "pooltime_clock_inherited" Gauge []
        "Whether the line of the daemon before the latest start is served, because the upstreams have not agreed yet." =
        |status| one(flag(status.clock.inherited));
    "pooltime_clock_age_seconds" Gauge [] "Time since the clock was last published." =
        |status| one(status.clock.age_s);
    "pooltime_clock_steps_total" Counter [] "Number of steps of the system clock that the daemon has noticed." =
        |status| one(number(status.clock.steps));
    "pooltime_clock_pauses_total" Counter [] "Number of pauses of the virtual machine that the daemon has noticed." =
        |status| one(number(status.clock.pauses));

    "pooltime_kernel_clock_treatment" Gauge ["treatment"]
        "Treatment of the kernel's clock: the value is 1 for the one of left-alone, steered, slewed, waiting and stopped that holds, and 0 for the others." =
        |status| kernel_clock(status, |clock| {
            let is_it = |treatment: Treatment| flag(treatment == clock.treatment);
            Treatment::ALL.iter().map(|one| (vec![one.label().to_owned()], is_it(*one))).collect()
        });
    "pooltime_kernel_clock_offset_seconds" Gauge []
        "Offset of the kernel's clock from the served time; it is positive if the kernel's clock is slow." =
        |status| kernel_clock(status, |clock| some(clock.offset_s));
    "pooltime_kernel_clock_slew_ratio" Gauge []
        "Rate of the slew of the kernel's clock that is under way, as a fraction of its rate; it is 0 without a slew." =
        |status| kernel_clock(status, |clock| one(ratio(clock.slew_ppm)));
    "pooltime_kernel_clock_steps_total" Counter []
        "Number of steps of the kernel's clock that the daemon has made since it started." =
        |status| kernel_clock(status, |clock| one(number(clock.steps)));

    "pooltime_upstreams_silent" Gauge []
        "Whether no upstream has answered its latest requests; it is absent without upstreams." =
        |status| {
            let any = !status.upstreams.is_empty();
            some(any.then(|| flag(status.upstreams_are_silent())))
        };
    "pooltime_upstream_selected" Gauge ["upstream", "address"] "Whether the clock follows the upstream." =
        |status| each_upstream(status, |peer| {
            Some(flag(matches!(peer.tally, Tally::Candidate | Tally::SystemPeer)))
        });
    "pooltime_upstream_system_peer" Gauge ["upstream", "address"]
        "Whether the upstream is the system peer, which stratum, reference, root delay and root dispersion of answers come from." =
        |status| each_upstream(status, |peer| Some(flag(peer.tally == Tally::SystemPeer)));
    "pooltime_upstream_falseticker" Gauge ["upstream", "address"]
        "Whether the upstream disagrees with the majority." =
        |status| each_upstream(status, |peer| Some(flag(peer.tally == Tally::Falseticker)));
    "pooltime_upstream_reach_ratio" Gauge ["upstream", "address"]
        "Share of the last eight requests to the upstream that were answered." =
        |status| each_upstream(status, |peer| Some(f64::from(peer.reach.count_ones()) / 8.0));
    "pooltime_upstream_stratum" Gauge ["upstream", "address"]
        "Stratum in the latest answer of the upstream; it is 16 before the first." =
        |status| each_upstream(status, |peer| Some(f64::from(peer.stratum)));
    "pooltime_upstream_poll_seconds" Gauge ["upstream", "address"] "Interval between requests to the upstream." =
        |status| each_upstream(status, |peer| Some(f64::from(peer.poll_log2).exp2()));
    "pooltime_upstream_offset_seconds" Gauge ["upstream", "address"]
        "Offset of the served clock from the upstream; it is positive if the served clock is slow." =
        |status| each_upstream(status, |peer| peer.offset_s);
    "pooltime_upstream_delay_seconds" Gauge ["upstream", "address"] "Shortest recent round trip to the upstream." =
        |status| each_upstream(status, |peer| peer.delay_s);
    "pooltime_upstream_jitter_seconds" Gauge ["upstream", "address"]
        "Mean queueing delay on the way to the upstream, in one direction." =
        |status| each_upstream(status, |peer| peer.jitter_s);
    "pooltime_upstream_requests_total" Counter ["upstream", "address"]
        "Number of requests that were sent to the upstream." =
        |status| each_upstream(status, |peer| Some(number(peer.requests)));
    "pooltime_upstream_answers_total" Counter ["upstream", "address"] "Number of valid answers from the upstream." =
        |status| each_upstream(status, |peer| Some(number(peer.answers)));
    "pooltime_upstream_kisses_total" Counter ["upstream", "address"] "Number of kisses of death from the upstream." =
        |status| each_upstream(status, |peer| Some(number(peer.kisses.values().sum())));
    "pooltime_upstream_rejections_total" Counter ["upstream", "address", "reason"]
        "Number of answers from the upstream that were refused, by reason." =
        |status| {
            let of = |peer: &Peer| {
                let labels = upstream(peer);
                let with = move |(reason, count): (&String, &u64)| {
                    ([&labels[..], std::slice::from_ref(reason)].concat(), number(*count))
                };
                peer.rejected.iter().map(with).collect::<Vec<_>>()
            };
            status.upstreams.iter().flat_map(of).collect()
        };

    "pooltime_interface_unsent_answers_total" Counter ["interface"]
        "Number of answers that the driver was handed and did not send, by its own counters; it is absent where the driver has none for that." =
        |status| {
            let unsent = |interface: &crate::status::Interface| {
                interface.xdp_transmit_errors.map(|errors| (vec![interface.name.clone()], number(errors)))
            };
            status.interfaces.iter().filter_map(unsent).collect()
        };
    "pooltime_interface_info" Gauge ["interface", "mode"]
        "Mode in which the program runs on the interface (native, generic or none); the value is always 1." =
        |status| {
            let mode = |mode: Option<Mode>| mode.map_or("none", Mode::label).to_owned();
            let interfaces = status.interfaces.iter();
            interfaces.map(|interface| (vec![interface.name.clone(), mode(interface.mode)], 1.0)).collect()
        };
    "pooltime_interface_up" Gauge ["interface"]
        "Whether the interface is administratively up and the program is attached." =
        |status| each_interface(status, |interface| flag(interface.up && interface.mode.is_some()));
    "pooltime_interface_fallback" Gauge ["interface"]
        "Whether the interface is in generic mode because native mode was refused." =
        |status| each_interface(status, |interface| flag(interface.fallback.is_some()));
    "pooltime_interface_queues" Gauge ["interface", "direction"]
        "Number of queues that the driver of the interface has allocated." =
        |status| each_driver(status, |driver| vec![
            ("receive", driver.receive_queues.into()),
            ("transmit", driver.transmit_queues.into()),
        ]);
    "pooltime_interface_dropped_total" Counter ["interface", "reason"]
        "Number of frames that the driver has dropped on receive, missed because its rings were full, or dropped on transmit." =
        |status| each_driver(status, |driver| vec![
            ("receive", driver.receive_dropped),
            ("missed", driver.receive_missed),
            ("transmit", driver.transmit_dropped),
        ]);

    "pooltime_interface_stations_without_room" Gauge ["interface"]
        "Number of MAC addresses and VLANs that are not answered for in the NIC path because the interface has too many of them." =
        |status| each_interface(status, |interface| number(interface.stations_without_room as u64));
    "pooltime_addresses_without_room" Gauge ["family"]
        "Number of addresses that are not answered for in the NIC path because there are too many; the socket answers for them." =
        |status| without_room(status);

    "pooltime_map_memory_bytes" Gauge ["map"] "Kernel memory that the program's map takes." =
        |status| {
            let maps = status.maps.by_name.iter();
            maps.map(|(name, bytes)| (vec![name.clone()], number(*bytes))).collect()
        };
    "process_start_time_seconds" Gauge [] "Moment at which the daemon was started, since the Unix epoch." =
        |status| daemon(status, |daemon| daemon.started_unix_s);
    "process_cpu_seconds_total" Counter [] "CPU time that the daemon has used, in user space and in the kernel." =
        |status| daemon(status, |daemon| daemon.cpu_s);
    "process_resident_memory_bytes" Gauge [] "Resident memory of the daemon." =
        |status| daemon(status, |daemon| number(daemon.resident_bytes));
    "process_open_fds" Gauge [] "Number of file descriptors that the daemon has open." =
        |status| daemon(status, |daemon| number(daemon.descriptors));
}

/// Reads the current values of all metrics.
pub(super) fn families(status: &Status) -> Vec<Family> {
    METRICS.iter().map(|(metric, read)| Family { metric, samples: read(status) }).collect()
}

fn one(value: f64) -> Samples {
    vec![(Vec::new(), value)]
}

fn some(value: Option<f64>) -> Samples {
    value.map(one).unwrap_or_default()
}

fn flag(value: bool) -> f64 {
    f64::from(u8::from(value))
}

/// Base units, as Prometheus has them. A quotient is the nearest number to the right one, which a product with 1e-6 may
/// miss.
fn ratio(ppm: f64) -> f64 {
    ppm / 1e6
}

#[expect(clippy::cast_precision_loss, reason = "scrapers read floating-point values")]
fn number(value: u64) -> f64 {
    value as f64
}

fn daemon(status: &Status, value: impl Fn(&crate::status::Daemon) -> f64) -> Samples {
    some(status.daemon.as_ref().map(value))
}

fn limits(status: &Status, value: impl Fn(&crate::status::Limits) -> f64) -> Samples {
    some(status.limits.as_ref().map(value))
}

fn quota(status: &Status, value: impl Fn(&crate::status::quota::Quota) -> Option<f64>) -> Samples {
    some(status.quota.as_ref().and_then(value))
}

#[expect(clippy::cast_precision_loss, reason = "seconds since 1970")]
fn timestamp(unix_s: i64) -> f64 {
    unix_s as f64
}

fn without_room(status: &Status) -> Samples {
    let number_of = |family: &Protocol| {
        let told = status.addresses_without_room.iter().find(|told| told.family == family.label());
        told.map_or(0.0, |told| number(told.number as u64))
    };
    // Only the daemon knows.
    let families = status.daemon.iter().flat_map(|_| Protocol::ALL);
    families.map(|family| (vec![family.label().to_owned()], number_of(family))).collect()
}

fn kernel_clock(status: &Status, samples: impl Fn(&KernelClockStatus) -> Samples) -> Samples {
    let discipline = status.clock.discipline.as_ref();
    discipline.map_or_else(Vec::new, |discipline| samples(&discipline.kernel_clock))
}

fn each_interface(status: &Status, value: impl Fn(&crate::status::Interface) -> f64) -> Samples {
    status.interfaces.iter().map(|interface| (vec![interface.name.clone()], value(interface))).collect()
}

fn upstream(peer: &Peer) -> Vec<String> {
    vec![peer.name.clone(), peer.address.clone().unwrap_or_default()]
}

fn each_upstream(status: &Status, value: impl Fn(&Peer) -> Option<f64>) -> Samples {
    status.upstreams.iter().filter_map(|peer| Some((upstream(peer), value(peer)?))).collect()
}

fn each_driver(
    status: &Status,
    values: impl Fn(&crate::net::interfaces::Driver) -> Vec<(&'static str, u64)>,
) -> Samples {
    let of = |interface: &crate::status::Interface| {
        let name = interface.name.clone();
        values(&interface.driver)
            .into_iter()
            .map(move |(label, value)| (vec![name.clone(), label.to_owned()], number(value)))
    };
    status.interfaces.iter().flat_map(of).collect()
}

/// Reads samples of each interface and adds its name as the first label.
fn by_interface(status: &Status, of: impl Fn(&[Counter]) -> Samples) -> Samples {
    let with_name = |interface: &crate::status::Interface| {
        let name = interface.name.clone();
        of(&interface.counters).into_iter().map(move |(mut labels, value)| {
            labels.insert(0, name.clone());
            (labels, value)
        })
    };
    status.interfaces.iter().flat_map(with_name).collect()
}

/// Returns the versions that were seen for each verdict and family, or version 4 at zero if there were none. A series
/// that does not exist before its first event has no rate when the event happens.
fn packets(counters: &[Counter]) -> Samples {
    let mut samples = Vec::new();
    for verdict in Verdict::ALL.iter().filter(|verdict| **verdict != Verdict::NotNtp) {
        for family in Protocol::ALL {
            let labels =
                |version: u8| vec![verdict.label().into(), family.label().into(), version.to_string()];
            let of_both =
                |counter: &&Counter| counter.verdict == verdict.label() && counter.family == family.label();
            let before = samples.len();
            samples.extend(
                counters
                    .iter()
                    .filter(of_both)
                    .map(|counter| (labels(counter.version), number(counter.packets))),
            );
            if samples.len() == before {
                samples.push((labels(4), 0.0));
            }
        }
    }
    samples
}

fn bytes(counters: &[Counter], wanted: impl Fn(Action) -> bool) -> Samples {
    let is_wanted =
        |label: &str| Verdict::ALL.iter().any(|verdict| verdict.label() == label && wanted(verdict.action()));
    let of = |family: &Protocol| {
        let counters =
            counters.iter().filter(|counter| counter.family == family.label() && is_wanted(&counter.verdict));
        (vec![family.label().to_owned()], number(counters.map(|counter| counter.bytes).sum()))
    };
    Protocol::ALL.iter().map(of).collect()
}

#[cfg(test)]
mod tests;
