//! Random numbers from the kernel.

/// Returns `N` random bytes.
///
/// # Errors
///
/// The kernel has no random numbers.
pub fn bytes<const N: usize>() -> Result<[u8; N], getrandom::Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}
