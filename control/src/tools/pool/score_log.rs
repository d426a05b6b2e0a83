//! The log of scores that the pool publishes as lines of comma-separated values. Its first line names the columns;
//! those that are not needed are passed over, so that the pool may add some.

use super::published::{HistoryEntry, Monitor, Published};
use crate::error::{Code, Error, Result};

/// Columns without which a line means nothing.
const TIME: &str = "ts_epoch";
const STEP: &str = "step";
const SCORE: &str = "score";

/// Whether a text is such a log, by its first line.
pub(super) fn is_log(text: &str) -> bool {
    text.trim_start_matches('\u{feff}').lines().next().is_some_and(|line| fields(line).contains(&TIME.into()))
}

/// Reads the log.
///
/// # Errors
///
/// A column is missing, or a line makes no sense; the error names the line.
pub(super) fn parse(text: &str) -> Result<Published> {
    let mut lines = text.trim_start_matches('\u{feff}').lines().enumerate();
    let header = lines.next().map(|(_, line)| fields(line)).unwrap_or_default();
    let column = |name: &str| header.iter().position(|column| column == name);
    for name in [TIME, STEP, SCORE] {
        if column(name).is_none() {
            return Err(Error::new(Code::Data, format_args!("the log of scores has no column `{name}`"))
                .remedy("save it from the pool's page of the server, with its first line"));
        }
    }
    let mut published = Published { history: Vec::new(), monitors: Vec::new(), server: None };
    for (number, line) in lines.filter(|(_, line)| !line.trim().is_empty()) {
        let values = fields(line);
        let value = |name: &str| column(name).and_then(|column| values.get(column)).map(|text| text.trim());
        let some = |name: &str| value(name).filter(|text| !text.is_empty());
        let wrong = |name: &str| {
            Error::new(
                Code::Data,
                format_args!("line {} of the log of scores has no number for `{name}`", number + 1),
            )
        };
        let figure = |name: &str| some(name).and_then(|text| text.parse::<f64>().ok());
        let (step, score) =
            (figure(STEP).ok_or_else(|| wrong(STEP))?, figure(SCORE).ok_or_else(|| wrong(SCORE))?);
        let monitor_id = some("monitor_id").and_then(|text| text.parse().ok());
        published.history.push(HistoryEntry {
            ts: some(TIME).and_then(|text| text.parse().ok()).ok_or_else(|| wrong(TIME))?,
            offset: figure("offset"),
            step,
            score,
            monitor_id,
            error: some("error").map(str::to_owned),
        });
        let Some(id) = monitor_id else { continue };
        let name = some("monitor_name").map_or_else(|| format!("monitor {id}"), str::to_owned);
        match published.monitors.iter_mut().find(|monitor| monitor.id == id) {
            Some(monitor) => monitor.score = score,
            None => published.monitors.push(Monitor {
                id,
                kind: if is_scorer(&name) { "score" } else { "monitor" }.into(),
                name,
                ts: String::new(),
                score,
                status: String::new(),
            }),
        }
    }
    Ok(published)
}

/// The pool's scorers make one score of those of all monitors.
fn is_scorer(name: &str) -> bool {
    name.starts_with("recentmedian") || name == "every"
}

/// The fields of a line, without their quotes.
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    let mut characters = line.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '"' if quoted && characters.peek() == Some(&'"') => {
                characters.next();
                push(&mut fields, '"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            other => push(&mut fields, other),
        }
    }
    fields
}

fn push(fields: &mut [String], character: char) {
    if let Some(field) = fields.last_mut() {
        field.push(character);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "ts_epoch,ts,offset,step,score,monitor_id,monitor_name,rtt,leap,error\n\
        1700000000,2023-11-14 22:13:20,,-5,8.25,9,example1,,,\"i/o timeout, three times\"\n\
        1700000600,2023-11-14 22:23:20,0.0012,1,12.5,24,recentmedian,,,\n";

    #[test]
    fn lines_have_their_monitor_and_what_went_wrong() {
        assert!(is_log(LOG));
        let published = parse(LOG).unwrap();
        let [lost, good] = &published.history[..] else { panic!("{published:?}") };
        assert_eq!((lost.ts, lost.offset, lost.monitor_id), (1_700_000_000, None, Some(9)));
        assert_eq!(lost.error.as_deref(), Some("i/o timeout, three times"));
        assert_eq!((good.offset, good.error.as_deref()), (Some(0.0012), None));
        let kinds: Vec<_> = published.monitors.iter().map(|monitor| monitor.kind.as_str()).collect();
        assert_eq!(kinds, ["monitor", "score"]);
    }

    #[test]
    fn a_log_that_makes_no_sense_is_refused_by_its_line_or_its_column() {
        let error = parse("ts_epoch,ts,offset,score\n").unwrap_err();
        assert!(error.what.contains("`step`"), "{error}");
        let error = parse("ts_epoch,step,score\n1,2,3\nx,1,1\n").unwrap_err();
        assert!(error.what.starts_with("line 3 ") && error.what.contains("`ts_epoch`"), "{error}");
        assert!(!is_log("{\"history\": []}") && !is_log(""));
    }
}
