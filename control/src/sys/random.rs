//! Random numbers of the kernel's.

/// So many random bytes.
///
/// # Errors
///
/// The kernel's.
pub fn bytes<const N: usize>() -> Result<[u8; N], getrandom::Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}
