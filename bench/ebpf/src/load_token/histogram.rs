//! Histograms of times, as the kernel keeps them.

/// Number of buckets in a histogram: 32 for each power of two up to 2^40 ns, rounded up to a power of two.
pub const BUCKETS: usize = 2048;
const SUB_BITS: u32 = 5;

/// Returns the bucket of a value in nanoseconds.
#[must_use]
#[inline(always)]
pub const fn bucket(value: u64) -> usize {
    let value = if value >> 40 == 0 { value } else { (1 << 40) - 1 };
    if value < 1 << SUB_BITS {
        return (value & 31) as usize;
    }
    let exponent = value.ilog2();
    let sub = value >> (exponent - SUB_BITS) & 31;
    ((exponent - SUB_BITS + 1) << SUB_BITS) as usize + (sub & 31) as usize
}

/// Returns a value in the middle of a bucket, in nanoseconds.
#[must_use]
pub const fn bucket_value(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < 1 << SUB_BITS {
        return bucket;
    }
    let shift = (bucket >> SUB_BITS) - 1;
    ((1 << SUB_BITS | bucket & 31) << shift) + (1 << shift >> 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_has_values_near_its_own() {
        for value in (0..40).flat_map(|bit| [1_u64 << bit, (1 << bit) + (1 << bit) / 3]) {
            let middle = bucket_value(bucket(value));
            assert!(middle.abs_diff(value) * 32 <= value, "{value} {middle}");
        }
        assert!(bucket(u64::MAX) < BUCKETS);
    }
}
