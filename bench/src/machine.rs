//! The machine on which figures were measured.

use std::fs;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// What figures depend on besides the code.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Machine {
    /// Release of the running kernel.
    pub(crate) kernel: String,
    /// Model name of the processor.
    pub(crate) processor: String,
    /// Number of processors of the machine.
    pub(crate) cpus: usize,
    /// Whether the kernel compiles eBPF to machine code. Without that, figures are those of an interpreter.
    pub(crate) jit: bool,
}

impl Machine {
    /// Describes this machine. What cannot be read is left empty, because no figure depends on it.
    pub(crate) fn describe() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let processors = read("/proc/cpuinfo");
        let processor = processors.lines().find(|line| line.starts_with("model name"));
        Self {
            kernel: kernel_release(),
            processor: processor
                .and_then(|line| line.split_once(':'))
                .map(|(_, name)| name.trim().to_owned())
                .unwrap_or_default(),
            cpus: processors.lines().filter(|line| line.starts_with("processor")).count(),
            // The file is absent if the kernel is built with the JIT as the only choice.
            jit: read("/proc/sys/net/core/bpf_jit_enable").trim() != "0",
        }
    }
}

/// Returns the date and time in UTC, as `2026-01-31 12:34:56 UTC`.
pub(crate) fn utc() -> String {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let (days, second) = (since_1970 / 86_400, since_1970 % 86_400);
    let (year, month, day) = date(days);
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02} UTC",
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

/// Returns year, month and day of a day since 1970.
fn date(mut days: u64) -> (u64, u64, u64) {
    let is_leap =
        |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for length in lengths {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1)
}

/// Release of the running kernel.
pub(crate) fn kernel_release() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_since_1970_are_dates() {
        for (days, expected) in
            [(0, (1970, 1, 1)), (59, (1970, 3, 1)), (11_016, (2000, 2, 29)), (20_783, (2026, 11, 26))]
        {
            assert_eq!(date(days), expected, "{days}");
        }
        assert_eq!(utc().len(), "2026-01-31 12:34:56 UTC".len());
    }
}
