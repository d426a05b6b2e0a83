//! The check that the pool's monitor makes of one address: its request, its samples, and its rules for an
//! answer.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use protocol::{Answer, PendingRequest, Reading, Reject, Strictness, Times};

use super::score::{CheckFinding, HIGHEST_STRATUM};
use crate::net::query::{Failure, converse, new_request};

/// The precision that the monitor's client library sends.
const PRECISION_BYTE: u8 = 0x20;

/// How many samples a check takes, and when.
#[derive(Clone, Copy, Debug)]
pub struct CheckSchedule {
    /// Number of samples.
    pub samples: u32,
    /// Time from the end of one sample to the next.
    pub gap: Duration,
    /// Timeout per answer.
    pub timeout: Duration,
}

/// The schedule of the monitor.
pub const MONITOR_SCHEDULE: CheckSchedule =
    CheckSchedule { samples: 3, gap: Duration::from_secs(2), timeout: Duration::from_secs(3) };

/// One request, and what came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckSample {
    /// What the answer says.
    pub finding: CheckFinding,
    /// Round trip minus the server's residence time, if the answer has the time.
    pub round_trip_ns: Option<i64>,
    /// Why there is no answer.
    pub failure: Option<String>,
}

/// A whole check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// The samples in order. A refusal ends the check.
    pub samples: Vec<CheckSample>,
    /// Index of the sample that counts.
    pub counts: usize,
}

impl Check {
    /// The sample that counts.
    #[must_use]
    pub fn best(&self) -> &CheckSample {
        &self.samples[self.counts]
    }
}

/// Checks a server.
#[must_use]
pub fn check(server: SocketAddr, schedule: CheckSchedule) -> Check {
    let mut samples: Vec<CheckSample> = Vec::new();
    for number in 0..schedule.samples.max(1) {
        if number > 0 {
            thread::sleep(schedule.gap);
        }
        let sample = take(server, schedule.timeout);
        let refused = !matches!(sample.finding, CheckFinding::Time { .. } | CheckFinding::NoResponse);
        samples.push(sample);
        if refused {
            return Check { counts: samples.len() - 1, samples };
        }
    }
    // Samples without a time are all alike, and the first one counts.
    let counts = samples
        .iter()
        .enumerate()
        .filter_map(|(index, sample)| sample.round_trip_ns.map(|round_trip_ns| (round_trip_ns, index)))
        .min()
        .map_or(0, |(_, index)| index);
    Check { samples, counts }
}

fn take(server: SocketAddr, timeout: Duration) -> CheckSample {
    let lost = |failure: String| CheckSample {
        finding: CheckFinding::NoResponse,
        round_trip_ns: None,
        failure: Some(failure),
    };
    let request = match new_request() {
        Ok(request) => request,
        Err(failure) => return lost(failure.to_string()),
    };
    let mut bytes = request.to_bytes();
    bytes[3] = PRECISION_BYTE;
    // The monitor looks at the first packet that comes; if it discards that, it has nothing.
    let first = |packet: &[u8], times: &Times| Ok(read(packet, request, times));
    match converse(server, &bytes, timeout, first) {
        Ok(Ok(sample)) => sample,
        Ok(Err(thrown_away)) => lost(format!("the answer is discarded: {thrown_away}")),
        Err(failure @ (Failure::Timeout(_) | Failure::Kiss(_))) => lost(failure.to_string()),
        Err(Failure::Socket(error)) => lost(error),
    }
}

/// Reads an answer as the monitor does. The error says why it discards the packet.
fn read(packet: &[u8], request: PendingRequest, times: &Times) -> Result<CheckSample, Reject> {
    let without_time = |finding| CheckSample { finding, round_trip_ns: None, failure: None };
    let server = match request.read(packet, Strictness::MONITOR)? {
        Answer::Kiss(kiss) => return Ok(without_time(CheckFinding::Kiss(kiss.code()))),
        Answer::Time(server) => server,
    };
    Ok(match server.stratum {
        0 => without_time(CheckFinding::NoStratum),
        stratum if stratum > HIGHEST_STRATUM => without_time(CheckFinding::BadStratum(stratum)),
        stratum => {
            let Reading { offset_ns, delay_ns, .. } = server.reading(times)?;
            CheckSample {
                finding: CheckFinding::Time { stratum, offset_ns },
                round_trip_ns: Some(delay_ns.max(0)),
                failure: None,
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use responder::clock::NtpTimestamp;
    use responder::message::{LENGTH, MODE_SERVER};

    use super::*;

    const REQUEST: PendingRequest = PendingRequest::new(*b"unguessd");
    const SENT_S: i64 = 1_790_000_000;

    fn answer() -> [u8; LENGTH] {
        let timestamp = |seconds| NtpTimestamp::from_unix(seconds, 0).0.to_be_bytes();
        let mut bytes = [0; LENGTH];
        bytes[0] = 4 << 3 | MODE_SERVER;
        bytes[1] = 2;
        bytes[24..32].copy_from_slice(&REQUEST.transmit());
        bytes[32..40].copy_from_slice(&timestamp(SENT_S + 1));
        bytes[40..].copy_from_slice(&timestamp(SENT_S + 2));
        bytes
    }

    fn read_it(bytes: &[u8]) -> Result<CheckSample, Reject> {
        let times = Times {
            sent_ns: SENT_S * 1_000_000_000,
            received_ns: (SENT_S + 5) * 1_000_000_000,
            error_s: 0.0,
        };
        read(bytes, REQUEST, &times)
    }

    #[test]
    fn an_answer_has_an_offset_and_a_round_trip() {
        let sample = read_it(&answer()).unwrap();
        assert_eq!(sample.finding, CheckFinding::Time { stratum: 2, offset_ns: -1_000_000_000 });
        assert_eq!(sample.round_trip_ns, Some(4_000_000_000));
    }

    #[test]
    fn what_the_monitor_throws_away_is_thrown_away() {
        type Change = fn(&mut [u8; LENGTH]);
        let cases: [(Change, Reject); 4] = [
            (|bytes| bytes[0] = 4 << 3 | 3, Reject::Mode),
            (|bytes| bytes[24] = 0, Reject::Origin),
            (|bytes| bytes[32] = 0xff, Reject::Order),
            (|bytes| bytes[40..].fill(0), Reject::ZeroTransmit),
        ];
        for (change, reject) in cases {
            let mut bytes = answer();
            change(&mut bytes);
            assert_eq!(read_it(&bytes), Err(reject));
        }
        assert_eq!(read_it(&answer()[..47]), Err(Reject::Short));
    }

    #[test]
    fn strata_that_are_none_are_told_apart() {
        for (stratum, code, finding) in [
            (0, *b"RATE", CheckFinding::Kiss("RATE".into())),
            (0, [0; 4], CheckFinding::NoStratum),
            (16, [0; 4], CheckFinding::BadStratum(16)),
            (11, [0; 4], CheckFinding::BadStratum(11)),
        ] {
            let mut bytes = answer();
            bytes[1] = stratum;
            bytes[12..16].copy_from_slice(&code);
            assert_eq!(read_it(&bytes).unwrap().finding, finding);
        }
    }
}
