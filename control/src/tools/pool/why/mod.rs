//! `pool why`: why the score fell. What the monitors have published is laid beside what became of their probes here and
//! how the server was at that time.

pub mod causes;
pub mod matching;
pub mod offsets;
mod silence;
#[cfg(test)]
mod tests;
mod words;

use std::net::IpAddr;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::published::{PAGES, Published};
use crate::error::{Code, Error, Result};
use crate::instance::Instance;
use crate::net::address::is_public;
use crate::net::prefix::Prefix;
use crate::output::{print_versioned_json, write};
use crate::serving::limits::Listed;
use crate::status::Status;
use crate::status::probes::{Course, ProbeRounds};
use causes::{Cause, Evidence, Finding, Judgement, Refused, is_bad};
use matching::Entry;

/// Lines of the monitors' logs that are asked for: a day of some dozens of monitors.
const LINES: u32 = 4_000;
/// Lines that are judged, the newest of the page.
const MOST_ENTRIES: usize = 10_000;
/// The largest file of scores that is read.
const MAX_BYTES: u64 = 4 << 20;

/// Arguments of `pool why`.
#[derive(clap::Args, Debug)]
pub(crate) struct WhyArguments {
    /// Addresses of this server; each has its own score [default: its public addresses]
    #[arg(value_name = "ADDRESS")]
    addresses: Vec<IpAddr>,
    /// Read the scores from a file instead: the pool's page as JSON, or its log as CSV
    #[arg(long, value_name = "FILE")]
    scores: Option<PathBuf>,
    /// Where the pool's pages are
    #[arg(long, value_name = "URL", default_value = PAGES, conflicts_with = "scores")]
    base: String,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// The ways to the daemon, which the command line has.
pub(crate) struct Asking {
    /// Returns what became of probes.
    pub(crate) rounds: fn(&Instance) -> Result<ProbeRounds>,
    /// Returns the server's state over time.
    pub(crate) course: fn(&Instance) -> Result<Course>,
    /// Returns the entries of the access lists.
    pub(crate) entries: fn(&Instance) -> Result<Vec<Listed>>,
    /// Returns the status.
    pub(crate) status: fn(&Instance) -> Result<Status>,
}

/// What is known before privileges are given up: what the daemon says, and the text of the file.
#[derive(Default)]
pub(crate) struct Known {
    rounds: ProbeRounds,
    course: Course,
    entries: Vec<Listed>,
    /// The addresses that are served.
    served: Vec<IpAddr>,
    scores: Option<String>,
}

impl Known {
    /// Asks the daemon and reads the file.
    ///
    /// # Errors
    ///
    /// No daemon runs, it may not be asked, or the file cannot be read.
    pub(crate) fn of(instance: &Instance, arguments: &WhyArguments, asking: &Asking) -> Result<Self> {
        let scores = arguments.scores.as_ref().map(read).transpose()?;
        let rounds = (asking.rounds)(instance).map_err(|error| {
            let remedy = error.remedy.clone().unwrap_or_default();
            error.remedy(format_args!("the daemon knows what became of the monitors' probes. {remedy}"))
        })?;
        let status = (asking.status)(instance)?;
        let addresses = status.interfaces.iter().flat_map(|interface| &interface.addresses);
        Ok(Self {
            rounds,
            course: (asking.course)(instance)?,
            entries: (asking.entries)(instance)?,
            served: addresses.filter_map(|address| address.parse().ok()).collect(),
            scores,
        })
    }

