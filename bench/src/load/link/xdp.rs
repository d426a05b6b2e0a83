//! Sends frames through an `AF_XDP` socket: from memory shared with the kernel, without a copy if the driver
//! supports it.
#![expect(
    unsafe_code,
    reason = "the crate xdp leaves it to its user that frames do not outlive their memory"
)]

use std::fmt::Display;
use std::os::fd::{BorrowedFd, RawFd};
use std::time::{Duration, Instant};

use ::xdp::nic::NicIndex;
use ::xdp::slab::{Slab as _, StackSlab};
use ::xdp::socket::{SocketError, XdpSocket, XdpSocketBuilder};
use ::xdp::umem::{FrameSize, UmemCfgBuilder};
use ::xdp::{CompletionRing, RingConfigBuilder, Umem, WakableTxRing};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, send, setsockopt};
use nix::{setsockopt_impl, sockopt_impl};

use super::setup::Setup;
use super::worker::Outlet;
use super::{LinkError, Sender};
use crate::failure::Failure;

/// Number of frames that can be on their way.
const FRAMES: u32 = 2048;
/// Largest number of frames that one call of the kernel sends. Its default limit is 32.
const BUDGET: u32 = 256;
/// Frames that are still on their way after this time will stay there.
const STUCK: Duration = Duration::from_millis(200);

/// From `linux/if_xdp.h`, since Linux 6.17.
const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;

sockopt_impl!(
    /// Largest number of frames that one call copies into packets.
    CopyBudget,
    SetOnly,
    libc::SOL_XDP,
    XDP_MAX_TX_SKB_BUDGET,
    u32
);

/// The socket and its memory; see the module.
pub(super) struct XdpOutlet {
    // This field is dropped first, because the kernel uses the memory below as long as the socket is open.
    socket: XdpSocket,
    ring: WakableTxRing,
    completed: CompletionRing,
    memory: Umem,
    frame: Vec<u8>,
    interface: String,
}

/// Opens a socket on this queue of the interface.
pub(super) fn open(setup: &Setup, queue: u32) -> Result<XdpOutlet, Failure> {
    let interface = &setup.route.interface;
    let refused = |reason: &dyn Display| error(interface, &reason.to_string());
    let of_socket = |error: SocketError| match error {
        SocketError::SocketCreation(error) if error.raw_os_error() == Some(Errno::EPERM as i32) => {
            Failure::Privilege(vec!["CAP_NET_RAW".into()])
        }
        SocketError::Bind(error) if error.raw_os_error() == Some(Errno::EINVAL as i32) => {
            refused(&format_args!("it has no queue {queue} for worker {queue}: use fewer --workers")).into()
        }
        SocketError::Bind(error) if error.raw_os_error() == Some(Errno::EBUSY as i32) => {
            refused(&format_args!("another AF_XDP socket is bound to its queue {queue}")).into()
        }
        error => refused(&error).into(),
    };
    let memory = UmemCfgBuilder { frame_size: FrameSize::TwoK, frame_count: FRAMES, ..Default::default() };
    let memory = memory.build().map_err(|error| refused(&error))?;
    let memory = Umem::map(memory).map_err(|error| refused(&error))?;
    let rings = RingConfigBuilder { rx_count: 0, tx_count: FRAMES, fill_count: 64, completion_count: FRAMES };
    let rings = rings.build().map_err(|error| refused(&error))?;
    let mut socket = XdpSocketBuilder::new().map_err(of_socket)?;
    let (rings, flags) = socket.build_wakable_rings(&memory, rings).map_err(of_socket)?;
    let ring = rings.tx_ring.ok_or_else(|| refused(&"there is no transmit ring"))?;
    let socket = socket.bind(NicIndex(setup.route.index), queue, flags).map_err(of_socket)?;
    // Older kernels have no such option, and drivers that copy nothing have no such limit; then there are
    // more calls.
    let _as_it_was = setsockopt(&descriptor(&socket), CopyBudget, &BUDGET);
    Ok(XdpOutlet {
        socket,
        ring,
        completed: rings.completion_ring,
        memory,
        frame: setup.template.bytes.clone(),
        interface: interface.clone(),
    })
}

impl XdpOutlet {
    fn reclaim(&mut self) {
        self.completed.dequeue(&mut self.memory, FRAMES as usize);
    }
}

impl Outlet for XdpOutlet {
    fn put(&mut self, write: impl FnOnce(&mut [u8])) -> bool {
        if self.memory.allocatable() == 0 {
            self.reclaim();
        }
        // SAFETY: the frame goes to the ring or back to the memory before this function ends, and the memory lives
        // as long as the ring.
        let Some(mut packet) = (unsafe { self.memory.alloc() }) else { return false };
        if packet.append(&self.frame).is_err() {
            self.memory.free_packet(packet);
            return false;
        }
        write(&mut packet);
        let mut slab = StackSlab::<1>::new();
        if let Some(refused) = slab.push_front(packet) {
            self.memory.free_packet(refused);
            return false;
        }
        // SAFETY: the memory is dropped after the socket. Without a wake-up this only queues the frame.
        let queued = unsafe { self.ring.send(&mut slab, false) };
        if matches!(queued, Ok(1)) {
            return true;
        }
        if let Some(packet) = slab.pop_back() {
            self.memory.free_packet(packet);
        }
        false
    }

    fn flush(&mut self) -> Result<u64, Failure> {
        let mut dropped = 0;
        loop {
            match send(self.socket.raw_fd(), &[], MsgFlags::MSG_DONTWAIT) {
                // The driver's queue was full, and the kernel has dropped one frame.
                Err(Errno::EBUSY) => dropped += 1,
                Err(Errno::EINTR) => {}
                // The remaining frames go with the next call.
                Ok(_) | Err(Errno::EAGAIN | Errno::ENOBUFS) => return Ok(dropped),
                Err(errno) => return Err(error(&self.interface, &errno.desc().to_lowercase()).into()),
            }
        }
    }

    fn finish(&mut self) -> Result<u64, Failure> {
        let deadline = Instant::now() + STUCK;
        let mut dropped = 0;
        while self.memory.outstanding() > 0 && Instant::now() < deadline {
            dropped += self.flush()?;
            self.reclaim();
        }
        Ok(dropped + self.memory.outstanding() as u64)
    }
}

fn descriptor(socket: &XdpSocket) -> BorrowedFd<'_> {
    let descriptor: RawFd = socket.raw_fd();
    // SAFETY: the descriptor is open as long as the socket, which outlives what is returned.
    unsafe { BorrowedFd::borrow_raw(descriptor) }
}

fn error(interface: &str, reason: &str) -> LinkError {
    LinkError::Sender { how: Sender::Xdp.name(), interface: interface.into(), reason: reason.into() }
}
