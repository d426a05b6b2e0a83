//! Log lines on standard error: for people, for programs and for systemd's journal. Repeated lines are held
//! back and counted.

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::io::IsTerminal as _;
use std::os::fd::AsFd as _;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{Format, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, format};
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer};

/// How long a repeated line is held back.
const INTERVAL: Duration = Duration::from_mins(1);
/// Number of different lines from one place in the code that are logged within that time.
const VARIANTS: usize = 20;
/// Number of bytes of a line that are remembered.
const REMEMBERED_BYTES: usize = 200;

/// Format of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Text for people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

static REPEATS: OnceLock<Repeats> = OnceLock::new();

/// Starts logging; must be called once in a process.
pub fn start(log_format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let journal = is_journal();
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let text =
        Format::default().with_target(false).with_ansi(std::io::stderr().is_terminal() && may_colour());
    let layer = match (log_format, journal) {
        (LogFormat::Text, false) => layer.event_format(text).boxed(),
        (LogFormat::Text, true) => layer.event_format(Journal(text.without_time().with_level(false))).boxed(),
        (LogFormat::Json, false) => layer.json().with_target(false).boxed(),
        (LogFormat::Json, true) => {
            let json = Format::default().with_target(false).without_time().json();
            layer.fmt_fields(format::JsonFields::new()).event_format(Journal(json)).boxed()
        }
    };
    let _already_started = tracing_subscriber::registry()
        .with(filter)
        .with(RepeatFilter(REPEATS.get_or_init(Repeats::default)))
        .with(layer)
        .try_init();
}

/// Logs the lines that were held back and are due. Must be called regularly.
pub fn tell_repeats() {
    let due = REPEATS.get().map(|repeats| repeats.due(Instant::now())).unwrap_or_default();
    for (level, line) in due {
        match level {
            Level::ERROR => tracing::error!(target: REPEATS_TARGET, "{line}"),
            Level::WARN => tracing::warn!(target: REPEATS_TARGET, "{line}"),
            _ => tracing::info!(target: REPEATS_TARGET, "{line}"),
        }
    }
}

/// Target of the lines about held-back lines.
const REPEATS_TARGET: &str = "repeats";

/// Whether lines on a terminal may be coloured: <https://no-color.org>.
fn may_colour() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Whether standard error is the journal. systemd passes the device and inode of the journal's stream.
fn is_journal() -> bool {
    let stream = std::env::var("JOURNAL_STREAM").ok();
    let named = stream.as_deref().and_then(|stream| stream.split_once(':'));
    let Some((Ok(device), Ok(inode))) = named.map(|(device, inode)| (device.parse(), inode.parse())) else {
        return false;
    };
    nix::sys::stat::fstat(std::io::stderr().as_fd())
        .is_ok_and(|found| (found.st_dev, found.st_ino) == (device, inode))
}

/// Puts a priority before each line, as sd-daemon(3) defines it.
struct Journal<F>(F);

impl<S, N, F> FormatEvent<S, N> for Journal<F>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    N: for<'writer> FormatFields<'writer> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut text = String::new();
        self.0.format_event(context, Writer::new(&mut text), event)?;
        let priority = match *event.metadata().level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            _ => 7,
        };
        text.lines().try_for_each(|line| writeln!(writer, "<{priority}>{}", line.trim_start()))
    }
}

/// Lets each line through once per [`INTERVAL`].
struct RepeatFilter(&'static Repeats);

impl<S: Subscriber> Layer<S> for RepeatFilter {
    fn event_enabled(&self, event: &Event<'_>, _context: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        if metadata.target() == REPEATS_TARGET {
            return true;
        }
        let mut line = EventText(String::new());
        event.record(&mut line);
        self.0.is_new((metadata.file(), metadata.line()), *metadata.level(), line.0, Instant::now())
    }
}

/// The beginning of an event's text.
struct EventText(String);

impl Visit for EventText {
    fn record_debug(&mut self, _field: &Field, value: &dyn fmt::Debug) {
        let _infallible = write!(self.0, "{value:?} ");
        let end = (0..=REMEMBERED_BYTES).rev().find(|end| self.0.is_char_boundary(*end)).unwrap_or(0);
        self.0.truncate(end);
    }
}

/// The lines that were logged recently, by the place in the code that logged them.
#[derive(Debug, Default)]
struct Repeats(Mutex<HashMap<Location, CodeSite>>);

/// A file and a line number of the code.
type Location = (Option<&'static str>, Option<u32>);

#[derive(Debug)]
struct CodeSite {
    level: Level,
    since: Instant,
    /// Logged lines, each with the number of repetitions that were held back.
    lines: Vec<(String, u64)>,
    /// Number of other lines that were held back.
    others: u64,
}

impl Repeats {
    fn is_new(&self, location: Location, level: Level, line: String, now: Instant) -> bool {
        let mut sites = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = || CodeSite { level, since: now, lines: Vec::new(), others: 0 };
        let site = sites.entry(location).or_insert_with(fresh);
        if now.duration_since(site.since) >= INTERVAL && site.has_nothing_held_back() {
            *site = fresh();
        }
        if let Some((_, held_back)) = site.lines.iter_mut().find(|(known, _)| *known == line) {
            *held_back += 1;
            return false;
        }
        if site.lines.len() == VARIANTS {
            site.others += 1;
            return false;
        }
        site.lines.push((line, 0));
        true
    }

    /// Removes the places whose interval is over, and returns what was held back there.
    fn due(&self, now: Instant) -> Vec<(Level, String)> {
        let mut sites = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut due = Vec::new();
        sites.retain(|_, site| {
            if now.duration_since(site.since) < INTERVAL {
                return true;
            }
            for (line, held_back) in site.lines.iter().filter(|(_, held_back)| *held_back > 0) {
                due.push((site.level, format!("repeated {held_back} times: {}", line.trim_end())));
            }
            if site.others > 0 {
                let like = site.lines.first().map_or("", |(line, _)| line.trim_end());
                due.push((site.level, format!("{} other lines were omitted, such as: {like}", site.others)));
            }
            false
        });
        due
    }
}

impl CodeSite {
    fn has_nothing_held_back(&self) -> bool {
        self.others == 0 && self.lines.iter().all(|(_, held_back)| *held_back == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Location = (Some("here.rs"), Some(1));

    #[test]
    fn a_line_is_said_once_and_then_how_often_it_was_repeated() {
        let (repeats, start) = (Repeats::default(), Instant::now());
        let said = (0..240_u32)
            .filter(|tick| {
                let now = start + Duration::from_millis(250) * *tick;
                repeats.is_new(HERE, Level::WARN, "cannot publish ".into(), now)
            })
            .count();
        assert_eq!(said, 1);
        assert!(repeats.due(start + Duration::from_secs(59)).is_empty());
        let due = repeats.due(start + INTERVAL);
        assert_eq!(due, [(Level::WARN, "repeated 239 times: cannot publish".into())]);
        assert!(repeats.due(start + INTERVAL).is_empty());
        assert!(repeats.is_new(HERE, Level::WARN, "cannot publish ".into(), start + INTERVAL));
    }

    #[test]
    fn different_lines_from_one_place_are_said_but_not_without_bound() {
        let (repeats, now) = (Repeats::default(), Instant::now());
        let said = (0..100_000)
            .filter(|number| repeats.is_new(HERE, Level::WARN, format!("line {number}"), now))
            .count();
        assert_eq!(said, VARIANTS);
        let due = repeats.due(now + INTERVAL);
        assert_eq!(due, [(Level::WARN, "99980 other lines were omitted, such as: line 0".into())]);
    }
}
