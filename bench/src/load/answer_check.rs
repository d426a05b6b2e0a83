//! Checks the answers that a socket receives, and counts each in its class.

use std::time::Duration;

use bench_ebpf::load_token::{self, AnswerClass, Fault, Key, MIX};
use responder::NtpTimestamp;

use super::tally::{Seen, Tally};
use crate::frames::MESSAGE;

/// The start of a step on two clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start {
    /// On the sender's clock, in nanoseconds.
    pub(super) monotonic_ns: u64,
    /// At the same moment on the clock that the server is compared with.
    pub(super) ntp: NtpTimestamp,
}

/// Checks the answers to one worker's requests of one step.
pub(super) struct AnswerChecker {
    pub(super) key: Key,
    pub(super) versions: Box<[u8; MIX]>,
    pub(super) start: Start,
    pub(super) timeout: Duration,
    /// How far receive timestamps may lie outside the time between sending and receiving; `None` where the
    /// clocks are not the same.
    pub(super) tolerance: Option<Duration>,
    /// Whether the server may say that it is not synchronised.
    pub(super) lenient: bool,
    /// Length of a request in bytes; an answer must not be longer.
    pub(super) length: usize,
    /// Whether answers are the unchanged requests.
    pub(super) echo: bool,
    pub(super) seen: Seen,
}

impl AnswerChecker {
    /// Checks and counts an answer that came `now_ns` after the start, when `issued` requests had been sent.
    pub(super) fn take(&mut self, answer: &[u8], now_ns: u64, issued: u64, tally: &mut Tally) {
        let Some(message) = answer.first_chunk::<MESSAGE>() else {
            return tally.fault(Fault::Short);
        };
        if answer.len() > self.length {
            return tally.fault(Fault::Longer);
        }
        let mut words = [0; 6];
        for (word, bytes) in words.iter_mut().zip(message.as_chunks::<8>().0) {
            *word = u64::from_ne_bytes(*bytes);
        }
        let token = self.key.open(u64::from_be(words[if self.echo { 5 } else { 3 }]));
        if token.sequence >= issued || token.sent_ns > now_ns {
            return tally.fault(Fault::Origin);
        }
        let round_trip_ns = now_ns - token.sent_ns;
        if u128::from(round_trip_ns) > self.timeout.as_nanos() {
            tally.late += 1;
            return;
        }
        if !self.seen.mark(token.sequence) {
            tally.duplicates += 1;
            return;
        }
        tally.matched += 1;
        if self.echo {
            tally.answer(token, now_ns);
            return;
        }

        let version = self.versions[load_token::mix_index(token.sequence)];
        let (sent, received) = (self.ntp_at(token.sent_ns), self.ntp_at(now_ns));
        let window = self.tolerance.map(|tolerance| {
            let tolerance = units(tolerance);
            (sent.wrapping_sub(tolerance), received.wrapping_add(tolerance))
        });
        match load_token::classify(words, version, window, self.lenient) {
            AnswerClass::Kiss => tally.kisses += 1,
            AnswerClass::Wrong(fault) => tally.fault(fault),
            AnswerClass::Time { receive, transmit } => {
                tally.answer(token, now_ns);
                let residence = nanoseconds(transmit.wrapping_sub(receive));
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative")]
                tally.residence.saturating_record((residence as u64).max(1));
                if self.tolerance.is_some() {
                    let ahead = nanoseconds(receive.wrapping_sub(sent))
                        + nanoseconds(transmit.wrapping_sub(received));
                    tally.offset.record(ahead / 2.0);
                }
            }
        }
    }

    /// Returns the time of the comparison clock `ns` after the start. The clock is not read anew for each
    /// answer, because the two clocks do not drift apart over a step.
    fn ntp_at(&self, ns: u64) -> u64 {
        self.start.ntp.0.wrapping_add(units(Duration::from_nanos(ns)))
    }
}

/// Converts to units of 2^-32 s.
fn units(time: Duration) -> u64 {
    (time.as_secs() << 32) | ((u64::from(time.subsec_nanos()) << 32) / 1_000_000_000)
}

/// Converts a signed difference of NTP timestamps to nanoseconds.
#[expect(clippy::cast_precision_loss, reason = "differences of interest have fewer than 53 bits")]
fn nanoseconds(difference: u64) -> f64 {
    difference.cast_signed() as f64 * 1e9 / 4_294_967_296.0
}