    /// Returns the entry of the access lists that denies a source.
    fn denying(&self, source: &str) -> Option<Prefix> {
        let source: Prefix = source.parse().ok()?;
        let denying = self.entries.iter().filter(|entry| entry.access == responder::Access::Denied.label());
        let denying = denying.map(|entry| entry.prefix);
        // A source may be a whole /64, of which an entry denies a part.
        denying
            .clone()
            .filter(|prefix| source.is_within(*prefix))
            .max_by_key(|prefix| prefix.length())
            .or_else(|| denying.clone().find(|prefix| prefix.is_within(source)))
    }
}

fn read(path: &PathBuf) -> Result<String> {
    use std::io::Read as _;
    let failed = |error| Error::because(Code::NoInput, path.display())(error);
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(MAX_BYTES + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(Error::new(
            Code::Data,
            format_args!("{} has more than {} MiB: it is no page of scores", path.display(), MAX_BYTES >> 20),
        ));
    }
    Ok(text)
}

/// What there is to say of one address.
struct Answer {
    address: Option<IpAddr>,
    family: &'static str,
    /// What is published, or why it is not known.
    scores: Result<Published>,
    judgement: Judgement,
    /// What the server did by itself.
    here: Vec<Refused>,
}

/// Judges and prints.
pub(super) fn run(arguments: &WhyArguments, known: &Known) -> Result<()> {
    let answers = answers(arguments, known)?;
    if arguments.json {
        let addresses: Vec<_> = answers.iter().map(|answer| answer.to_json(known)).collect();
        return print_versioned_json(&json!({
            "known_since_unix_s": known.rounds.since_unix_s.max(known.course.since_unix_s),
            "until_unix_s": known.rounds.until_unix_s,
            "sources_forgotten": known.rounds.forgotten,
            "addresses": addresses,
            "rounds": known.rounds.sources,
            "course": known.course,
        }));
    }
    let texts: Vec<_> = answers.iter().map(|answer| words::describe(answer, known)).collect();
    write(&texts.join("\n"))
}

fn answers(arguments: &WhyArguments, known: &Known) -> Result<Vec<Answer>> {
    if let Some(text) = &known.scores {
        let published = Published::parse(text).map_err(|error| {
            let path = arguments.scores.as_deref().unwrap_or_else(|| "".as_ref()).display();
            Error { what: format!("{path}: {}", error.what), ..error }
        })?;
        let in_page = published.server.as_ref().map(|server| server.ip);
        let address = match (&arguments.addresses[..], in_page) {
            ([], Some(address)) => address,
            ([address], None) => *address,
            ([address], Some(other)) if *address == other => other,
            ([address], Some(other)) => {
                return Err(Error::new(
                    Code::Usage,
                    format_args!("the scores are those of {other}, and not of {address}"),
                ));
            }
            ([], None) => {
                return Err(Error::new(Code::Usage, "the scores do not say of which server they are")
                    .remedy("name the address: `pooltime-xdp pool why ADDRESS --scores FILE`"));
            }
            ([_, _, ..], _) => {
                return Err(Error::new(Code::Usage, "a file has the scores of one address only"));
            }
        };
        return Ok(vec![Answer::of(Some(address), family(address), Ok(published), known)]);
    }
    let mut addresses = arguments.addresses.clone();
    if addresses.is_empty() {
        addresses.extend(known.served.iter().copied().filter(|address| is_public(*address)));
        addresses.sort_unstable();
        addresses.dedup();
    }
    if addresses.is_empty() {
        let none = || {
            Err(Error::new(Code::NoInput, "this server has no public address")
                .remedy("name the address that the pool knows: `pooltime-xdp pool why ADDRESS`"))
        };
        return Ok(["ipv4", "ipv6"].map(|family| Answer::of(None, family, none(), known)).into());
    }
    let ask = |address: IpAddr| {
        let published = Published::of(address, &arguments.base, LINES);
        Answer::of(Some(address), family(address), published, known)
    };
    Ok(addresses.into_iter().map(ask).collect())
}

const fn family(address: IpAddr) -> &'static str {
    match address {
        IpAddr::V4(_) => responder::Family::Ipv4.label(),
        IpAddr::V6(_) => responder::Family::Ipv6.label(),
    }
}

