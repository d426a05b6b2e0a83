//! Checks that a measurement measured what its name says. If it did not, there is no figure.

use std::fmt::Write as _;

use responder::{Family, Outcome, Verdict};

use super::subjects::{Method, Output, Program, Subject};
use crate::failure::{Failure, SOFTWARE};
use crate::frames::MESSAGE;
use crate::programs::{Counts, REARMED_FRAME, XdpAction};

/// What is known after a measurement.
pub(super) struct Evidence<'a> {
    /// Whether the frame was to be written anew before each run.
    pub(super) behind_gauge: bool,
    /// How often each program was to run on each CPU. Every run must do what is expected of the subject.
    pub(super) ran: &'a [(Program, u64)],
    /// The CPUs on which it ran.
    pub(super) cpus: &'a [usize],
    /// Return value of the last run.
    pub(super) action: u32,
    /// The frame as the last run left it.
    pub(super) frame: &'a [u8],
    /// Counters of all servers before and after.
    pub(super) counted_before: &'a [Counts],
    pub(super) counted_after: &'a [Counts],
    /// How often the frame was written anew, for each CPU of the machine, before and after.
    pub(super) rearmed_before: &'a [u64],
    pub(super) rearmed_after: &'a [u64],
}

/// A measurement of something else than intended.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("no figure for \"{subject}\": {reason}")]
pub(crate) struct Refusal {
    subject: String,
    reason: String,
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::own(refusal, SOFTWARE)
    }
}

impl Refusal {
    /// Refuses a measurement in which two programs did not take turns as planned.
    pub(super) fn of_turns(subject: &Subject) -> Self {
        let reason = "not all runs took place on the requested CPUs".into();
        Self { subject: subject.name.clone(), reason }
    }
}

/// Refuses a measurement unless the program did what it should in every single run.
pub(super) fn verify(subject: &Subject, evidence: &Evidence<'_>) -> Result<(), Refusal> {
    let refuse = |reason: String| Err(Refusal { subject: subject.name.clone(), reason });
    let Evidence { ran, cpus, action, .. } = *evidence;

    let of_each: u64 = ran.iter().map(|(_, runs)| runs).sum();
    for (cpu, (before, after)) in evidence.rearmed_before.iter().zip(evidence.rearmed_after).enumerate() {
        let expected = if evidence.behind_gauge && cpus.contains(&cpu) { of_each } else { 0 };
        let rearmed = after.wrapping_sub(*before);
        if rearmed != expected {
            return refuse(format!("its frame was written {rearmed} times on CPU {cpu}, not {expected}"));
        }
    }
    let counted = counted(evidence, subject);
    let expected_action = subject.expected.action as u32;
    if action != expected_action {
        return refuse(format!(
            "the program returned {}, not {}{counted}",
            XdpAction::name(action),
            XdpAction::name(expected_action)
        ));
    }
    for (index, (before, after)) in evidence.counted_before.iter().zip(evidence.counted_after).enumerate() {
        let runs = ran.iter().filter(|(program, _)| *program == Program::Server(index));
        let runs = cpus.len() as u64 * runs.map(|(_, runs)| runs).sum::<u64>();
        let expected = subject.expected.counted.map(Outcome::counter);
        let differs = |(counter, (before, after)): (usize, (&u64, &u64))| {
            after.wrapping_sub(*before) != if expected == Some(counter) { runs } else { 0 }
        };
        if before.iter().zip(after).enumerate().any(differs) {
            return refuse(format!("{runs} runs were not counted as they should be{counted}"));
        }
    }
    let as_expected = match subject.expected.output {
        Output::Unchanged if subject.method == Method::Scattered => {
            let without_source =
                |frame: &[u8]| frame.get(..24).zip(frame.get(30..)).map(|(a, b)| [a, b].concat());
            without_source(evidence.frame) == without_source(&subject.frame)
        }
        Output::Unchanged => evidence.frame == subject.frame,
        Output::Reflected => is_reflection(evidence.frame, &subject.frame),
        Output::Answer => is_answer(evidence.frame, &subject.frame),
    };
    if !as_expected {
        return refuse(format!("the frame came out as\n{}", hexadecimal(evidence.frame)));
    }
    Ok(())
}

