//! All unsafe code of control: kernel structures for maps, bpf(2), adjtimex and ethtool's ioctl.
#![expect(unsafe_code, reason = "the one module that may")]

pub(crate) mod capabilities;
pub(crate) mod credentials;
pub mod ethtool;
pub mod kernel_clock;
pub mod port_owner;
pub mod process;
pub mod random;
pub mod standstill;
pub(crate) mod subprocess;
pub(crate) mod syscall_filter;
pub mod time_namespace;
pub(crate) mod unprivileged;

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};

use aya::maps::{MapData, MapType};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use responder::Policy;
use responder::clock::WORDS;
use responder::layout::{Counters, FAMILIES, Grant, INTERFACES, OTHER, SLOTS, Spent, State};
use responder::limiter::WAYS;
use responder::{ServedTable, StationTable};

/// A value that is copied into or out of a map as its bytes.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(crate) struct Plain<T>(pub(crate) T);

// SAFETY: `repr(C)`, integers only, the 32-bit ones in pairs before the 64-bit ones, so no padding (the
// assertion below counts the bytes), and every bit pattern is a value.
unsafe impl aya::Pod for Plain<State> {}
const _: () = assert!(
    size_of::<State>()
        == 8 + 4
            + 4
            + 4 * INTERFACES
            + size_of::<[[u64; WORDS]; SLOTS]>()
            + 8 * OTHER
            + size_of::<[ServedTable; SLOTS]>()
            + size_of::<[StationTable; INTERFACES]>()
            + 8 * FAMILIES
            + size_of::<Policy>()
);
// SAFETY: an array of `repr(C)` pairs of 64-bit integers: no padding, every bit pattern is a value.
unsafe impl aya::Pod for Plain<Counters> {}

// SAFETY: an array of 64-bit integers.
unsafe impl aya::Pod for Plain<[u64; WAYS]> {}

// SAFETY: `repr(C)` of 64-bit integers.
unsafe impl aya::Pod for Plain<Spent> {}
// SAFETY: `repr(C)` of 64-bit integers.
unsafe impl aya::Pod for Plain<Grant> {}

