//! The pool's monitor's check of one address: its request, its samples, its rules for an answer.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use protocol::{Answer, PendingRequest, Reading, Reject, Strictness, Times};

use super::score::{Finding, HIGHEST_STRATUM};
use crate::net::query::{Failure, converse, new_request};

/// What the monitor's client library sends.
const PRECISION_BYTE: u8 = 0x20;

/// How many samples a check takes, and when.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// So many.
    pub samples: u32,
    /// From the end of one to the next.
    pub gap: Duration,
    /// For each answer.
    pub timeout: Duration,
}

/// The monitor's.
pub const MONITOR: Pace = Pace { samples: 3, gap: Duration::from_secs(2), timeout: Duration::from_secs(3) };

/// One request, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// What it says.
    pub finding: Finding,
    /// Round trip less the server's residence, if it is an answer with the time.
    pub round_trip_ns: Option<i64>,
    /// Why there is no answer.
    pub failure: Option<String>,
}

/// A whole check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// Those taken, in order: a refusal ends the check.
    pub samples: Vec<Sample>,
    /// The one that counts.
    pub counts: usize,
}

impl Check {
    /// The sample that counts.
    #[must_use]
    pub fn best(&self) -> &Sample {
        &self.samples[self.counts]
    }
}

/// Checks a server.
#[must_use]
pub fn check(server: SocketAddr, pace: Pace) -> Check {
    let mut samples: Vec<Sample> = Vec::new();
    for number in 0..pace.samples.max(1) {
        if number > 0 {
            thread::sleep(pace.gap);
        }
        let sample = take(server, pace.timeout);
        let refused = !matches!(sample.finding, Finding::Time { .. } | Finding::NoResponse);
        samples.push(sample);
        if refused {
            return Check { counts: samples.len() - 1, samples };
        }
    }
    // Without a time they are all alike, and the first one counts.
    let counts = samples
        .iter()
        .enumerate()
        .filter_map(|(index, sample)| sample.round_trip_ns.map(|round_trip_ns| (round_trip_ns, index)))
        .min()
        .map_or(0, |(_, index)| index);
    Check { samples, counts }
}

fn take(server: SocketAddr, timeout: Duration) -> Sample {
    let lost = |failure: String| Sample {
        finding: Finding::NoResponse,
        round_trip_ns: None,
        failure: Some(failure),
    };
    let request = match new_request() {
        Ok(request) => request,
        Err(failure) => return lost(failure.to_string()),
    };
    let mut bytes = request.to_bytes();
    bytes[3] = PRECISION_BYTE;
    // The monitor takes the first packet that comes, or throws it away and has nothing.
    let first = |packet: &[u8], times: &Times| Ok(read(packet, request, times));
    match converse(server, &bytes, timeout, first) {
        Ok(Ok(sample)) => sample,
        Ok(Err(thrown_away)) => lost(format!("the answer is discarded: {thrown_away}")),
        Err(failure @ (Failure::Timeout(_) | Failure::Kiss(_))) => lost(failure.to_string()),
        Err(Failure::Socket(error)) => lost(error),
    }
}

/// Reads an answer as the monitor does. The error is why it throws it away.
fn read(packet: &[u8], request: PendingRequest, times: &Times) -> Result<Sample, Reject> {
    let without_time = |finding| Sample { finding, round_trip_ns: None, failure: None };
    let server = match request.read(packet, Strictness::MONITOR)? {
        Answer::Kiss(kiss) => return Ok(without_time(Finding::Kiss(kiss.code()))),
        Answer::Time(server) => server,
    };
    Ok(match server.stratum {
        0 => without_time(Finding::NoStratum),
        stratum if stratum > HIGHEST_STRATUM => without_time(Finding::BadStratum(stratum)),
        stratum => {
            let Reading { offset_ns, delay_ns, .. } = server.reading(times)?;
            Sample {
                finding: Finding::Time { stratum, offset_ns },
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

    fn read_it(bytes: &[u8]) -> Result<Sample, Reject> {
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
        assert_eq!(sample.finding, Finding::Time { stratum: 2, offset_ns: -1_000_000_000 });
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
            (0, *b"RATE", Finding::Kiss("RATE".into())),
            (0, [0; 4], Finding::NoStratum),
            (16, [0; 4], Finding::BadStratum(16)),
            (11, [0; 4], Finding::BadStratum(11)),
        ] {
            let mut bytes = answer();
            bytes[1] = stratum;
            bytes[12..16].copy_from_slice(&code);
            assert_eq!(read_it(&bytes).unwrap().finding, finding);
        }
    }
}
