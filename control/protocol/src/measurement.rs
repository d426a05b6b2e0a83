//! What an exchange measures (RFC 5905, section 8).

use crate::answer::ServerTime;
use crate::reject::Reject;
use crate::time::{PHI, unix_ns, unix_ns_near};

/// The two ends of an exchange by a clock of our own, whatever that counts from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Times {
    /// The request went.
    pub sent_ns: i64,
    /// The answer came.
    pub received_ns: i64,
    /// How far these may be off, in s.
    pub error_s: f64,
}

impl Times {
    /// How long the exchange took, in s.
    #[must_use]
    pub fn elapsed_s(&self) -> f64 {
        seconds(self.received_ns.saturating_sub(self.sent_ns))
    }
}

/// Which of the moments, 136 years apart, a timestamp stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Era {
    /// That from 2020 on, whatever our own clock says.
    From2020,
    /// That nearest to our own clock, which counts from 1970.
    NearOurs,
}

/// What came of an exchange.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measurement {
    /// The server's clock, since 1970, less ours.
    pub offset_ns: i64,
    /// The round trip less the server's residence. Clocks that are off make it negative.
    pub delay_ns: i64,
    /// What the server's clock resolves, in s.
    pub precision_s: f64,
    /// How far offset and delay may be off for the ways the clocks were read and run, in s.
    pub dispersion_s: f64,
}

impl Measurement {
    /// The round trip less the server's residence, no shorter than the server's clock could tell, in s.
    #[must_use]
    pub fn delay_s(&self) -> f64 {
        seconds(self.delay_ns).max(self.precision_s)
    }

    /// Whether the delay can be, within what the clocks' errors explain.
    ///
    /// # Errors
    ///
    /// [`Reject::Residence`].
    pub fn believable(&self) -> Result<(), Reject> {
        if seconds(self.delay_ns) < -2.0 * self.dispersion_s { Err(Reject::Residence) } else { Ok(()) }
    }
}

/// What a server said, and how far its clock is from ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// What it said.
    pub server: ServerTime,
    /// Its clock less ours.
    pub offset_ns: i64,
    /// The round trip less the server's residence.
    pub delay_ns: i64,
}

impl ServerTime {
    /// What the exchange told a client whose clock counts from 1970. Nothing is judged.
    ///
    /// # Errors
    ///
    /// [`Reject::Residence`] for clocks that are centuries apart.
    pub fn reading(self, times: &Times) -> Result<Reading, Reject> {
        let Measurement { offset_ns, delay_ns, .. } = self.measure(times, Era::NearOurs)?;
        Ok(Reading { server: self, offset_ns, delay_ns })
    }

    /// What the exchange measured.
    ///
    /// # Errors
    ///
    /// [`Reject::Residence`] for clocks that are centuries apart.
    pub fn measure(&self, times: &Times, era: Era) -> Result<Measurement, Reject> {
        let (sent, received) = (i128::from(times.sent_ns), i128::from(times.received_ns));
        let moment = |timestamp, ours| match era {
            Era::From2020 => unix_ns(timestamp),
            Era::NearOurs => unix_ns_near(timestamp, ours),
        };
        let (receive, transmit) = (moment(self.receive, sent), moment(self.transmit, received));
        let offset_ns = i128::midpoint(receive - sent, transmit - received);
        let delay_ns = (received - sent) - (transmit - receive);
        let precision_s = f64::from(self.precision.clamp(-32, 4)).exp2();
        Ok(Measurement {
            offset_ns: i64::try_from(offset_ns).map_err(|_| Reject::Residence)?,
            delay_ns: i64::try_from(delay_ns).map_err(|_| Reject::Residence)?,
            precision_s,
            dispersion_s: precision_s + times.error_s + PHI * times.elapsed_s(),
        })
    }
}

#[expect(clippy::cast_precision_loss, reason = "differences, exact to 1 ns up to 104 days")]
fn seconds(ns: i64) -> f64 {
    ns as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use responder::clock::{NtpTimestamp, UNIX_EPOCH_S};

    use super::*;

    const S: i64 = 1_000_000_000;
    /// A moment of 2026 on the wire, in s.
    const RECEIVED_S: u64 = 4_000_000_000;

    /// Received at [`RECEIVED_S`], sent a second later.
    fn time() -> ServerTime {
        ServerTime {
            precision: -20,
            receive: NtpTimestamp(RECEIVED_S << 32),
            transmit: NtpTimestamp((RECEIVED_S + 1) << 32),
            ..ServerTime::default()
        }
    }

    fn times(sent_ns: i64, received_ns: i64) -> Times {
        Times { sent_ns, received_ns, error_s: 1e-6 }
    }

    #[test]
    fn offset_and_delay_are_those_of_rfc_5905() {
        let measured = time().measure(&times(100 * S, 105 * S), Era::From2020).unwrap();
        let received_unix_s = (RECEIVED_S - UNIX_EPOCH_S).cast_signed();
        // A second later in the middle, which is 102.5 by ours.
        assert_eq!(measured.offset_ns, received_unix_s * S - 102 * S);
        assert_eq!(measured.delay_ns, 4 * S);
        assert!(measured.dispersion_s > 5.0 * PHI && measured.dispersion_s < 1e-4, "{measured:?}");
        assert_eq!(measured.believable(), Ok(()));
    }

    #[test]
    fn a_server_that_kept_the_request_too_long_is_not_believed() {
        let measured = time().measure(&times(100 * S, 100 * S + S / 2), Era::From2020).unwrap();
        assert_eq!(measured.believable(), Err(Reject::Residence));
        // A little less than nothing is what clocks do.
        let measured = time().measure(&times(100 * S, 101 * S - 1000), Era::From2020).unwrap();
        assert_eq!((measured.delay_ns, measured.believable()), (-1000, Ok(())));
        assert!((measured.delay_s() - measured.precision_s).abs() < 1e-12);
    }

    #[test]
    fn a_server_of_the_past_is_in_the_past_by_a_clock_that_knows_the_year() {
        let server = ServerTime {
            receive: NtpTimestamp::from_unix(946_684_800, 0),
            transmit: NtpTimestamp::from_unix(946_684_800, 0),
            ..time()
        };
        let now_ns = 1_790_000_000 * S;
        let offset_ns =
            |era| server.measure(&times(now_ns, now_ns), era).map(|measured| measured.offset_ns / S);
        assert_eq!(offset_ns(Era::NearOurs), Ok(946_684_800 - 1_790_000_000));
        assert_eq!(offset_ns(Era::From2020), Ok(946_684_800 - 1_790_000_000 + (1 << 32)));
    }
}
