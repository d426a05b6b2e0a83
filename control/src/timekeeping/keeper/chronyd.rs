//! The part of chronyd's command protocol that asks what `chronyc tracking` asks, in version 6, which chronyd has
//! had since 1.27.
//!
//! All numbers are big-endian. A request is a header of 20 bytes (version, packet type 1, two reserved bytes, command
//! 33, attempt, sequence, eight bytes of padding), and zeros up to the length of its reply, so that no reply is longer
//! than its request. A reply is a header of 28 bytes and [`Tracking`]. Pure: nothing here sends or receives.

use std::fmt;

use protocol::time::PHI_PPB;
use responder::NtpTimestamp;
use responder::message::{LEAP_UNSYNCHRONISED, MAX_STRATUM};

use super::{Claim, Keeper, Remaining};
use crate::sys::kernel_clock::CrossTimestamp;

/// The UDP port at which chronyd takes commands, on loopback only by default (`cmdport`).
pub const PORT: u16 = 323;
/// The socket at which Debian's chronyd takes commands of root (`bindcmdaddress`).
pub const SOCKET: &str = "/run/chrony/chronyd.sock";
/// Length of the request and of its reply.
pub const LENGTH: usize = 104;

const VERSION: u8 = 6;
const TYPE_REQUEST: u8 = 1;
const TYPE_REPLY: u8 = 2;
const COMMAND_TRACKING: u16 = 33;
const REPLY_TRACKING: u16 = 5;
const STATUS_SUCCESS: u16 = 0;
const REPLY_HEADER: usize = 28;
/// chronyd adds this to the growth of its own dispersion by default (`maxclockerror`), in ppm.
const CLOCK_ERROR_PPM: f64 = 1.0;
/// The skew as long as no frequency estimate of chronyd's was better than its `maxupdateskew`: nothing is known of the
/// frequency. Its dispersion then grows by a second per second, for minutes where the path to its servers is noisy.
const UNKNOWN_SKEW_PPM: f64 = 1e6;
/// No clock is off by more without anybody's estimate: chronyd begins with the kernel's rate at its nominal value or with
/// its drift file, each within 500 ppm.
const UNKNOWN_FREQUENCY_PPM: f64 = 1000.0;
/// By how much a dispersion that grows by a second per second may differ while a request is under way, in s.
const LATE_REPLY_S: f64 = 0.001;

/// What `chronyc tracking` shows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tracking {
    /// Reference ID of what chronyd follows.
    pub reference_id: u32,
    /// chronyd's own stratum; 0 if it is not synchronised.
    pub stratum: u16,
    /// Leap indicator.
    pub leap: u16,
    /// When the clock was last corrected: seconds since 1970, and nanoseconds.
    pub reference_time: (u64, u32),
    /// What remains to be slewed in s; positive if the system clock is slow.
    pub correction_s: f64,
    /// Offset at the last update in s.
    pub last_offset_s: f64,
    /// Long-term average of that in s.
    pub rms_offset_s: f64,
    /// Frequency error of the system clock, which chronyd corrects, in ppm.
    pub frequency_ppm: f64,
    /// Residual frequency of the selected source in ppm.
    pub residual_ppm: f64,
    /// Error bound of the frequency in ppm.
    pub skew_ppm: f64,
    /// Root delay in s.
    pub root_delay_s: f64,
    /// Root dispersion in s, at the moment of the reply.
    pub root_dispersion_s: f64,
    /// Between the last two updates, in s.
    pub interval_s: f64,
}

/// Why a packet is not a good reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It does not belong to the request, and is to be ignored.
    Foreign,
    /// chronyd speaks this version of the protocol.
    Version(u8),
    /// chronyd refuses with this status.
    Status(u16),
    /// It is shorter than what it should hold.
    Short,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Foreign => f.write_str("no reply to the request"),
            Self::Version(version) => {
                write!(f, "chronyd speaks version {version} of its command protocol, not {VERSION}")
            }
            Self::Status(status) => write!(f, "chronyd refuses the command with status {status}"),
            Self::Short => f.write_str("the reply is too short"),
        }
    }
}

