//! The eBPF program in the kernel, with pinned maps of its own and without an interface. `BPF_PROG_TEST_RUN` runs it
//! on single frames.
//!
//! The library of `control` writes the maps, so the program reads what a daemon would have written.

use std::fs;
use std::time::Instant;

use aya::maps::{Array, MapData, PerCpuArray};
use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use control::instance::Instance;
use control::net::interfaces::{Driver, Framing, Interface};
use control::serving::xdp::{self, Datapath};
use responder::ClockState;
use responder::layout::{self, Count};
use responder::limiter::{TABLE_ENTRIES, WAYS};
use responder::verdict::{Action, COUNTERS};
use testinput::frames::{Message, Request, message, served, stations};

/// The longest frame in bytes that the program is run on in one buffer. The kernel takes what fits into a page beside
/// headroom and tailroom.
pub const LONGEST: usize = 3000;
/// The same in several buffers: of jumbo frames.
pub const LONGEST_IN_FRAGMENTS: usize = 9014;
/// Bytes of such a frame in its first buffer: a page without headroom, and without tailroom for a `skb_shared_info` in
/// whole cache lines (`bpf_prog_test_run_xdp` of `net/bpf/test_run.c`).
pub const FIRST_BUFFER: usize = 4096 - 256 - 320;

/// The interface that the program is on as far as the maps know.
const INTERFACE: Interface = Interface {
    index: 1,
    name: String::new(),
    other_names: Vec::new(),
    framing: Framing::Ethernet,
    up: true,
    carrier: true,
    carrier_losses: 0,
    mtu: 1500,
    is_bond: false,
    xdp: None,
    driver: Driver {
        receive_queues: 1,
        transmit_queues: 1,
        receive_dropped: 0,
        receive_missed: 0,
        transmit_dropped: 0,
    },
};

/// The loaded program. Its maps are removed when this is dropped.
pub struct Program {
    object: Ebpf,
    name: &'static str,
    instance: Instance,
}

impl Program {
    /// Creates the maps of an instance and loads the program on them. It answers for the addresses of [`served`] at
    /// the [`stations`]. The
    /// two halves may go to different threads: one publishes, the other runs the program.
    pub fn load(name: &str) -> (Self, Datapath) {
        Self::load_variant(name, layout::PROGRAM)
    }

    /// The same with the program of this name in the object.
    pub fn load_variant(name: &str, program: &'static str) -> (Self, Datapath) {
        let instance = Instance::new(Some(&format!("test-{name}-{}", std::process::id()))).unwrap();
        let mut datapath = Datapath::open_or_create(&instance, *TABLE_ENTRIES.start()).unwrap();
        datapath.publish_served(&served()).unwrap();
        datapath.publish_stations([(INTERFACE.index, stations())].into()).unwrap();
        // The first slot, which the program has below.
        datapath.take_slot(&INTERFACE).unwrap();
        // Nothing is attached, so whatever is pinned is a map, under its name.
        let pins = fs::read_dir(instance.pin_directory()).unwrap().map(|pin| pin.unwrap());
        let maps: Vec<_> = pins.map(|pin| (pin.file_name().into_string().unwrap(), pin.path())).collect();
        let mut loader = EbpfLoader::new();
        loader.override_global(layout::INTERFACE_SLOT, &0_u32, true);
        for (name, path) in &maps {
            loader.map_pin_path(name, path);
        }
        // From here on dropping removes the pins.
        let mut program = Self { object: loader.load(xdp_ebpf::POOLTIME).unwrap(), name: program, instance };
        let xdp: &mut Xdp = program.object.program_mut(program.name).unwrap().try_into().unwrap();
        xdp.load().unwrap();
        (program, datapath)
    }

    /// Runs the program on a frame. `after` receives the frame as the program leaves it.
    pub fn run(&self, frame: &[u8], after: &mut Vec<u8>) -> Action {
        // Not zeros: what the kernel does not write must not look like padding.
        after.clear();
        after.extend_from_slice(&[0xa5; LONGEST_IN_FRAGMENTS + 1][..=frame.len()]);
        let xdp: &Xdp = self.object.program(self.name).unwrap().try_into().unwrap();
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

    /// The words of a set of the limiter's buckets.
    pub fn set(&self, number: u32) -> [u64; WAYS] {
        self.sets_map().get(&number, 0).unwrap()
    }

    /// The words of all sets.
    pub fn sets(&self) -> Vec<[u64; WAYS]> {
        self.sets_map().iter().map(|set| set.unwrap()).collect()
    }

    fn sets_map(&self) -> Array<&MapData, [u64; WAYS]> {
        self.object.map(layout::BUCKETS).unwrap().try_into().unwrap()
    }

    /// The words of all sets of known sources, and of tries.
    pub fn known(&self) -> [Vec<[u64; WAYS]>; 2] {
        [layout::KNOWN, layout::TRIES].map(|name| {
            let map: Array<_, [u64; WAYS]> = self.object.map(name).unwrap().try_into().unwrap();
            map.iter().map(|set| set.unwrap()).collect()
        })
    }

    /// The words of a set of known sources.
    pub fn known_set(&self, number: u32) -> [u64; WAYS] {
        let map: Array<_, [u64; WAYS]> = self.object.map(layout::KNOWN).unwrap().try_into().unwrap();
        map.get(&number, 0).unwrap()
    }

    /// Empties all buckets of sources.
    pub fn forget_buckets(&mut self) {
        let map = self.object.map_mut(layout::BUCKETS).unwrap();
        let mut map: Array<_, [u64; WAYS]> = map.try_into().unwrap();
        for number in 0..map.len() {
            map.set(number, [0; WAYS], 0).unwrap();
        }
    }

    /// Writes a set of known sources.
    pub fn set_known(&mut self, number: u32, words: [u64; WAYS]) {
        let mut map: Array<_, [u64; WAYS]> = self.object.map_mut(layout::KNOWN).unwrap().try_into().unwrap();
        map.set(number, words, 0).unwrap();
    }

    /// The program's counters, summed over the CPUs.
    pub fn counters(&self) -> Vec<Count> {
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

/// Publishes a line of the clock and waits until the program uses it.
pub fn publish_clock(datapath: &mut Datapath, clock: &ClockState) {
    datapath.publish_clock(clock).unwrap();
    wait_for_flips(datapath);
}

/// Waits until the program uses everything that was published. The daemon's loop does the same.
pub fn wait_for_flips(datapath: &mut Datapath) {
    while let Some(due) = datapath.next_flip() {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        datapath.publish_waiting().unwrap();
    }
}

/// The frame of a request of version 4 over IPv4, with this transmit timestamp, that is answered.
pub fn request_frame(transmit: u64) -> Vec<u8> {
    Request { payload: message(4, 3, transmit).to_vec(), ..Request::ipv4() }.build()
}

/// The message in the frame of the answer to a [`request_frame`].
#[track_caller]
pub fn message_in(frame: &[u8]) -> Message {
    const HEADERS: usize = 14 + 20 + 8;
    Message::read(&frame[HEADERS..])
}
