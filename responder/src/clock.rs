//! The clock: NTP's time formats (RFC 5905 section 6) and a line through `CLOCK_MONOTONIC`.

/// The leap indicator of a clock that is not synchronised.
pub const LEAP_UNSYNCHRONISED: u8 = 3;
/// The highest stratum of a synchronised server.
pub const MAX_STRATUM: u8 = 15;
/// Seconds from NTP's prime epoch, 1900, to the Unix epoch, 1970.
pub const UNIX_EPOCH_S: u64 = 2_208_988_800;
const NANOS: u64 = 1_000_000_000;

/// A moment: seconds since 1900 modulo 2^32, and 2^-32 seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NtpTimestamp(pub u64);

impl NtpTimestamp {
    /// Converts Unix time. Eras after 2036 wrap, as the format defines.
    #[must_use]
    pub const fn from_unix(seconds: i64, nanos: u32) -> Self {
        let seconds = seconds.cast_unsigned().wrapping_add(UNIX_EPOCH_S);
        // NANOS is not zero and `nanos << 32` has room: nothing here can overflow.
        let fraction = ((nanos as u64) << 32).wrapping_add(NANOS >> 1) / NANOS;
        Self((seconds << 32).wrapping_add(fraction))
    }

    /// Returns the signed distance to `earlier` in units of 2^-32 s, which is right for moments within 68
    /// years.
    #[must_use]
    pub const fn since(self, earlier: Self) -> i64 {
        self.0.wrapping_sub(earlier.0).cast_signed()
    }
}

/// A short interval: seconds and 2^-16 seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct NtpShort(pub u32);

impl NtpShort {
    /// Converts nanoseconds, rounded up because a bound must not shrink; saturates at 18 hours.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        let seconds = nanos / NANOS;
        let fraction = ((nanos % NANOS) << 16).div_ceil(NANOS);
        let units = (seconds << 16).saturating_add(fraction);
        #[expect(clippy::cast_possible_truncation, reason = "compared first")]
        if seconds >= 1 << 16 || units > u32::MAX as u64 { Self(u32::MAX) } else { Self(units as u32) }
    }

    /// Returns the interval in nanoseconds.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        (self.0 as u64).wrapping_mul(NANOS) >> 16
    }
}

/// How fast an error bound grows: units of [`NtpShort`] in 2^32 ns, with 16 bits of fraction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DispersionRate(pub u32);

impl DispersionRate {
    /// Converts ppb, rounded up; saturates at 23 %.
    #[must_use]
    pub const fn from_ppb(ppb: u64) -> Self {
        // The factor is 2^64 / 10^9: the nanoseconds in 2^32 ns times the units in a second, in 16.16 format
        // and ppb.
        let units = ppb.saturating_mul(18_446_744_074).div_ceil(NANOS);
        #[expect(clippy::cast_possible_truncation, reason = "compared first")]
        if units > u32::MAX as u64 { Self(u32::MAX) } else { Self(units as u32) }
    }
}

/// How fast NTP time runs compared with `CLOCK_MONOTONIC`: units of 2^-32 s per nanosecond, with 32 bits of
/// fraction. One step is 0.05 ppb.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate(pub u64);

impl Rate {
    /// A nanosecond of `CLOCK_MONOTONIC` is a nanosecond of NTP time: 2^64 / 10^9.
    pub const NOMINAL: Self = Self(18_446_744_074);
}

/// Everything that an answer says about the clock, as the daemon last published it.
///
/// It is shared with the eBPF program as [`WORDS`] 64-bit words, one cache line; [`ClockState::to_words`]
/// defines the layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockState {
    /// Number of the publication. Two states with the same number are the same.
    pub sequence: u32,
    /// The `CLOCK_MONOTONIC` at the base of the line.
    pub monotonic_base_ns: u64,
    /// The NTP time at the base of the line.
    pub ntp_base: NtpTimestamp,
    /// The rate of the line from there on.
    pub rate: Rate,
    /// The `CLOCK_MONOTONIC` after which the line is no longer known to be good.
    pub horizon_ns: u64,
    /// When the clock was last set or corrected.
    pub reference_time: NtpTimestamp,
    /// Round trip to the primary source.
    pub root_delay: NtpShort,
    /// Error bound against the primary source, at the base of the line.
    pub root_dispersion: NtpShort,
    /// How fast that error bound grows.
    pub dispersion_rate: DispersionRate,
    /// Reference ID: what the clock is synchronised to.
    pub reference_id: u32,
    /// Leap indicator: 0, 1 (the last minute of the day has 61 s), 2 (59 s), 3 (unsynchronised).
    pub leap: u8,
    /// Stratum, 1 to 15; anything else is unsynchronised.
    pub stratum: u8,
    /// Precision of a clock reading, in log2 seconds.
    pub precision: i8,
}

