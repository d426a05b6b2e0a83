//! A server without a network, which answers frames in memory.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use responder::budget::Allowance;
use responder::clock::{DispersionRate, Rate};
use responder::layout::FAMILIES;
use responder::limiter::{Buckets, WAYS};
use responder::sample::Sample;
use responder::{
    Access, Action, ClockState, Family, NtpShort, NtpTimestamp, Outcome, Policy, Published, ServedTable,
    Server, Station, StationTable, Tags, Verdict,
};

use super::{
    Answer, BROADCAST_IPV4, FIRST_VLAN, Request, SERVER_IPV4, SERVER_IPV6, SERVER_MAC, SERVICE_VLAN, TAGS,
    Tables,
};

/// A server that answers for [`SERVER_IPV4`] and [`SERVER_IPV6`]. Its clock stands still.
#[derive(Clone)]
pub struct Host {
    /// The addresses that it answers for; without them it has published nothing.
    pub served: Option<ServedTable>,
    /// The stations that it is.
    pub stations: StationTable,
    /// Whom it limits, and whom it answers.
    pub policy: Policy,
    /// Its clock; `None` if the clock cannot be read.
    pub clock: Option<ClockState>,
    /// What it limits by, if the policy says so.
    pub tables: Arc<Tables>,
    /// Until when it knows port 123 of each family to be its own alone, on the same clock.
    pub port_ours_until_ns: [u64; FAMILIES],
    /// Its `CLOCK_MONOTONIC` in ns.
    pub monotonic_ns: u64,
}

impl Host {
    /// A synchronised server, a quarter of a second after its clock was published.
    pub fn new() -> Self {
        let clock = clock();
        Self {
            served: Some(served()),
            stations: stations(),
            policy: Policy::OFF,
            clock: Some(clock),
            tables: Arc::default(),
            port_ours_until_ns: [0; FAMILIES],
            monotonic_ns: clock.monotonic_base_ns + 250_000_000,
        }
    }

    /// Calls [`responder::respond`] on a frame.
    pub fn respond(&self, frame: &mut [u8]) -> Outcome {
        responder::respond(&mut &mut *frame, self)
    }

    /// The answer to a request. It must be one with the time.
    #[track_caller]
    pub fn answer(&self, request: &Request) -> Answer {
        let mut frame = request.build();
        let length = frame.len();
        let outcome = self.respond(&mut frame);
        assert_eq!(outcome.verdict, Verdict::Answered);
        assert_eq!(outcome.version, request.payload[0] >> 3 & 7);
        assert_eq!(frame.len(), length);
        Answer::take_apart(&frame)
    }

    /// Asserts that a frame is not answered and not changed, with this verdict.
    #[track_caller]
    pub fn assert_unanswered(&self, frame: &[u8], verdict: Verdict) {
        let mut after = frame.to_vec();
        assert_eq!(self.respond(&mut after).verdict, verdict);
        assert_ne!(verdict.action(), Action::Transmit);
        assert_eq!(after, frame);
    }
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

/// What a [`Host`] has published.
pub struct View<'a> {
    served: &'a ServedTable,
    stations: &'a StationTable,
    policy: &'a Policy,
    clock: Option<ClockState>,
    port_ours_until_ns: [u64; FAMILIES],
}

impl Published for View<'_> {
    fn served(&self) -> &ServedTable {
        self.served
    }

    fn stations(&self) -> &StationTable {
        self.stations
    }

    fn clock(&self) -> Option<ClockState> {
        self.clock
    }

    fn port_ours_until_ns(&self, family: Family) -> u64 {
        self.port_ours_until_ns[family as usize]
    }

    fn policy(&self) -> &Policy {
        self.policy
    }
}

impl Buckets for Host {
    type Bucket = AtomicU64;

    fn set(&self, number: u32) -> Option<&[AtomicU64; WAYS]> {
        self.tables.set(number)
    }

    fn known(&self, number: u32) -> Option<&[AtomicU64; WAYS]> {
        self.tables.known(number)
    }

    fn tries(&self, number: u32) -> Option<&[AtomicU64; WAYS]> {
        self.tables.tries(number)
    }

    fn kisses(&self) -> Option<&AtomicU64> {
        self.tables.kisses()
    }

    fn allowance(&self) -> Option<Allowance<'_, AtomicU64>> {
        self.tables.allowance()
    }

    fn report(&self, sample: Sample) {
        self.tables.report(sample);
    }
}

impl Server for Host {
    type Published<'a> = View<'a>;

    fn published(&self) -> Option<View<'_>> {
        Some(View {
            served: self.served.as_ref()?,
            stations: &self.stations,
            policy: &self.policy,
            clock: self.clock,
            port_ours_until_ns: self.port_ours_until_ns,
        })
    }
}

impl responder::Host for Host {
    fn received_ns(&self) -> u64 {
        self.monotonic_ns
    }

    fn access_ipv4(&self, source: [u8; 4]) -> Access {
        self.tables.access(source.into())
    }

    fn access_ipv6(&self, source: [u8; 16]) -> Access {
        self.tables.access(source.into())
    }
}

/// The table of [`SERVER_IPV4`], [`BROADCAST_IPV4`] and [`SERVER_IPV6`].
pub fn served() -> ServedTable {
    ServedTable::new(&[SERVER_IPV4.octets()], &[BROADCAST_IPV4.octets()], &[SERVER_IPV6.octets()])
        .expect("three addresses fit")
}

/// The table of [`station_list`].
pub fn stations() -> StationTable {
    StationTable::new(&station_list()).expect("as many as there are stacks of tags")
}

/// [`SERVER_MAC`] under each stack of tags of [`TAGS`], with the VLAN IDs of [`Request::build`].
pub fn station_list() -> Vec<Station> {
    TAGS.iter().map(|tags| Station::new(SERVER_MAC, tags_of(tags))).collect()
}

/// The tags with these protocol identifiers and the VLAN IDs of [`Request::build`].
pub fn tags_of(identifiers: &[u16]) -> Tags {
    let ids = FIRST_VLAN..;
    identifiers.iter().zip(ids).fold(Tags::NONE, |tags, (tag, id)| tags.with(id, *tag == SERVICE_VLAN))
}

/// A synchronised clock, no field of which is zero or like another.
pub fn clock() -> ClockState {
    ClockState {
        sequence: 7,
        monotonic_base_ns: 5_000_000_000_000,
        ntp_base: NtpTimestamp(0xec00_0000_4000_0000),
        rate: Rate::NOMINAL,
        horizon_ns: 5_064_000_000_000,
        reference_time: NtpTimestamp(0xebff_fff0_0bad_cafe),
        root_delay: NtpShort::from_nanos(12_000_000),
        root_dispersion: NtpShort::from_nanos(3_000_000),
        dispersion_rate: DispersionRate::from_ppb(15_000),
        reference_id: 0xc000_0201,
        leap: 1,
        stratum: 2,
        precision: -23,
    }
}
