//! Turns an exchange into a sample for the discipline.

use protocol::time::short_s;
use protocol::{Era, Reject, ServerTime, Times};

use crate::discipline::{Leap, LocalTime, Sample};

/// Makes a sample from a server's answer and the times of both ends of the exchange by `CLOCK_MONOTONIC`.
///
/// # Errors
///
/// [`Reject::Residence`].
pub(super) fn sample(server: &ServerTime, times: &Times) -> Result<Sample, Reject> {
    let measured = server.measure(times, Era::From2020)?;
    measured.believable()?;
    Ok(Sample {
        at: LocalTime::from_ns(times.sent_ns).plus_seconds(times.elapsed_s() / 2.0),
        offset_ns: measured.offset_ns,
        delay_s: measured.delay_s(),
        dispersion_s: measured.dispersion_s,
        root_delay_s: short_s(server.root_delay),
        root_dispersion_s: short_s(server.root_dispersion),
        stratum: server.stratum,
        leap: match server.leap {
            1 => Leap::Insert,
            2 => Leap::Delete,
            _ => Leap::None,
        },
    })
}

#[cfg(test)]
mod tests {
    use responder::clock::{NtpShort, NtpTimestamp};

    use super::*;

    #[test]
    fn a_sample_stands_in_the_middle_of_its_exchange() {
        let received = NtpTimestamp::from_unix(1_790_000_000, 0);
        let server = ServerTime {
            leap: 1,
            stratum: 2,
            precision: -20,
            root_delay: NtpShort(1 << 15),
            root_dispersion: NtpShort(1 << 14),
            receive: received,
            transmit: NtpTimestamp::from_unix(1_790_000_001, 0),
            ..ServerTime::default()
        };
        let times = Times { sent_ns: 100_000_000_000, received_ns: 105_000_000_000, error_s: 1e-6 };
        let sample = sample(&server, &times).unwrap();
        assert_eq!(sample.at, LocalTime::from_ns(102_500_000_000));
        assert_eq!(sample.offset_ns, 1_790_000_000_500_000_000 - 102_500_000_000);
        assert!((sample.delay_s - 4.0).abs() < 1e-9, "{sample:?}");
        assert!((sample.root_delay_s - 0.5).abs() < 1e-9 && (sample.root_dispersion_s - 0.25).abs() < 1e-9);
        assert_eq!((sample.stratum, sample.leap), (2, Leap::Insert));

        let too_soon = Times { received_ns: 100_500_000_000, ..times };
        assert_eq!(super::sample(&server, &too_soon), Err(Reject::Residence));
    }
}