/// Size of a [`ClockState`] in the map, in 64-bit words.
pub const WORDS: usize = 8;

impl ClockState {
    /// Returns the layout in the map.
    #[must_use]
    pub const fn to_words(&self) -> [u64; WORDS] {
        [
            self.monotonic_base_ns,
            self.ntp_base.0,
            self.rate.0,
            self.horizon_ns,
            self.reference_time.0,
            (self.root_delay.0 as u64) << 32 | self.root_dispersion.0 as u64,
            (self.dispersion_rate.0 as u64) << 32 | self.reference_id as u64,
            (self.sequence as u64) << 32
                | (self.precision.cast_unsigned() as u64) << 16
                | (self.stratum as u64) << 8
                | self.leap as u64,
        ]
    }

    /// The inverse of [`ClockState::to_words`].
    #[must_use]
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "fields are taken out of words, masked or whole")]
    pub const fn from_words(words: [u64; WORDS]) -> Self {
        let [monotonic_base_ns, ntp_base, rate, horizon_ns, reference_time, root, reference, flags] = words;
        Self {
            sequence: (flags >> 32) as u32,
            monotonic_base_ns,
            ntp_base: NtpTimestamp(ntp_base),
            rate: Rate(rate),
            horizon_ns,
            reference_time: NtpTimestamp(reference_time),
            root_delay: NtpShort((root >> 32) as u32),
            root_dispersion: NtpShort(root as u32),
            dispersion_rate: DispersionRate((reference >> 32) as u32),
            reference_id: reference as u32,
            leap: (flags & 3) as u8,
            stratum: (flags >> 8) as u8,
            precision: ((flags >> 16) as u8).cast_signed(),
        }
    }

    /// Returns the nanoseconds since the base of the line, as two's complement: the base may be the later
    /// moment.
    #[inline(always)]
    const fn elapsed_ns(&self, monotonic_ns: u64) -> u64 {
        monotonic_ns.wrapping_sub(self.monotonic_base_ns)
    }

    /// Returns the time on the line.
    ///
    /// The product needs 96 bits and eBPF has no 128-bit multiplication, so it is composed of the 32-bit
    /// halves of both factors. The upper half of the elapsed time is signed, for moments before the base.
    #[must_use]
    #[inline(always)]
    pub const fn time_at(&self, monotonic_ns: u64) -> NtpTimestamp {
        let elapsed = self.elapsed_ns(monotonic_ns);
        let (whole, fraction) = (self.rate.0 >> 32, self.rate.0 & 0xffff_ffff);
        let upper = (elapsed.cast_signed() >> 32).cast_unsigned();
        let lower = elapsed & 0xffff_ffff;
        let units = elapsed
            .wrapping_mul(whole)
            .wrapping_add(upper.wrapping_mul(fraction))
            .wrapping_add(lower.wrapping_mul(fraction) >> 32);
        NtpTimestamp(self.ntp_base.0.wrapping_add(units))
    }

    /// Returns whether an answer at this moment may claim to be synchronised.
    #[must_use]
    #[inline(always)]
    pub const fn is_synchronised_at(&self, monotonic_ns: u64) -> bool {
        monotonic_ns <= self.horizon_ns
            && self.leap != LEAP_UNSYNCHRONISED
            && self.stratum.wrapping_sub(1) < MAX_STRATUM
    }

    /// Returns the error bound, including its growth with the age of the line in whole 2^16 ns.
    #[must_use]
    #[inline(always)]
    pub const fn root_dispersion_at(&self, monotonic_ns: u64) -> NtpShort {
        let elapsed = self.elapsed_ns(monotonic_ns);
        // Before the base there is nothing to add; beyond 78 hours the product would overflow.
        let elapsed = if elapsed.cast_signed() < 0 { 0 } else { elapsed >> 16 };
        let elapsed = if elapsed > 0xffff_ffff { 0xffff_ffff } else { elapsed };
        let grown = elapsed.wrapping_mul(self.dispersion_rate.0 as u64) >> 32;
        let bound = grown.wrapping_add(self.root_dispersion.0 as u64);
        if bound > 0xffff_ffff { NtpShort(u32::MAX) } else { NtpShort(bound as u32) }
    }

    /// Returns the bits of a timestamp below the precision of the clock, at least one, so that transmit and
    /// receive timestamps differ.
    #[must_use]
    #[inline(always)]
    pub(crate) const fn noise_mask(&self) -> u64 {
        // The precision is in log2 seconds, and the fraction has 32 bits.
        let bits = self.precision.saturating_add(32);
        if bits <= 0 { 1 } else { 1_u64.wrapping_shl(bits.cast_unsigned() as u32).wrapping_sub(1) }
    }
}
