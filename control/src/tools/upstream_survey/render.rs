//! Renders a ranking for people: a table and reasons as comments, and a configuration with the best.

use std::fmt;

use super::{Fit, Ranked, Ranking};

/// The text is TOML as a whole, and a complete configuration.
impl fmt::Display for Ranking {
    fn fmt(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.candidates.iter().map(|candidate| candidate.name.chars().count());
        let width = names.max().unwrap_or(0).max("candidate".len());
        writeln!(
            text,
            "# {:<width$} {:>2} {:<15} {:>6} {:>9} {:>9} {:>9} {:>9}",
            "candidate", "st", "refid", "loss", "delay", "jitter", "median", "distance"
        )?;
        for candidate in &self.candidates {
            candidate.write_row(text, width)?;
        }
        writeln!(text, "# (delay, jitter, offset from the median and root distance in ms)")?;
        for candidate in &self.candidates {
            match &candidate.fit {
                Fit::Taken => {}
                Fit::Spare => writeln!(text, "# {}: suitable, but the others are better", candidate.name)?,
                Fit::Unfit(reason) => writeln!(text, "# {}: left out: {reason}", candidate.name)?,
            }
        }
        if self.is_short() {
            writeln!(
                text,
                "# Fewer than four are suitable: a falseticker could not be outvoted. Try more candidates."
            )?;
        }
        if self.taken().next().is_some() {
            writeln!(text, "\n[clock]\nsource = \"upstream\"")?;
        }
        for candidate in self.taken() {
            // A name came from the command line; what TOML would not accept as it is, is escaped.
            writeln!(
                text,
                "\n[[upstream]]\naddress = {}\niburst = true",
                toml::Value::from(&*candidate.name)
            )?;
        }
        Ok(())
    }
}

impl Ranked {
    fn write_row(&self, text: &mut fmt::Formatter<'_>, width: usize) -> fmt::Result {
        let Some(figures) = &self.figures else {
            return writeln!(text, "# {:<width$}  -", self.name);
        };
        let ms = |seconds: f64| seconds * 1e3;
        writeln!(
            text,
            "# {:<width$} {:>2} {:<15} {:>4.0} % {:>9.3} {:>9.3} {:>+9.3} {:>9.3}",
            self.name,
            figures.stratum,
            figures.reference,
            self.loss * 100.0,
            ms(figures.delay_s),
            ms(figures.jitter_s),
            ms(figures.off_median_s),
            ms(figures.root_distance_s),
        )
    }
}