/// The arguments of bpf(2) for an element of a map: the beginning of `union bpf_attr` in linux/bpf.h.
#[repr(C)]
struct MapElement {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;

/// Reads the first value of an array, however long it is: aya wants to know that when it is compiled.
///
/// # Errors
///
/// The map is no array, or the kernel's.
pub(crate) fn first_value(map: &MapData) -> io::Result<Vec<u8>> {
    let mut value = vec![0; first_value_size(map)?];
    map_element(BPF_MAP_LOOKUP_ELEM, map, &mut value)?;
    Ok(value)
}

/// Writes the first value of an array.
///
/// # Errors
///
/// The map is no array, its values are of another size, or the kernel's.
pub(crate) fn set_first_value(map: &MapData, value: &mut [u8]) -> io::Result<()> {
    if value.len() != first_value_size(map)? {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    map_element(BPF_MAP_UPDATE_ELEM, map, value)
}

fn first_value_size(map: &MapData) -> io::Result<usize> {
    let info = map.info().map_err(io::Error::other)?;
    match info.map_type() {
        Ok(MapType::Array) => Ok(info.value_size() as usize),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no array")),
    }
}

/// `value` is as long as the values of the map, which is an array.
fn map_element(command: libc::c_long, map: &MapData, value: &mut [u8]) -> io::Result<()> {
    let first = 0_u32;
    let element = MapElement {
        map: map.fd().as_fd().as_raw_fd().cast_unsigned(),
        padding: 0,
        key: (&raw const first) as u64,
        value: value.as_mut_ptr() as u64,
        flags: 0,
    };
    // SAFETY: key and value outlive the call. The kernel reads the four bytes of an array's key, and reads or writes
    // as many bytes at `value` as a value of this map has, which is its length.
    let status =
        unsafe { libc::syscall(libc::SYS_bpf, command, &raw const element, size_of::<MapElement>()) };
    if status < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Lets all threads allocate from one heap, `mallopt(3)`: glibc has one for each, and hardly gives back what was freed in
/// it. To be called before there are threads. Other libraries have one heap anyway.
pub(crate) fn use_one_heap() {
    // SAFETY: it takes no pointer, and no other thread allocates.
    #[cfg(target_env = "gnu")]
    let _refused = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// Gives freed memory back to the kernel, `malloc_trim(3)`. It takes milliseconds. Other libraries give it back by
/// themselves.
pub(crate) fn give_freed_memory_back() {
    // SAFETY: it takes no pointer, and what is in use stays where it is.
    #[cfg(target_env = "gnu")]
    let _was_none = unsafe { libc::malloc_trim(0) };
}

/// The kernel's clock discipline, as adjtimex(2) reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adjtimex {
    /// The `TIME_*` state that the call returned.
    pub state: i32,
    /// The `STA_*` bits.
    pub status: i32,
    /// Maximum error in microseconds. It grows by 500 ppm until the clock's keeper sets it again.
    pub max_error_us: i64,
    /// Estimated error in microseconds.
    pub estimated_error_us: i64,
    /// What the kernel's own loop (`STA_PLL`) has not begun to add to the clock yet, in nanoseconds.
    pub offset_ns: i64,
    /// Time constant of that loop: it adds 1 part in 2 ^ (2 + constant) of the offset in a second.
    pub time_constant: i64,
    /// Frequency correction in ppm with 16 bits of fraction.
    pub frequency_scaled_ppm: i64,
    /// Microseconds that the clock advances in 1/`USER_HZ` s, without that correction.
    pub tick_us: i64,
    /// TAI - UTC in seconds; 0 if the kernel does not know it.
    pub tai_offset_s: i32,
}

impl Adjtimex {
    /// Returns how far the clock may still be from where the kernel's loop takes it, in nanoseconds. What the loop adds in
    /// the present second has left the offset already (`second_overflow` in kernel/time/ntp.c).
    #[must_use]
    pub fn remaining_ns(&self) -> u64 {
        let shift = u32::try_from(self.time_constant.clamp(0, 10)).unwrap_or(0) + 2;
        let offset_ns = self.offset_ns.unsigned_abs();
        offset_ns.saturating_add(offset_ns / ((1 << shift) - 1))
    }
}

/// A change of the kernel's clock. Fields that are `None` stay as they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClockChange {
    /// Frequency correction in ppm with 16 bits of fraction, and microseconds per 1/`USER_HZ` s.
    pub rate: Option<(i64, i64)>,
    /// Nanoseconds to add to `CLOCK_REALTIME`.
    pub step_ns: Option<i64>,
    /// The `STA_*` bits.
    pub status: Option<i32>,
    /// Maximum and estimated error in microseconds.
    pub errors_us: Option<(i64, i64)>,
    /// TAI - UTC in seconds.
    pub tai_offset_s: Option<i32>,
    /// Whether to cancel slews that another program has started.
    pub end_slews: bool,
}

/// Reads the kernel's clock discipline and changes nothing.
///
/// # Errors
///
/// The kernel documents none for a call that only reads.
pub fn adjtimex() -> io::Result<Adjtimex> {
    let mut buffer = zeros();
    let state = call(&mut buffer)?;
    Ok(Adjtimex {
        state,
        status: buffer.status,
        max_error_us: buffer.maxerror,
        estimated_error_us: buffer.esterror,
        offset_ns: if buffer.status & libc::STA_NANO == 0 {
            buffer.offset.saturating_mul(1000)
        } else {
            buffer.offset
        },
        time_constant: buffer.constant,
        frequency_scaled_ppm: buffer.freq,
        tick_us: buffer.tick,
        tai_offset_s: buffer.tai,
    })
}

/// Changes the kernel's clock.
///
/// # Errors
///
/// `EPERM` without `CAP_SYS_TIME`, `EINVAL` for a change that the kernel does not support.
pub fn change_clock(change: &ClockChange) -> io::Result<()> {
    if change.end_slews {
        // The offset that the kernel's own loop still corrects can only be set while the loop is on.
        let mut buffer = zeros();
        buffer.modes = libc::ADJ_STATUS | libc::ADJ_OFFSET;
        buffer.status = libc::STA_PLL | libc::STA_UNSYNC;
        call(&mut buffer)?;
        let mut buffer = zeros();
        buffer.modes = libc::ADJ_OFFSET_SINGLESHOT;
        call(&mut buffer)?;
    }
    let mut buffer = zeros();
    if let Some((frequency_scaled_ppm, tick_us)) = change.rate {
        buffer.modes |= libc::ADJ_FREQUENCY | libc::ADJ_TICK;
        buffer.freq = frequency_scaled_ppm;
        buffer.tick = tick_us;
    }
    if let Some(step_ns) = change.step_ns {
        buffer.modes |= libc::ADJ_SETOFFSET | libc::ADJ_NANO;
        buffer.time.tv_sec = step_ns.div_euclid(1_000_000_000);
        buffer.time.tv_usec = step_ns.rem_euclid(1_000_000_000);
    }
    if let Some(status) = change.status {
        buffer.modes |= libc::ADJ_STATUS;
        buffer.status = status;
    }
    if let Some((max_error_us, estimated_error_us)) = change.errors_us {
        buffer.modes |= libc::ADJ_MAXERROR | libc::ADJ_ESTERROR;
        buffer.maxerror = max_error_us;
        buffer.esterror = estimated_error_us;
    }
    if let Some(tai_offset_s) = change.tai_offset_s {
        buffer.modes |= libc::ADJ_TAI;
        buffer.constant = tai_offset_s.into();
    }
    call(&mut buffer).map(|_state| ())
}

fn zeros() -> libc::timex {
    // SAFETY: a structure of integers, for which zeros are values; no mode bits means "read".
    unsafe { std::mem::zeroed() }
}

fn call(buffer: &mut libc::timex) -> io::Result<i32> {
    // SAFETY: the pointer is to a live structure of the type that the call reads and fills in.
    let state = unsafe { libc::adjtimex(&raw mut *buffer) };
    if state < 0 { Err(io::Error::last_os_error()) } else { Ok(state) }
}

/// The commands of ethtool's ioctl that are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum EthtoolCommand {
    /// `struct ethtool_drvinfo`: the driver's name and more.
    DriverInfo = 0x3,
    /// `struct ethtool_rxnfc`: what the receive queue of a kind of flow depends on.
    FlowHash = 0x29,
    /// `struct ethtool_gstrings`: the names in a set.
    Strings = 0x1b,
    /// `struct ethtool_gfeatures`: which features are available, requested and on.
    Features = 0x3a,
    /// `struct ethtool_sfeatures`: turns features on or off.
    SetFeatures = 0x3b,
    /// `struct ethtool_channels`: numbers of queues.
    Channels = 0x3c,
    /// `struct ethtool_stats`: the driver's own counters.
    Statistics = 0x1d,
    /// `struct ethtool_sset_info`: how many names a set has.
    SetSizes = 0x37,
}

/// From `linux/sockios.h`. Its type differs between C libraries.
const SIOCETHTOOL: libc::Ioctl = 0x8946;
/// Number of words for an answer of ethtool's ioctl.
const ETHTOOL_WORDS: usize = 8192;

/// Sends a command to an interface of this network namespace with ethtool's ioctl. Arguments and result are
/// the 32-bit words of the structure without the command, with which it begins.
///
/// # Errors
///
/// The kernel or the driver refuses, for example because the driver does not know the command.
///
/// # Panics
///
/// There are more arguments than any of the commands has.
pub(crate) fn ethtool(interface: &str, command: EthtoolCommand, arguments: &[u32]) -> io::Result<Vec<u32>> {
    ethtool_with_room(interface, command, arguments, ETHTOOL_WORDS)
}

/// The same as [`ethtool()`] with room for so many words of the answer, for commands whose answer is as long as the driver
/// likes: [`EthtoolCommand::SetSizes`] says how long.
///
/// # Errors
///
/// See [`ethtool()`].
///
/// # Panics
///
/// See [`ethtool()`].
pub(crate) fn ethtool_with_room(
    interface: &str,
    command: EthtoolCommand,
    arguments: &[u32],
    room: usize,
) -> io::Result<Vec<u32>> {
    let mut words = vec![0_u32; room.max(ETHTOOL_WORDS)];
    words[0] = command as u32;
    words[1..=arguments.len()].copy_from_slice(arguments);
    // SAFETY: a structure of integers and a pointer, for which zeros are values.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero and ends the name.
    let (_, name) = request.ifr_name.split_last_mut().expect("it has 16 bytes");
    if interface.len() > name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (to, from) in name.iter_mut().zip(interface.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    request.ifr_ifru.ifru_data = words.as_mut_ptr().cast();
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: both structures outlive the call. The kernel writes at most 196 bytes of driver information, 36
    // of channels, 192 of a flow's hash, as many blocks of features as `arguments` says, or 32 bytes for each
    // of its features. It has less than a hundred features, and the buffer has room for a thousand. Counters of a driver and their names are
    // asked for with twice the room that they took a moment ago.
    let status = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    if status < 0 {
        return Err(io::Error::last_os_error());
    }
    words.remove(0);
    Ok(words)
}