/// Formats the servers' counters, so that people can see what happened instead.
fn counted(evidence: &Evidence<'_>, subject: &Subject) -> String {
    let mut text = String::new();
    let label = |counter| {
        let outcomes = Verdict::ALL.iter().flat_map(|verdict| {
            Family::ALL.iter().flat_map(move |family| {
                (0..8).map(move |version| Outcome { verdict: *verdict, family: *family, version })
            })
        });
        outcomes.into_iter().find(|outcome| outcome.counter() == counter).map_or_else(
            || format!("counter {counter}"),
            |Outcome { verdict, family, version }| {
                format!("{} ({}, version {version})", verdict.label(), family.label())
            },
        )
    };
    for (before, after) in evidence.counted_before.iter().zip(evidence.counted_after) {
        for (counter, (before, after)) in before.iter().zip(after).enumerate() {
            if before != after {
                let _infallible = write!(text, ", {} {}", after.wrapping_sub(*before), label(counter));
            }
        }
    }
    if text.is_empty() && subject.expected.counted.is_some() {
        text.push_str(", none");
    }
    if text.is_empty() { text } else { format!("; counted:{}", &text[1..]) }
}

fn is_reflection(output: &[u8], input: &[u8; REARMED_FRAME]) -> bool {
    // The expected frame is the input with addresses and ports swapped.
    let mut back = output.to_vec();
    if back.len() != input.len() {
        return false;
    }
    back[0..12].rotate_left(6);
    back[26..34].rotate_left(4);
    back[34..38].rotate_left(2);
    back == input
}

/// Whether a server's message is where the request was. Whether the message is right is checked by the tests
/// of the server.
fn is_answer(output: &[u8], input: &[u8; REARMED_FRAME]) -> bool {
    let start = if input[12..14] == [0x08, 0x00] { 14 + 20 + 8 } else { 14 + 40 + 8 };
    let message = |frame: &[u8]| frame.get(start..start + MESSAGE).map(<[u8]>::to_vec);
    let (Some(answer), Some(request)) = (message(output), message(input)) else {
        return false;
    };
    output[0..6] == input[6..12] && answer[0] & 7 == 4 && answer[24..32] == request[40..48]
}

