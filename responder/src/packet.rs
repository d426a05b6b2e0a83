//! Bounded access to a frame's bytes, the same for memory in the kernel and in user space.

/// A frame, from the first byte of its Ethernet header to its last byte.
///
/// Bytes are accessed as arrays of a fixed size: a slice whose length is known only at run time would leave
/// a panic path behind, which the eBPF verifier refuses.
pub trait Packet {
    /// Returns the length of the frame in bytes, including padding, without the frame check sequence.
    fn length(&self) -> usize;

    /// Returns the `N` bytes at `offset`, or `None` if the frame ends before.
    fn bytes<const N: usize>(&self, offset: usize) -> Option<&[u8; N]>;

    /// Returns the `N` bytes at `offset` for writing, or `None` if the frame ends before.
    fn bytes_mut<const N: usize>(&mut self, offset: usize) -> Option<&mut [u8; N]>;
}

impl Packet for [u8] {
    fn length(&self) -> usize {
        self.len()
    }

    fn bytes<const N: usize>(&self, offset: usize) -> Option<&[u8; N]> {
        self.get(offset..)?.first_chunk()
    }

    fn bytes_mut<const N: usize>(&mut self, offset: usize) -> Option<&mut [u8; N]> {
        self.get_mut(offset..)?.first_chunk_mut()
    }
}

impl<T: Packet + ?Sized> Packet for &mut T {
    fn length(&self) -> usize {
        T::length(self)
    }

    fn bytes<const N: usize>(&self, offset: usize) -> Option<&[u8; N]> {
        T::bytes(self, offset)
    }

    fn bytes_mut<const N: usize>(&mut self, offset: usize) -> Option<&mut [u8; N]> {
        T::bytes_mut(self, offset)
    }
}

/// Reads `W` bytes at a constant offset. Returns zeros if `bytes` is shorter, which no caller's constants
/// allow; the compiler removes the check.
#[inline(always)]
pub(crate) fn load<const W: usize>(bytes: &[u8], offset: usize) -> [u8; W] {
    match bytes.get(offset..) {
        Some(rest) => match rest.first_chunk() {
            Some(chunk) => *chunk,
            None => [0; W],
        },
        None => [0; W],
    }
}

/// Writes `value` at a constant offset. Does nothing if `bytes` is shorter, which no caller's constants
/// allow.
#[inline(always)]
pub(crate) fn store<const W: usize>(bytes: &mut [u8], offset: usize, value: [u8; W]) {
    if let Some(rest) = bytes.get_mut(offset..)
        && let Some(chunk) = rest.first_chunk_mut()
    {
        *chunk = value;
    }
}
