//! Renders findings for people and for programs, and as an exit status.

use std::fmt::Write as _;
use std::process::ExitCode;

use serde::Serialize;

use super::finding::{Finding, Severity};
use crate::safe_text::one_line;

/// Version of the JSON format. Keys may be added within a version; none is removed.
const FORMAT: u32 = 1;

/// All findings.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct DoctorReport {
    findings: Vec<Finding>,
}

/// The report as programs read it.
#[derive(Serialize)]
pub(super) struct Json<'a> {
    format: u32,
    worst: Severity,
    #[serde(flatten)]
    report: &'a DoctorReport,
}

impl DoctorReport {
    pub(super) fn add(&mut self, findings: impl IntoIterator<Item = Finding>) {
        self.findings.extend(findings);
    }

    fn worst(&self) -> Severity {
        self.findings.iter().map(|finding| finding.severity).max().unwrap_or(Severity::Ok)
    }

    /// Returns the exit code as monitoring plugins define it: 0 if all is well, 1 for warnings, 2 for
    /// problems.
    pub(super) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self.worst() {
            Severity::Ok | Severity::Note => 0,
            Severity::Warning => 1,
            Severity::Problem => 2,
        })
    }

    pub(super) fn as_json(&self) -> Json<'_> {
        Json { format: FORMAT, worst: self.worst(), report: self }
    }

    /// Returns the text: the worst findings first, those that are well in one line each, and the totals.
    pub(super) fn to_text(&self) -> String {
        let mut text = String::new();
        for severity in Severity::WORST_FIRST {
            for finding in self.findings.iter().filter(|finding| finding.severity == severity) {
                let _infallible = write_finding(&mut text, finding);
            }
        }
        let count = |severity: Severity, one: &str, many: &str| match self
            .findings
            .iter()
            .filter(|finding| finding.severity == severity)
            .count()
        {
            0 => None,
            1 => Some(format!("1 {one}")),
            number => Some(format!("{number} {many}")),
        };
        let counts: Vec<_> = [
            count(Severity::Problem, "problem", "problems"),
            count(Severity::Warning, "warning", "warnings"),
            count(Severity::Note, "note", "notes"),
            count(Severity::Ok, "thing is well", "things are well"),
        ]
        .into_iter()
        .flatten()
        .collect();
        text + &counts.join(", ") + "\n"
    }
}

fn write_finding(text: &mut String, finding: &Finding) -> std::fmt::Result {
    let Finding { severity, what, why, fix, advice, .. } = finding;
    writeln!(text, "{:<9}{}", severity.label(), one_line(what))?;
    let advise = if fix.is_some() { "more" } else { "do" };
    for (label, part) in [("why", why), ("type", fix), (advise, advice)] {
        if let Some(part) = part {
            writeln!(text, "{:9}{label:<6}{}", "", one_line(part))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(findings: impl IntoIterator<Item = Finding>) -> DoctorReport {
        let mut report = DoctorReport::default();
        report.add(findings);
        report
    }

    #[test]
    fn problems_come_first_and_what_is_well_takes_a_line() {
        let report = report([
            Finding::ok("mtu", "eth0: MTU 1500"),
            Finding::warning("queues", "eth0: 1 of 4 queues")
                .why("one CPU")
                .fix("ethtool -L eth0 combined 4"),
            Finding::note("ipv6", "none").advice("ask for one"),
            Finding::problem("clock", "bad\x1b[31m\nline").fix("a").advice("b"),
        ]);
        assert_eq!(
            report.to_text(),
            "problem  bad\\u{1b}[31m\\nline\n         type  a\n         more  b\n\
             warning  eth0: 1 of 4 queues\n         why   one CPU\n         type  ethtool -L eth0 combined 4\n\
             note     none\n         do    ask for one\n\
             ok       eth0: MTU 1500\n\
             1 problem, 1 warning, 1 note, 1 thing is well\n"
        );
    }

    #[test]
    fn the_exit_status_is_that_of_the_worst() {
        let code = |findings: Vec<Finding>| format!("{:?}", report(findings).exit_code());
        let (ok, note) = (Finding::ok("a", ""), Finding::note("b", ""));
        let (warning, problem) = (Finding::warning("c", ""), Finding::problem("d", ""));
        let expected = |number: u8| format!("{:?}", ExitCode::from(number));
        assert_eq!(code(vec![]), expected(0));
        assert_eq!(code(vec![ok.clone(), note.clone()]), expected(0));
        assert_eq!(code(vec![warning.clone(), note]), expected(1));
        assert_eq!(code(vec![problem, warning, ok]), expected(2));
    }

    #[test]
    fn the_json_has_every_key_whether_there_is_something_to_say_or_not() {
        let report = report([Finding::ok("mtu", "eth0: MTU 1500")]);
        let json = serde_json::to_value(report.as_json()).unwrap();
        let expected = serde_json::json!({
            "format": 1,
            "worst": "ok",
            "findings": [{
                "id": "mtu", "severity": "ok", "what": "eth0: MTU 1500", "why": null, "fix": null, "advice": null,
            }],
        });
        assert_eq!(json, expected);
    }
}
