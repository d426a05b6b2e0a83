//! What an exchange measures (RFC 5905, section 8).

use crate::answer::ServerTime;
use crate::reject::Reject;
use crate::time::{PHI, unix_ns, unix_ns_near};

/// The times of both ends of an exchange by our own clock, whatever its epoch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Times {
    /// When the request was sent.
    pub sent_ns: i64,
    /// When the answer came.
    pub received_ns: i64,
    /// Largest error of these times, in s.
    pub error_s: f64,
}

impl Times {
    /// Returns the duration of the exchange, in s.
    #[must_use]
    pub fn elapsed_s(&self) -> f64 {
        seconds(self.received_ns.saturating_sub(self.sent_ns))
    }
}

/// Which of the moments, 136 years apart, a timestamp stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Era {
    /// The one from 2020 on, whatever our own clock shows.
    From2020,
    /// The one nearest to our own clock, which counts from 1970.
    NearOurs,
}

/// What an exchange measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measurement {
    /// The server's clock, counted from 1970, minus ours.
    pub offset_ns: i64,
    /// Round trip minus the server's residence time. Errors of the clocks can make it negative.
    pub delay_ns: i64,
    /// Resolution of the server's clock, in s.
    pub precision_s: f64,
    /// Largest error of offset and delay from reading the clocks and from their frequencies, in s.
    pub dispersion_s: f64,
}

impl Measurement {
    /// Returns the round trip minus the server's residence time, but at least the resolution of the server's
    /// clock, in s.
    #[must_use]
    pub fn delay_s(&self) -> f64 {
        seconds(self.delay_ns).max(self.precision_s)
    }

    /// Checks whether the delay is possible within the errors of the clocks.
    ///
    /// # Errors
    ///
    /// [`Reject::Residence`].
    pub fn believable(&self) -> Result<(), Reject> {
        if seconds(self.delay_ns) < -2.0 * self.dispersion_s { Err(Reject::Residence) } else { Ok(()) }
    }
}

/// A server's answer, and how far its clock is from ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The answer.
    pub server: ServerTime,
    /// The server's clock minus ours.
    pub offset_ns: i64,
    /// Round trip minus the server's residence time.
    pub delay_ns: i64,
}

impl ServerTime {
    /// Returns what the exchange measured for a client whose clock counts from 1970, without any plausibility
    /// check.
    ///
    /// # Errors
    ///
    /// [`Reject::Residence`] for clocks that are centuries apart.
    pub fn reading(self, times: &Times) -> Result<Reading, Reject> {
        let Measurement { offset_ns, delay_ns, .. } = self.measure(times, Era::NearOurs)?;
        Ok(Reading { server: self, offset_ns, delay_ns })
    }

    /// Returns what the exchange measured.
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
    /// A moment in 2026 on the wire, in s.
    const RECEIVED_S: u64 = 4_000_000_000;

    /// Makes an answer that was received at [`RECEIVED_S`] and sent a second later.
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
        // The middle is a second later, which is 102.5 by our clock.
        assert_eq!(measured.offset_ns, received_unix_s * S - 102 * S);
        assert_eq!(measured.delay_ns, 4 * S);
        assert!(measured.dispersion_s > 5.0 * PHI && measured.dispersion_s < 1e-4, "{measured:?}");
        assert_eq!(measured.believable(), Ok(()));
    }

    #[test]
    fn a_server_that_kept_the_request_too_long_is_not_believed() {
        let measured = time().measure(&times(100 * S, 100 * S + S / 2), Era::From2020).unwrap();
        assert_eq!(measured.believable(), Err(Reject::Residence));
        // Real clocks can give a little less than nothing.
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
