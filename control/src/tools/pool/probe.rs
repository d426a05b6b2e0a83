//! The pool's monitor's check of one address: its request, its samples, its rules for an answer.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use responder::clock::NtpTimestamp;
use responder::message;

use super::score::{Finding, HIGHEST_STRATUM};
use crate::tools::query::{Failure, converse, nanos};

/// Version 4, client, leap 0.
const FIRST_BYTE: u8 = 4 << 3 | 3;
/// What the monitor's client library sends.
const PRECISION_BYTE: u8 = 0x20;
const MODE_SERVER: u8 = 4;

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
    let mut cookie = [0; 8];
    if let Err(error) = getrandom::fill(&mut cookie) {
        return lost(error.to_string());
    }
    let mut request = [0; message::LENGTH];
    request[0] = FIRST_BYTE;
    request[3] = PRECISION_BYTE;
    request[40..].copy_from_slice(&cookie);
    // The monitor takes the first packet that comes, or throws it away and has nothing.
    let first = |packet: &[u8], sent, received| Ok(read(packet, cookie, sent, received));
    match converse(server, &request, timeout, first) {
        Ok(Ok(sample)) => sample,
        Ok(Err(thrown_away)) => lost(format!("the answer is discarded: {thrown_away}")),
        Err(failure @ (Failure::Timeout(_) | Failure::Kiss(_))) => lost(failure.to_string()),
        Err(Failure::Socket(error)) => lost(error),
    }
}

/// Reads an answer as the monitor does. The error is why it throws it away.
fn read(
    packet: &[u8],
    cookie: [u8; 8],
    sent: NtpTimestamp,
    received: NtpTimestamp,
) -> Result<Sample, &'static str> {
    let Some(bytes) = packet.first_chunk::<{ message::LENGTH }>() else {
        return Err("it is shorter than 48 bytes");
    };
    let timestamp =
        |at: usize| NtpTimestamp(u64::from_be_bytes(std::array::from_fn(|index| bytes[at + index])));
    let (receive, transmit) = (timestamp(32), timestamp(40));
    if bytes[0] & 7 != MODE_SERVER {
        return Err("its mode is not server");
    }
    if transmit == NtpTimestamp(0) {
        return Err("its transmit timestamp is zero");
    }
    if bytes[24..32] != cookie {
        return Err("its origin is not the request's transmit timestamp");
    }
    if receive.0 > transmit.0 {
        return Err("it was received after it was sent");
    }
    let code = &bytes[12..16];
    let finding = match bytes[1] {
        0 if code.iter().all(u8::is_ascii_graphic) => {
            Finding::Kiss(code.iter().map(|byte| char::from(*byte)).collect())
        }
        0 => Finding::NoStratum,
        stratum if stratum > HIGHEST_STRATUM => Finding::BadStratum(stratum),
        stratum => {
            let (there, back) = (i128::from(receive.since(sent)), i128::from(transmit.since(received)));
            Finding::Time { stratum, offset_ns: nanos(i128::midpoint(there, back)) }
        }
    };
    let residence = i128::from(transmit.since(receive));
    let round_trip_ns = matches!(finding, Finding::Time { .. })
        .then(|| nanos(i128::from(received.since(sent)) - residence).max(0));
    Ok(Sample { finding, round_trip_ns, failure: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    const COOKIE: [u8; 8] = *b"unguessd";

    fn answer() -> [u8; message::LENGTH] {
        let mut bytes = [0; message::LENGTH];
        bytes[0] = 4 << 3 | MODE_SERVER;
        bytes[1] = 2;
        bytes[24..32].copy_from_slice(&COOKIE);
        bytes[32..40].copy_from_slice(&(101_u64 << 32).to_be_bytes());
        bytes[40..].copy_from_slice(&(102_u64 << 32).to_be_bytes());
        bytes
    }

    fn read_it(bytes: &[u8]) -> Result<Sample, &'static str> {
        read(bytes, COOKIE, NtpTimestamp(100 << 32), NtpTimestamp(105 << 32))
    }

    #[test]
    fn an_answer_has_an_offset_and_a_round_trip() {
        let sample = read_it(&answer()).unwrap();
        assert_eq!(sample.finding, Finding::Time { stratum: 2, offset_ns: -1_000_000_000 });
        assert_eq!(sample.round_trip_ns, Some(4_000_000_000));
    }

    #[test]
    fn what_the_monitor_throws_away_is_thrown_away() {
        for (at, value, why) in
            [(0, 4 << 3 | 3, "mode"), (24, 0, "origin"), (35, 103, "after it was sent"), (43, 0, "zero")]
        {
            let mut bytes = answer();
            bytes[at] = value;
            assert!(read_it(&bytes).unwrap_err().contains(why));
        }
        assert!(read_it(&answer()[..47]).unwrap_err().contains("shorter"));
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