fn hexadecimal(frame: &[u8]) -> String {
    let line = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ");
    frame.chunks(16).map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::super::subjects::all;
    use super::*;
    use responder::verdict::COUNTERS;

    const TX: u32 = 3;
    const PASS: u32 = 2;

    fn subject(name: &str) -> Subject {
        all(false).into_iter().find(|subject| subject.name == name).unwrap()
    }

    /// Evidence of 1000 correct answers; each test spoils one thing.
    struct Case {
        subject: Subject,
        action: u32,
        frame: Vec<u8>,
        before: Vec<Counts>,
        after: Vec<Counts>,
        rearmed: u64,
    }

    fn answered() -> Case {
        let subject = subject("answer, IPv4");
        let mut frame = subject.frame.to_vec();
        frame[0..12].rotate_left(6);
        frame[42] = 0x24;
        frame.copy_within(82..90, 66);
        let before = vec![5; COUNTERS];
        let mut after = before.clone();
        after[subject.expected.counted.unwrap().counter()] += 1000;
        Case { subject, action: TX, frame, before: vec![before], after: vec![after], rearmed: 1000 }
    }

    fn verified(case: &Case) -> Result<(), String> {
        verified_of(case, &[(case.subject.program, 1000)])
    }

    fn verified_of(case: &Case, ran: &[(Program, u64)]) -> Result<(), String> {
        let evidence = Evidence {
            behind_gauge: case.subject.method != Method::Direct,
            ran,
            cpus: &[1],
            action: case.action,
            frame: &case.frame,
            counted_before: &case.before,
            counted_after: &case.after,
            rearmed_before: &[3, 7],
            rearmed_after: &[3, 7 + case.rearmed],
        };
        verify(&case.subject, &evidence).map_err(|refusal| refusal.to_string())
    }

    #[test]
    fn answers_that_are_all_counted_give_a_figure() {
        assert_eq!(verified(&answered()), Ok(()));
    }

    #[test]
    fn another_action_gives_no_figure_and_says_which() {
        let refusal = verified(&Case { action: PASS, ..answered() }).unwrap_err();
        assert!(refusal.contains("returned XDP_PASS, not XDP_TX"), "{refusal}");
    }

    #[test]
    fn one_answer_that_was_not_counted_gives_no_figure() {
        let mut case = answered();
        case.after[0][case.subject.expected.counted.unwrap().counter()] -= 1;
        let refusal = verified(&case).unwrap_err();
        assert!(refusal.contains("999 answered (ipv4, version 4)"), "{refusal}");
    }

    #[test]
    fn a_second_counter_that_moved_gives_no_figure_and_is_named() {
        let mut case = answered();
        let other = Outcome { verdict: Verdict::DropLength, family: Family::Ipv6, version: 3 };
        case.after[0][other.counter()] += 1;
        let refusal = verified(&case).unwrap_err();
        assert!(refusal.contains("1 drop_length (ipv6, version 3)"), "{refusal}");
    }

    #[test]
    fn the_right_count_under_another_version_gives_no_figure() {
        let mut case = answered();
        case.after = case.before.clone();
        let other = Outcome { version: 3, ..case.subject.expected.counted.unwrap() };
        case.after[0][other.counter()] += 1000;
        assert!(verified(&case).unwrap_err().contains("version 3"));
    }

    #[test]
    fn of_two_that_take_turns_each_must_have_counted_its_own_runs() {
        let limited = subject("limiter, one source, IPv4");
        let plain = super::super::subjects::plain(&all(false), &limited).unwrap().program;
        let counter = limited.expected.counted.unwrap().counter();
        let ran = [(plain, 501), (limited.program, 499)];
        let mut case = Case { subject: limited, ..answered() };
        case.before = vec![vec![5; COUNTERS]; 2];
        case.after = case.before.clone();
        for (counts, runs) in case.after.iter_mut().zip([501, 499]) {
            counts[counter] += runs;
        }
        assert_eq!(verified_of(&case, &ran), Ok(()));
        case.after[0][counter] += 1;
        case.after[1][counter] -= 1;
        let refusal = verified_of(&case, &ran).unwrap_err();
        assert!(refusal.contains("501 runs were not counted as they should"), "{refusal}");
    }

    #[test]
    fn a_frame_that_was_not_written_each_time_gives_no_figure() {
        let refusal = verified(&Case { rearmed: 1, ..answered() }).unwrap_err();
        assert!(refusal.contains("written 1 times on CPU 1, not 1000"), "{refusal}");
    }

    #[test]
    fn a_cpu_that_did_not_take_part_gives_no_figure() {
        let mut case = Case { subject: subject("all CPUs: answer, random sources, IPv6"), ..answered() };
        let counter = case.subject.expected.counted.unwrap().counter();
        case.after = case.before.clone();
        case.after[0][counter] += 2000;
        let evidence = |rearmed_after| {
            let (before, after) = (&case.before, &case.after);
            let ran = &[(case.subject.program, 1000)];
            let (frame, action) = (&case.frame, case.action);
            verify(
                &case.subject,
                &Evidence {
                    behind_gauge: true,
                    ran,
                    cpus: &[1, 0],
                    action,
                    frame,
                    counted_before: before,
                    counted_after: after,
                    rearmed_before: &[0, 0],
                    rearmed_after,
                },
            )
        };
        let refusal = evidence(&[0, 2000]).unwrap_err().to_string();
        assert!(refusal.contains("written 0 times on CPU 0, not 1000"), "{refusal}");
        // The next check is that of the frame, which here belongs to another row.
        let refusal = evidence(&[1000, 1000]).unwrap_err().to_string();
        assert!(refusal.contains("came out as"), "{refusal}");
    }

    #[test]
    fn a_request_sent_back_unanswered_gives_no_figure() {
        let case = answered();
        let frame = case.subject.frame.to_vec();
        assert!(verified(&Case { frame, ..case }).unwrap_err().contains("came out as"));
    }

    #[test]
    fn an_answer_to_another_request_gives_no_figure() {
        let mut case = answered();
        case.frame[66] ^= 1;
        assert!(verified(&case).unwrap_err().contains("came out as"));
    }

    #[test]
    fn passed_traffic_must_touch_no_counter() {
        let subject = subject("parse and pass, TCP, IPv4");
        let frame = subject.frame.to_vec();
        let case = Case { subject, action: PASS, frame, rearmed: 0, ..answered() };
        assert!(verified(&case).is_err());
        let case = Case { after: case.before.clone(), ..case };
        assert_eq!(verified(&case), Ok(()));
    }

    #[test]
    fn a_reflection_is_known_by_its_swapped_addresses_and_ports() {
        let subject = subject("bare reflector");
        let mut frame = subject.frame.to_vec();
        frame[0..12].rotate_left(6);
        frame[26..34].rotate_left(4);
        frame[34..38].rotate_left(2);
        let mut case = Case { subject, frame, ..answered() };
        case.after = case.before.clone();
        assert_eq!(verified(&case), Ok(()));
        case.frame[34..38].rotate_left(2);
        assert!(verified(&case).is_err());
    }
}
