//! The frame under an XDP program: bounds checks that the verifier can follow.

use aya_ebpf::programs::XdpContext;
use responder::Packet;

/// A frame from `data` to `data_end` of an `xdp_md`.
pub struct Frame {
    data: usize,
    end: usize,
}

impl Frame {
    /// The frame that the program was called for.
    #[must_use]
    #[inline(always)]
    pub fn new(context: &XdpContext) -> Self {
        Self { data: context.data(), end: context.data_end() }
    }

    /// The address of `N` bytes at `offset` if they are all in the frame. The comparison is of the form
    /// `data + offset + N > data_end`, from which the verifier learns the bounds of the pointer.
    #[inline(always)]
    fn pointer<const N: usize>(&self, offset: usize) -> Option<usize> {
        let start = self.data + offset;
        if start + N > self.end { None } else { Some(start) }
    }
}

impl Packet for Frame {
    #[inline(always)]
    fn length(&self) -> usize {
        self.end - self.data
    }

    #[inline(always)]
    fn bytes<const N: usize>(&self, offset: usize) -> Option<&[u8; N]> {
        // SAFETY: the bytes are within the frame, which lives as long as the program runs and is this CPU's
        // alone; an array of bytes has no alignment and no invalid values.
        self.pointer::<N>(offset).map(|start| unsafe { &*(start as *const [u8; N]) })
    }

    #[inline(always)]
    fn bytes_mut<const N: usize>(&mut self, offset: usize) -> Option<&mut [u8; N]> {
        // SAFETY: as above, and `&mut self` makes it the only reference.
        self.pointer::<N>(offset).map(|start| unsafe { &mut *(start as *mut [u8; N]) })
    }
}
