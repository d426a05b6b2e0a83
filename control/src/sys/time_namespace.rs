//! Whether this process is in a time namespace whose clocks are off from the host's (`time_namespaces(7)`).

use crate::error::{Code, Error, Result};

/// Refuses a time namespace whose `CLOCK_MONOTONIC` is off from the host's: the program in the NIC path reads the host's,
/// and would read a line through the other one.
///
/// # Errors
///
/// With the offset, and the way out.
pub fn refuse_offset() -> Result<()> {
    // Without time namespaces in the kernel there is no such file.
    let file = std::fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default();
    match monotonic_offset_s(&file) {
        None => Ok(()),
        Some(offset_s) => Err(Error::new(
            Code::Unavailable,
            format_args!(
                "this process is in a time namespace whose CLOCK_MONOTONIC is {offset_s:+} s off from the host's, by which \
                 the program in the NIC path tells the time"
            ),
        )
        .remedy("start the daemon in the host's time namespace: without `unshare --time`, `--monotonic` or the container's offsets")),
    }
}

/// Returns the offset of `CLOCK_MONOTONIC` in s, unless it is zero. The file has a line for each clock: its name, seconds
/// and nanoseconds.
fn monotonic_offset_s(file: &str) -> Option<f64> {
    let line = file.lines().find(|line| line.starts_with("monotonic"))?;
    let mut numbers = line.split_whitespace().skip(1).map(str::parse::<f64>);
    let (Some(Ok(seconds)), Some(Ok(nanos))) = (numbers.next(), numbers.next()) else { return None };
    let offset_s = seconds + nanos / 1e9;
    (offset_s != 0.0).then_some(offset_s)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_of_the_monotonic_clock_is_found() {
        let file = "monotonic      -86400         0\nboottime            0         0\n";
        assert_eq!(monotonic_offset_s(file), Some(-86_400.0));
        assert_eq!(monotonic_offset_s("monotonic 0 500000000\nboottime 0 0\n"), Some(0.5));
        for none in
            ["monotonic           0         0\nboottime          100         0\n", "", "monotonic x\n"]
        {
            assert_eq!(monotonic_offset_s(none), None, "{none:?}");
        }
        refuse_offset().unwrap();
    }
}
