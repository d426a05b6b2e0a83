//! Sends frames through an `AF_PACKET` socket: directly to the driver without a queueing discipline, many
//! with one call of the kernel.

use std::io::IoSlice;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, MultiHeaders, SockFlag, SockType, bind, sendmmsg, setsockopt, socket,
    sockopt,
};
use nix::{setsockopt_impl, sockopt_impl};

use super::setup::Setup;
use super::worker::Outlet;
use super::{LinkError, Sender};
use crate::failure::Failure;

/// Number of frames handed over in one call.
const BATCH: usize = 64;
/// Size of the buffer for frames that a driver has not sent yet.
const SEND_BUFFER: usize = 4 << 20;

sockopt_impl!(
    /// Frames bypass the queueing discipline, because the schedule decides the order of sending.
    QdiscBypass,
    SetOnly,
    libc::SOL_PACKET,
    libc::PACKET_QDISC_BYPASS,
    bool
);

/// The socket and its frames; see the module.
pub(super) struct PacketOutlet {
    socket: OwnedFd,
    interface: String,
    /// Frames, of which the first `filled` are to be sent.
    frames: Vec<Vec<u8>>,
    filled: usize,
}

/// Opens a socket on the interface.
pub(super) fn open(setup: &Setup) -> Result<PacketOutlet, Failure> {
    let interface = &setup.route.interface;
    let refused = |errno: Errno| match errno {
        Errno::EPERM | Errno::EACCES => Failure::Privilege(vec!["CAP_NET_RAW".into()]),
        errno => error(interface, errno).into(),
    };
    // The socket receives nothing: answers are taken before they would get here.
    let socket =
        socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None).map_err(refused)?;
    let all = getifaddrs().map_err(refused)?;
    let of_it = all.filter(|entry| entry.interface_name == *interface).filter_map(|entry| entry.address);
    let address = of_it.into_iter().find_map(|address| address.as_link_addr().copied());
    let address: LinkAddr = address.ok_or_else(|| refused(Errno::ENODEV))?;
    bind(socket.as_raw_fd(), &address).map_err(refused)?;
    setsockopt(&socket, QdiscBypass, &true).map_err(refused)?;
    if setsockopt(&socket, sockopt::SndBufForce, &SEND_BUFFER).is_err() {
        let _as_much_as_allowed = setsockopt(&socket, sockopt::SndBuf, &SEND_BUFFER);
    }
    Ok(PacketOutlet {
        socket,
        interface: interface.clone(),
        frames: vec![setup.template.bytes.clone(); BATCH],
        filled: 0,
    })
}

impl Outlet for PacketOutlet {
    fn put(&mut self, write: impl FnOnce(&mut [u8])) -> bool {
        let Some(frame) = self.frames.get_mut(self.filled) else { return false };
        write(frame);
        self.filled += 1;
        true
    }

    fn flush(&mut self) -> Result<u64, Failure> {
        let (mut sent, mut dropped) = (0, 0);
        while sent < self.filled {
            let slices: Vec<[IoSlice<'_>; 1]> =
                self.frames[sent..self.filled].iter().map(|frame| [IoSlice::new(frame)]).collect();
            // The headers cannot be kept between calls, because they cannot move from one thread to another.
            let mut headers = MultiHeaders::<()>::preallocate(slices.len(), None);
            let result = sendmmsg(
                self.socket.as_raw_fd(),
                &mut headers,
                &slices,
                [None; BATCH],
                [],
                MsgFlags::MSG_DONTWAIT,
            );
            match result {
                Ok(results) => sent += results.count(),
                // The driver's queue is full, and the kernel has dropped the first frame.
                Err(Errno::ENOBUFS) => {
                    sent += 1;
                    dropped += 1;
                }
                // The whole buffer is still on its way.
                Err(Errno::EAGAIN | Errno::EINTR) => std::hint::spin_loop(),
                Err(errno) => return Err(error(&self.interface, errno).into()),
            }
        }
        self.filled = 0;
        Ok(dropped)
    }

    fn finish(&mut self) -> Result<u64, Failure> {
        self.flush()
    }
}

fn error(interface: &str, errno: Errno) -> LinkError {
    LinkError::Sender {
        how: Sender::Packet.name(),
        interface: interface.into(),
        reason: errno.desc().to_lowercase(),
    }
}
