//! When requests arrive: like those of independent clients, and at a rate that may have a spike.

/// Number of entries in the table of [`exponential`] intervals.
pub const INTERVALS: usize = 4096;

/// Makes a table of intervals between independent requests to draw from. Each entry is a fraction of the
/// mean, with 16 bits of fraction.
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "up to nine times 2^16"
)]
#[cfg(not(target_arch = "bpf"))]
pub fn exponential() -> Vec<u32> {
    // Each entry is the mean of the distribution over one of the equal parts of its probability. The entries
    // together then have the mean 1, which the values in the middle of the parts would not have.
    let integral = |left: f64| if left > 0.0 { left * (1.0 - left.ln()) } else { 0.0 };
    let part = |index: usize| {
        let left = |index: usize| 1.0 - index as f64 / INTERVALS as f64;
        (integral(left(index)) - integral(left(index + 1))) * INTERVALS as f64
    };
    (0..INTERVALS).map(|index| (part(index) * 65_536.0).round() as u32).collect()
}

/// A rate that jumps up, stays there, and falls back linearly. Times count from the start of a step.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Spike {
    /// When the rate jumps.
    pub start_ns: u64,
    /// When the rate begins to fall.
    pub end_ns: u64,
    /// When the rate is back at its base; not before `end_ns`.
    pub gone_ns: u64,
    /// What is added to the rate at most, as a multiple of it with 8 bits of fraction. 0 means no spike.
    pub extra: u64,
}

impl Spike {
    /// Returns the rate at a time as a multiple of the base rate, with 8 bits of fraction.
    #[must_use]
    #[inline(always)]
    pub const fn factor(&self, at_ns: u64) -> u64 {
        if at_ns < self.start_ns || at_ns >= self.gone_ns {
            256
        } else if at_ns < self.end_ns {
            256 + self.extra
        } else {
            // Units of 1024 ns, so that nothing overflows.
            let (left, fall) = ((self.gone_ns - at_ns) >> 10, (self.gone_ns - self.end_ns) >> 10);
            256 + self.extra * left / (fall + 1)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponential_intervals_have_their_mean_and_their_median() {
        let table = exponential();
        assert_eq!(table.len(), INTERVALS);
        let mean = table.iter().map(|part| f64::from(*part)).sum::<f64>() / 4096.0 / 65_536.0;
        assert!((mean - 1.0).abs() < 1e-4, "{mean}");
        let median = f64::from(table[INTERVALS / 2]) / 65_536.0;
        assert!((median - 2_f64.ln()).abs() < 1e-3, "{median}");
    }

    #[test]
    fn a_spike_jumps_stays_and_falls_back() {
        let spike = Spike { start_ns: 1_000_000, end_ns: 2_000_000, gone_ns: 4_048_000, extra: 9 * 256 };
        assert_eq!([0, 999_999, 4_048_000, 9_000_000].map(|at| spike.factor(at)), [256; 4]);
        assert_eq!([1_000_000, 1_999_999].map(|at| spike.factor(at)), [2560; 2]);
        let half = spike.factor(3_024_000);
        assert!((1400..1416).contains(&half), "{half}");
        assert_eq!(Spike::default().factor(5), 256);
    }
}