impl Answer {
    fn of(address: Option<IpAddr>, family: &'static str, scores: Result<Published>, known: &Known) -> Self {
        let entries = scores.as_ref().map(entries).unwrap_or_default();
        let evidence = Evidence { rounds: &known.rounds, course: &known.course, family, entries: &entries };
        let judgement = causes::judge(&evidence);
        let here = causes::judge_here(&known.rounds, &known.course, family);
        Self { address, family, scores, judgement, here }
    }

    /// Returns the name of a monitor.
    fn name(&self, id: u32) -> String {
        let monitors = self.scores.as_ref().map(|published| &published.monitors[..]).unwrap_or_default();
        let monitor = monitors.iter().find(|monitor| monitor.id == id);
        monitor.map_or_else(|| format!("monitor {id}"), |monitor| monitor.name.clone())
    }

    fn to_json(&self, known: &Known) -> Value {
        let finding = |finding: &Finding| {
            json!({
                "at_unix_s": finding.entry.at_unix_s,
                "monitor": self.name(finding.entry.monitor),
                "step": finding.entry.step,
                "offset_s": finding.entry.offset_s,
                "error": finding.entry.error,
                "source": finding.source,
                "round": finding.round,
                "causes": finding.causes.iter().map(|cause| cause_json(cause, known)).collect::<Vec<_>>(),
            })
        };
        let refused = |refused: &Refused| {
            let cause = cause_json(&refused.cause, known);
            json!({ "source": refused.source, "at_unix_s": refused.at_unix_s, "cause": cause })
        };
        let monitor = |(id, source): &(u32, String)| json!({ "monitor": self.name(*id), "source": source });
        let score = self.scores.as_ref().ok().and_then(|published| published.main());
        json!({
            "address": self.address,
            "family": self.family,
            "score": score.map(|monitor| monitor.score),
            "scores_unavailable": self.scores.as_ref().err().map(|error| &error.what),
            "monitors": self.judgement.sources.iter().map(monitor).collect::<Vec<_>>(),
            "steps": self.judgement.findings.iter().map(finding).collect::<Vec<_>>(),
            "refused_here": self.here.iter().map(refused).collect::<Vec<_>>(),
        })
    }
}

/// A cause as data, with its words.
fn cause_json(cause: &Cause, known: &Known) -> Value {
    let mut value = serde_json::to_value(cause).unwrap_or_default();
    if let Value::Object(fields) = &mut value {
        fields.insert("text".into(), words::cause(cause, known).into());
        if let Cause::Denied { source: Some(source) } = cause {
            let entry = known.denying(source).map(|prefix| prefix.to_string());
            fields.insert("entry".into(), entry.into());
        }
    }
    value
}

/// The lines of the monitors, without those of the pool's scorers, which only sum up.
#[expect(clippy::cast_precision_loss, reason = "seconds since the Unix epoch")]
fn entries(published: &Published) -> Vec<Entry> {
    let is_scorer = |id: u32| {
        let monitor = published.monitors.iter().find(|monitor| monitor.id == id);
        monitor.is_some_and(|monitor| monitor.kind == "score")
    };
    let entry = |line: &super::published::HistoryEntry| {
        let monitor = line.monitor_id.filter(|id| !is_scorer(*id))?;
        Some(Entry {
            at_unix_s: line.ts as f64,
            monitor,
            step: line.step,
            // An offset of exactly zero with a bad step is none: there was no answer.
            offset_s: line.offset.filter(|offset| *offset != 0.0 || !is_bad(line.step)),
            error: line.error.clone(),
        })
    };
    let newest = published.history.len().saturating_sub(MOST_ENTRIES);
    published.history.iter().skip(newest).filter_map(entry).collect()
}

/// Explains a page of scores to those who know nothing but the page.
///
/// # Errors
///
/// The text is not such a page.
pub fn explain(page: &str) -> Result<String> {
    let (published, known) = (Published::parse(page)?, Known::default());
    let answer = Answer::of(None, responder::Family::Ipv4.label(), Ok(published), &known);
    Ok(words::describe(&answer, &known))
}
