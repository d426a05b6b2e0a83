//! Draws the history of a score as lines of text: one column per check, and a mark where the pool begins to
//! hand a server out.

use std::fmt::Write as _;

use super::score::JOINING_SCORE;

const TOP: f64 = 20.0;
/// No score is lower: the largest loss is -10 per check, and 5 % of a score are forgotten.
const LOWEST: f64 = -200.0;
/// Largest number of lines.
const LINES: f64 = 11.0;

/// Draws the last `width` scores, oldest first. The result has whole lines; without scores it is empty.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "scores are clamped to some hundreds")]
pub(super) fn draw(scores: &[f64], width: usize) -> String {
    let shown = &scores[scores.len().saturating_sub(width)..];
    if shown.is_empty() {
        return String::new();
    }
    let lowest = shown.iter().copied().fold(0.0, f64::min).max(LOWEST);
    // A line stands for a multiple of five, so that 10 is one of them.
    let step = 5.0 * ((TOP - lowest) / 5.0 / LINES).ceil().clamp(1.0, 2.0);
    let step = if lowest < -90.0 { 20.0 } else { step };
    let line_of = |score: f64| ((TOP - score.clamp(LOWEST, TOP)) / step).round() as i32;
    let (joining, bottom) = (line_of(JOINING_SCORE), line_of(lowest));
    let mut text = String::new();
    for line in 0..=bottom {
        let marks: String = shown
            .iter()
            .map(|score| match line {
                line if line == line_of(*score) => '*',
                line if line == joining => '-',
                _ => ' ',
            })
            .collect();
        let _infallible = writeln!(text, "{:>6} |{}", TOP - f64::from(line) * step, marks.trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rising_score_is_a_rising_line_with_the_mark_at_ten() {
        let drawn = draw(&[0.0, 5.0, 10.0, 15.0, 20.0], 80);
        assert_eq!(drawn, "    20 |    *\n    15 |   *\n    10 |--*--\n     5 | *\n     0 |*\n");
    }

    #[test]
    fn only_the_last_scores_are_drawn_and_all_of_them_are_on_the_plot() {
        assert_eq!(draw(&[], 80), "");
        for scores in [&[f64::MIN, 20.0, f64::MAX][..], &[-50.0, 3.0], &[-100.0; 7], &[f64::NAN]] {
            let drawn = draw(scores, 2);
            assert_eq!(drawn.matches('*').count(), scores.len().min(2), "{drawn}");
            assert!(drawn.contains("    10 |") || drawn.contains("     0 |"), "{drawn}");
        }
    }
}
