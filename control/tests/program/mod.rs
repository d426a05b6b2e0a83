//! The eBPF program in the kernel, on pinned maps of its own and attached to nothing: frames are put to it
//! one by one, by `BPF_PROG_TEST_RUN`.
//!
//! Control writes to the maps, so that what the program reads is what a daemon would have written. All that
//! these tests know of the maps is in this file.
#![allow(dead_code, reason = "each test crate uses a part of this")]
#![allow(clippy::missing_panics_doc, reason = "a test that panics says what it has to say")]

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use aya::maps::PerCpuArray;
use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use control::instance::Instance;
use control::serving::xdp::{self, Datapath};
use responder::layout::{self, Count};
use responder::limiter::TABLE_ENTRIES;
use responder::verdict::{Action, COUNTERS};
use responder::{ClockState, ServedTable, message};

/// The longest frame that is put to the program. The kernel takes what fits into a page beside headroom and
/// tailroom.
pub(crate) const LONGEST: usize = 3000;

pub(crate) const SERVER_IPV4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 123);
pub(crate) const BROADCAST_IPV4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 255);
pub(crate) const SERVER_IPV6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x123);
pub(crate) const SERVER_MAC: [u8; 6] = [0x02, 0x5e, 0x6f, 0xe6, 0x00, 0x02];

/// The loaded program. Its maps are gone when this is dropped.
pub(crate) struct Program {
    object: Ebpf,
    instance: Instance,
}

impl Program {
    /// Makes an instance's maps and loads the program on them. The two halves may go to different threads:
    /// one publishes, the other puts frames to the program.
    pub(crate) fn load(name: &str) -> (Self, Datapath) {
        let instance = Instance::new(Some(&format!("test-{name}-{}", std::process::id()))).unwrap();
        let mut datapath = Datapath::open_or_create(&instance, *TABLE_ENTRIES.start()).unwrap();
        datapath.publish_served(&served()).unwrap();
        // Nothing is attached, so whatever is pinned is a map, under its name.
        let pins = fs::read_dir(instance.pin_directory()).unwrap().map(|pin| pin.unwrap());
        let maps: Vec<_> = pins.map(|pin| (pin.file_name().into_string().unwrap(), pin.path())).collect();
        let mut loader = EbpfLoader::new();
        loader.override_global(layout::INTERFACE_SLOT, &0_u32, true);
        for (name, path) in &maps {
            loader.map_pin_path(name, path);
        }
        // From here on dropping removes the pins.
        let mut program = Self { object: loader.load(xdp_ebpf::POOLTIME).unwrap(), instance };
        let xdp: &mut Xdp = program.object.program_mut(layout::PROGRAM).unwrap().try_into().unwrap();
        xdp.load().unwrap();
        (program, datapath)
    }

    /// Puts a frame to the program. The frame as the program leaves it takes the place of what is in `after`.
    pub(crate) fn run(&self, frame: &[u8], after: &mut Vec<u8>) -> Action {
        // Not zeros: what the kernel does not write must not look like padding.
        after.clear();
        after.extend_from_slice(&[0xa5; LONGEST + 1][..=frame.len()]);
        let xdp: &Xdp = self.object.program(layout::PROGRAM).unwrap().try_into().unwrap();
        let result = xdp
            .test_run(TestRunOptions {
                data_in: Some(frame),
                data_out: Some(after.as_mut_slice()),
                repeat: 1,
                ..TestRunOptions::default()
            })
            .unwrap();
        after.truncate(result.data_size_out as usize);
        // `enum xdp_action` of linux/bpf.h.
        match result.return_value {
            1 => Action::Drop,
            2 => Action::Pass,
            3 => Action::Transmit,
            other => panic!("the program returned {other}"),
        }
    }

    /// The program's counters, summed over the CPUs.
    pub(crate) fn counters(&self) -> Vec<Count> {
        let map = self.object.map(layout::COUNTERS).unwrap();
        // Packets and bytes, as `Count` has them.
        let counters: PerCpuArray<_, [[u64; 2]; COUNTERS]> = map.try_into().unwrap();
        let of_cpus = counters.get(&0, 0).unwrap();
        let sum = |index: usize, part: usize| of_cpus.iter().map(|counters| counters[index][part]).sum();
        (0..COUNTERS).map(|index| Count { packets: sum(index, 0), bytes: sum(index, 1) }).collect()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        xdp::remove_pins(&self.instance.pin_directory()).unwrap();
    }
}

/// Publishes a line of the clock, and waits until the program goes by it.
pub(crate) fn publish_clock(datapath: &mut Datapath, clock: &ClockState) {
    datapath.publish_clock(clock).unwrap();
    wait_for_flips(datapath);
}

/// Waits until the program goes by what was published, as the daemon's loop does.
pub(crate) fn wait_for_flips(datapath: &mut Datapath) {
    while let Some(due) = datapath.next_flip() {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        datapath.publish_waiting().unwrap();
    }
}

/// The addresses that the program answers for.
pub(crate) fn served() -> ServedTable {
    ServedTable::new(&[SERVER_IPV4.octets()], &[BROADCAST_IPV4.octets()], &[SERVER_IPV6.octets()]).unwrap()
}

/// A version 4 request over IPv4 from a documentation address, which is answered.
pub(crate) fn request(transmit: u64) -> Vec<u8> {
    let mut message = [0; message::LENGTH];
    message[0] = 4 << 3 | 3;
    message[40..].copy_from_slice(&transmit.to_be_bytes());
    let mut frame = Vec::new();
    etherparse::PacketBuilder::ethernet2([0x02, 0xc1, 0x1e, 0x27, 0x00, 0x01], SERVER_MAC)
        .ipv4([198, 51, 100, 7], SERVER_IPV4.octets(), 64)
        .udp(40_123, 123)
        .write(&mut frame, &message)
        .unwrap();
    frame
}

/// The message of the answer to such a request.
pub(crate) fn message_of(frame: &[u8]) -> &[u8; message::LENGTH] {
    const HEADERS: usize = 14 + 20 + 8;
    frame[HEADERS..].try_into().expect("as long as the request")
}

/// A 64-bit field of a message.
pub(crate) fn double(message: &[u8; message::LENGTH], offset: usize) -> u64 {
    u64::from_be_bytes(std::array::from_fn(|index| message[offset + index]))
}

/// A 32-bit field of a message.
pub(crate) fn word(message: &[u8; message::LENGTH], offset: usize) -> u32 {
    u32::from_be_bytes(std::array::from_fn(|index| message[offset + index]))
}