/// Returns the request with this sequence number, which the reply repeats.
#[must_use]
pub fn request(sequence: u32) -> [u8; LENGTH] {
    let mut packet = [0; LENGTH];
    packet[0] = VERSION;
    packet[1] = TYPE_REQUEST;
    packet[4..6].copy_from_slice(&COMMAND_TRACKING.to_be_bytes());
    packet[8..12].copy_from_slice(&sequence.to_be_bytes());
    packet
}

/// Reads the reply to the request with this sequence number.
///
/// # Errors
///
/// See [`Refused`].
pub fn read(packet: &[u8], sequence: u32) -> Result<Tracking, Refused> {
    let header = packet.split_at_checked(REPLY_HEADER).ok_or(Refused::Foreign)?;
    let (header, mut body) = (header.0, Fields(header.1));
    let mut fields = Fields(header);
    let [version, kind, _, _] = fields.take().ok_or(Refused::Foreign)?;
    let (command, reply) = (fields.u16(), fields.u16());
    let status = fields.u16();
    let _padding: Option<[u8; 6]> = fields.take();
    let belongs = kind == TYPE_REPLY && command == Some(COMMAND_TRACKING) && fields.u32() == Some(sequence);
    if !belongs {
        return Err(Refused::Foreign);
    }
    if version != VERSION {
        return Err(Refused::Version(version));
    }
    match (status, reply) {
        (Some(STATUS_SUCCESS), Some(REPLY_TRACKING)) => {}
        (status, _) => return Err(Refused::Status(status.unwrap_or_default())),
    }
    tracking(&mut body).ok_or(Refused::Short)
}

fn tracking(body: &mut Fields<'_>) -> Option<Tracking> {
    let reference_id = body.u32()?;
    // The address of what is followed: 16 bytes, its family, padding. The reference ID says as much.
    let _address: [u8; 20] = body.take()?;
    Some(Tracking {
        reference_id,
        stratum: body.u16()?,
        leap: body.u16()?,
        reference_time: (u64::from(body.u32()?) << 32 | u64::from(body.u32()?), body.u32()?),
        correction_s: body.float()?,
        last_offset_s: body.float()?,
        rms_offset_s: body.float()?,
        frequency_ppm: body.float()?,
        residual_ppm: body.float()?,
        skew_ppm: body.float()?,
        root_delay_s: body.float()?,
        root_dispersion_s: body.float()?,
        interval_s: body.float()?,
    })
}

impl Tracking {
    /// Returns what chronyd claims with this reply to a request that was sent when the clocks read `asked`.
    #[must_use]
    pub fn claim(&self, asked: &CrossTimestamp) -> Claim {
        let (seconds, nanos) = self.reference_time;
        let stratum = u8::try_from(self.stratum).unwrap_or(0);
        let leap = u8::try_from(self.leap).unwrap_or(LEAP_UNSYNCHRONISED);
        // As fast as chronyd's own dispersion grows, which is more than PHI as long as it hardly knows the frequency.
        let mut growth_ppm = self.growth_ppm();
        let mut root_dispersion_s = self.root_dispersion_s;
        if self.skew_ppm >= UNKNOWN_SKEW_PPM {
            growth_ppm = UNKNOWN_FREQUENCY_PPM;
            let updated_s = root_dispersion_s - self.age_s(asked) * (self.growth_ppm() - growth_ppm) * 1e-6;
            root_dispersion_s = updated_s.max(0.0) + LATE_REPLY_S;
        }
        Claim {
            keeper: Keeper::Chronyd,
            synchronised: leap < LEAP_UNSYNCHRONISED && (1..=MAX_STRATUM).contains(&stratum),
            leap: leap.min(LEAP_UNSYNCHRONISED),
            stratum: Some(stratum),
            reference_id: Some(self.reference_id),
            is_loop: false,
            reference_time: match self.reference_time {
                (0, 0) => NtpTimestamp(0),
                _ => NtpTimestamp::from_unix(seconds.cast_signed(), nanos.min(999_999_999)),
            },
            root_delay_ns: whole_ns(self.root_delay_s),
            root_dispersion_ns: whole_ns(root_dispersion_s),
            growth_ppb: whole(growth_ppm * 1e3).max(PHI_PPB),
            since_ns: asked.monotonic_before_ns,
            remaining: Remaining::Slew(signed_ns(self.correction_s)),
            interval_ns: Some(whole_ns(self.interval_s)),
        }
    }
}

