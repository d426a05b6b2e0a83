//! A finding for the operator: what was found, why it matters, and what to type.

use serde::Serialize;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Everything is as it should be.
    Ok,
    /// Good to know; nothing has to be done.
    Note,
    /// Clients are served, but less well than they could be, or not for ever.
    Warning,
    /// Clients or the pool do not get what they ask for.
    Problem,
}

impl Severity {
    /// All severities, from the worst to the best.
    pub(super) const WORST_FIRST: [Self; 4] = [Self::Problem, Self::Warning, Self::Note, Self::Ok];

    /// Stable label, for text output.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }
}

/// The result of examining one thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Stable identifier of the kind of finding, for programs.
    pub id: &'static str,
    /// How much the finding matters.
    pub severity: Severity,
    /// What was found. The text names the thing.
    pub what: String,
    /// Why it matters.
    pub why: Option<String>,
    /// A command that fixes it, to be typed by root.
    pub fix: Option<String>,
    /// What to do where no command fixes it, or what to consider before.
    pub advice: Option<String>,
}

impl Finding {
    fn new(id: &'static str, severity: Severity, what: impl Into<String>) -> Self {
        Self { id, severity, what: what.into(), why: None, fix: None, advice: None }
    }

    /// Makes a finding about something that is as it should be.
    pub(super) fn ok(id: &'static str, what: impl Into<String>) -> Self {
        Self::new(id, Severity::Ok, what)
    }

    /// Makes a finding that is good to know.
    pub(super) fn note(id: &'static str, what: impl Into<String>) -> Self {
        Self::new(id, Severity::Note, what)
    }

    /// Makes a finding about something that could be better.
    pub(super) fn warning(id: &'static str, what: impl Into<String>) -> Self {
        Self::new(id, Severity::Warning, what)
    }

    /// Makes a finding about something that keeps clients or the pool from getting good time.
    pub(super) fn problem(id: &'static str, what: impl Into<String>) -> Self {
        Self::new(id, Severity::Problem, what)
    }

    /// Makes a finding about something that could not be examined.
    pub(super) fn unseen(id: &'static str, what: &str, reason: impl std::fmt::Display) -> Self {
        Self::note(id, format!("not looked at: {what} ({reason})"))
    }

    /// Adds why it matters.
    #[must_use]
    pub(super) fn why(self, why: impl Into<String>) -> Self {
        Self { why: Some(why.into()), ..self }
    }

    /// Adds the command that fixes it.
    #[must_use]
    pub(super) fn fix(self, command: impl Into<String>) -> Self {
        Self { fix: Some(command.into()), ..self }
    }

    /// Adds other things to do.
    #[must_use]
    pub(super) fn advice(self, advice: impl Into<String>) -> Self {
        Self { advice: Some(advice.into()), ..self }
    }
}

#[cfg(test)]
pub(super) fn ids(findings: &[Finding]) -> Vec<(&'static str, Severity)> {
    findings.iter().map(|finding| (finding.id, finding.severity)).collect()
}

/// Returns the one finding of this kind.
#[cfg(test)]
#[track_caller]
pub(super) fn only<'a>(findings: &'a [Finding], id: &str) -> &'a Finding {
    let mut found = findings.iter().filter(|finding| finding.id == id);
    match (found.next(), found.next()) {
        (Some(finding), None) => finding,
        other => panic!("{id}: {other:?} in {findings:#?}"),
    }
}
