//! Metric families as text: `OpenMetrics`, and the classic format that older scrapers and `promtool` read.
//!
//! Both are written from the same data, so that they have the same content. They differ in the name under
//! which a counter is declared, and in the end mark.

use std::fmt::Write as _;

/// The kind of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Values only go up; the name ends in `_total`.
    Counter,
    /// Values go up and down.
    Gauge,
}

impl Kind {
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
        }
    }
}

/// Definition of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Metric {
    /// Name of its samples.
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    /// Names of its labels.
    pub(crate) labels: &'static [&'static str],
    /// Description in one sentence.
    pub(crate) help: &'static str,
}

/// A metric with its current values.
#[derive(Clone, Debug)]
pub(crate) struct Family {
    pub(crate) metric: &'static Metric,
    pub(crate) samples: Vec<(Vec<String>, f64)>,
}

/// A text format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// `OpenMetrics` 1.0.
    OpenMetrics,
    /// The classic text format, 0.0.4.
    Classic,
}

impl Format {
    /// Returns the format that the client prefers, or the classic one if it has no preference.
    pub(crate) fn negotiate(accept: &str) -> Self {
        let quality = |wanted: &str| {
            let range = accept.split(',').map(str::trim).find(|range| range.starts_with(wanted))?;
            let quality = range.split(';').find_map(|parameter| parameter.trim().strip_prefix("q="));
            quality.map_or(Some(1.0), |quality| quality.parse::<f64>().ok())
        };
        let open_metrics = quality("application/openmetrics-text").unwrap_or(0.0);
        let classic = quality("text/plain").or_else(|| quality("*/*")).unwrap_or(0.0);
        if open_metrics > 0.0 && open_metrics >= classic { Self::OpenMetrics } else { Self::Classic }
    }

    pub(crate) const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Classic => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    pub(crate) fn write(self, families: &[Family]) -> String {
        let mut text = String::new();
        for Family { metric, samples } in families {
            let declared = match self {
                Self::OpenMetrics => metric.name.strip_suffix("_total").unwrap_or(metric.name),
                Self::Classic => metric.name,
            };
            let _infallible = writeln!(text, "# HELP {declared} {}", metric.help);
            let _infallible = writeln!(text, "# TYPE {declared} {}", metric.kind.label());
            for (labels, value) in samples {
                text.push_str(metric.name);
                write_labels(&mut text, metric.labels, labels);
                let _infallible = writeln!(text, " {value}");
            }
        }
        if self == Self::OpenMetrics {
            text.push_str("# EOF\n");
        }
        text
    }
}

fn write_labels(text: &mut String, names: &[&str], values: &[String]) {
    for (number, (name, value)) in names.iter().zip(values).enumerate() {
        text.push(if number == 0 { '{' } else { ',' });
        let _infallible = write!(text, "{name}=\"");
        for character in value.chars() {
            match character {
                '\\' => text.push_str("\\\\"),
                '"' => text.push_str("\\\""),
                '\n' => text.push_str("\\n"),
                other => text.push(other),
            }
        }
        text.push('"');
    }
    if !names.is_empty() {
        text.push('}');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static COUNTER: Metric =
        Metric { name: "a_total", kind: Kind::Counter, labels: &["x", "y"], help: "Counts." };
    static GAUGE: Metric = Metric { name: "b_seconds", kind: Kind::Gauge, labels: &[], help: "Measures." };

    fn families() -> [Family; 2] {
        [
            Family { metric: &COUNTER, samples: vec![(vec!["\"\\\n".into(), "é".into()], 3.0)] },
            Family { metric: &GAUGE, samples: vec![(vec![], -0.000_001_5)] },
        ]
    }

    #[test]
    fn the_formats_differ_in_the_declared_names_of_counters_and_in_the_end() {
        let samples = "a_total{x=\"\\\"\\\\\\n\",y=\"é\"} 3\n";
        let gauge = "# HELP b_seconds Measures.\n# TYPE b_seconds gauge\nb_seconds -0.0000015\n";
        assert_eq!(
            Format::Classic.write(&families()),
            format!("# HELP a_total Counts.\n# TYPE a_total counter\n{samples}{gauge}")
        );
        assert_eq!(
            Format::OpenMetrics.write(&families()),
            format!("# HELP a Counts.\n# TYPE a counter\n{samples}{gauge}# EOF\n")
        );
    }

    #[test]
    fn the_client_gets_the_format_that_it_likes_best() {
        let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;\
                          version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert_eq!(Format::negotiate(prometheus), Format::OpenMetrics);
        assert_eq!(Format::negotiate("text/plain, application/openmetrics-text;q=0.5"), Format::Classic);
        assert_eq!(Format::negotiate("application/openmetrics-text; q=0, */*"), Format::Classic);
        for indifferent in ["", "*/*", "text/html,*/*;q=0.8", "application/openmetrics-text;q=x"] {
            assert_eq!(Format::negotiate(indifferent), Format::Classic, "{indifferent}");
        }
    }
}