impl Tracking {
    /// Returns by how much chronyd's own dispersion grows, in ppm.
    fn growth_ppm(&self) -> f64 {
        self.skew_ppm.abs() + self.residual_ppm.abs() + CLOCK_ERROR_PPM
    }

    /// Returns how long ago chronyd's last update was, in s, by the time that chronyd takes to be true.
    #[expect(clippy::cast_precision_loss, reason = "a difference of hours at most")]
    fn age_s(&self, asked: &CrossTimestamp) -> f64 {
        let (seconds, nanos) = self.reference_time;
        let updated_ns = i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
        ((asked.realtime_ns - updated_ns) as f64 / 1e9 + self.correction_s).max(0.0)
    }
}

fn whole_ns(seconds: f64) -> u64 {
    whole(seconds.abs() * 1e9)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a conversion saturates")]
fn whole(value: f64) -> u64 {
    value.ceil() as u64
}

fn signed_ns(seconds: f64) -> i64 {
    let ns = i64::try_from(whole_ns(seconds)).unwrap_or(i64::MAX);
    if seconds < 0.0 { -ns } else { ns }
}

/// The fields that have not been read yet.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }

    /// Reads a number of chronyd's own format: a signed exponent of 7 bits, and a signed coefficient of 25 bits that
    /// is a fraction of 2^25. It is always finite.
    fn float(&mut self) -> Option<f64> {
        const COEFFICIENT_BITS: u32 = 25;
        let bits = self.u32()?.cast_signed();
        let exponent = bits >> COEFFICIENT_BITS;
        let coefficient = (bits << (32 - COEFFICIENT_BITS)) >> (32 - COEFFICIENT_BITS);
        Some(f64::from(coefficient) * f64::from(exponent - COEFFICIENT_BITS.cast_signed()).exp2())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reply of chronyd 4.3 that serves its own clock (`local stratum 9`).
    const LOCAL: [u8; LENGTH] = {
        let mut reply = [0; LENGTH];
        (reply[0], reply[1], reply[5], reply[7]) = (6, 2, 33, 5);
        (reply[16], reply[17], reply[18], reply[19]) = (0xde, 0xad, 0xbe, 0xef);
        (reply[28], reply[29], reply[30], reply[31]) = (0x7f, 0x7f, 1, 1);
        reply[53] = 9;
        (reply[60], reply[61], reply[62], reply[63]) = (0x6b, 0x08, 0x5e, 0x1c);
        (reply[64], reply[65], reply[66], reply[67]) = (0x1c, 0xef, 0xb6, 0x6a);
        reply
    };
    const SEQUENCE: u32 = 0xdead_beef;

    fn now(monotonic_ns: u64) -> CrossTimestamp {
        CrossTimestamp { monotonic_before_ns: monotonic_ns, realtime_ns: 0, monotonic_after_ns: monotonic_ns }
    }

    fn changed(change: impl FnOnce(&mut [u8; LENGTH])) -> Result<Tracking, Refused> {
        let mut reply = LOCAL;
        change(&mut reply);
        read(&reply, SEQUENCE)
    }

    #[test]
    fn a_reply_of_a_real_chronyd_is_read() {
        let tracking = read(&LOCAL, SEQUENCE).unwrap();
        assert_eq!((tracking.reference_id, tracking.stratum, tracking.leap), (0x7f7f_0101, 9, 0));
        assert_eq!(tracking.reference_time, (1_795_710_492, 485_471_850));
        let claim = tracking.claim(&now(5));
        assert!(claim.synchronised && claim.since_ns == 5 && !claim.needs_no_kernel(), "{claim:?}");
        assert_eq!((claim.root_delay_ns, claim.root_dispersion_ns), (0, 0));
        assert_eq!((claim.remaining, claim.growth_ppb), (Remaining::Slew(0), PHI_PPB));
    }

    #[test]
    fn what_does_not_belong_to_the_request_or_is_refused_is_told_apart() {
        assert_eq!(read(&LOCAL, SEQUENCE + 1), Err(Refused::Foreign));
        assert_eq!(changed(|reply| reply[1] = 1), Err(Refused::Foreign));
        assert_eq!(changed(|reply| reply[5] = 34), Err(Refused::Foreign));
        assert_eq!(changed(|reply| reply[0] = 5), Err(Refused::Version(5)));
        // Of chronyd 4.3, asked in version 5, and asked without the padding.
        assert_eq!(changed(|reply| (reply[7], reply[9]) = (1, 0x12)), Err(Refused::Status(0x12)));
        assert_eq!(changed(|reply| reply[7] = 1), Err(Refused::Status(0)));
        for length in 0..LENGTH {
            let refused = if length < REPLY_HEADER { Refused::Foreign } else { Refused::Short };
            assert_eq!(read(&LOCAL[..length], SEQUENCE), Err(refused), "{length} bytes");
        }
    }

    #[test]
    fn numbers_have_signed_exponents_and_coefficients() {
        let float = |bits: u32| Fields(&bits.to_be_bytes()).float().unwrap();
        let parts = |exponent: u32, coefficient: u32| float(exponent << 25 | coefficient);
        assert_eq!(parts(0, 0).to_bits(), 0);
        for (exponent, coefficient, value) in [
            (1, 1 << 24, -1.0),
            (1, 1 << 23, 0.5),
            (0x7f, 1 << 23, 0.125),
            (63, (1 << 24) - 1, 4.611_685_743_549_481e18),
            (64, 1, 1.615_587_133_892_632_2e-27),
        ] {
            let read = parts(exponent, coefficient);
            assert!((read - value).abs() <= value.abs() * 1e-12, "{read} is not {value}");
        }
    }

    #[test]
    fn a_chronyd_that_does_not_know_the_frequency_yet_is_not_given_up() {
        let local = read(&LOCAL, SEQUENCE).unwrap();
        let updated_ns = i128::from(local.reference_time.0) * 1_000_000_000 + 485_471_850;
        for (age_s, correction_s, updated_s) in [(60.0, 0.0, 0.002), (60.0, -0.25, 0.002), (0.0, 0.3, 0.0)] {
            // By its own word the dispersion has grown by a second per second since the update.
            let tracking = Tracking {
                skew_ppm: 1e6,
                root_dispersion_s: updated_s + age_s * (1.0 + 1e-6),
                correction_s,
                ..local
            };
            let realtime_ns = updated_ns + i128::from(signed_ns(age_s - correction_s));
            let claim = tracking.claim(&CrossTimestamp { realtime_ns, ..now(0) });
            assert_eq!(claim.growth_ppb, 1_000_000);
            let dispersion_s = std::time::Duration::from_nanos(claim.root_dispersion_ns).as_secs_f64();
            let grown_s = updated_s + age_s * 0.001;
            assert!((grown_s..grown_s + 0.005).contains(&dispersion_s), "{dispersion_s} is not {grown_s}");
        }
    }

    #[test]
    fn the_dispersion_grows_as_chronyd_s_own_and_the_rest_of_a_slew_counts() {
        let tracking = Tracking {
            skew_ppm: 200.0,
            residual_ppm: -75.0,
            root_delay_s: 0.020,
            root_dispersion_s: 0.003,
            correction_s: -0.002,
            ..read(&LOCAL, SEQUENCE).unwrap()
        };
        let claim = tracking.claim(&now(0));
        assert_eq!((claim.growth_ppb, claim.root_delay_ns), (276_000, 20_000_000));
        assert_eq!(claim.remaining, Remaining::Slew(-2_000_000));
        let unsynchronised = Tracking { stratum: 0, leap: 3, ..tracking };
        assert!(!unsynchronised.claim(&now(0)).synchronised);
        assert!(!Tracking { stratum: 300, ..tracking }.claim(&now(0)).synchronised);
    }
}
