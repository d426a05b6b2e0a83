//! The NTP server in the NIC path: `responder::respond` between a frame and the maps.
#![no_std]
#![no_main]

mod object;

use aya_ebpf::bindings::BPF_RB_NO_WAKEUP;
use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX};
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::btf_maps::{Array, LpmTrie, PerCpuArray, RingBuf};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;
use responder::access::{BLOCK_ENTRIES, BLOCK_WORDS, Block};
use responder::admission::Client;
use responder::bucket::Ruling;
use responder::budget::{Allowance, Cost};
use responder::known;
use responder::layout::{Counters, Grant, INTERFACES, LIST_ENTRIES, SAMPLES_BYTES, Spent, State};
use responder::limiter::{Buckets, TABLE_ENTRIES, WAYS};
use responder::sample::Sample;
use responder::verdict::{self, Action, Family, Outcome, Verdict};
use responder::{Access, ClockState, Packet as _, Policy, Published, ServedTable, Server, StationTable};
use xdp_ebpf::{Frame, Word};

#[btf_map]
static PT_STATE: Array<State, 1> = Array::new();

#[btf_map]
static PT_COUNTERS: PerCpuArray<Counters, INTERFACES> = PerCpuArray::new();

/// The loader makes it larger.
#[btf_map]
static PT_BUCKETS: Array<[u64; WAYS], { *TABLE_ENTRIES.start() as usize / WAYS }> = Array::new();

#[btf_map]
static PT_KNOWN: Array<[u64; WAYS], { known::SETS as usize }> = Array::new();

#[btf_map]
static PT_TRIES: Array<[u64; WAYS], { known::SETS as usize }> = Array::new();

#[btf_map]
static PT_SPENT: PerCpuArray<Spent, 1> = PerCpuArray::new();

#[btf_map]
static PT_GRANTS: PerCpuArray<Grant, 1> = PerCpuArray::new();

#[btf_map]
static PT_SAMPLES: RingBuf<Sample, SAMPLES_BYTES> = RingBuf::new();

#[btf_map]
static PT_BLOCKS_IPV4: Array<[u64; BLOCK_WORDS], BLOCK_ENTRIES> = Array::new();

#[btf_map]
static PT_LIST_IPV4: LpmTrie<[u8; 4], u32, LIST_ENTRIES> = LpmTrie::new();

#[btf_map]
static PT_LIST_IPV6: LpmTrie<[u8; 16], u32, LIST_ENTRIES> = LpmTrie::new();

/// The entry of the counters under which this instance counts, and of the stations that it goes by. The loader sets it.
#[unsafe(no_mangle)]
static INTERFACE_SLOT: u32 = 0;

/// The entry point: see [`responder::respond`].
#[xdp]
fn pooltime_xdp(context: XdpContext) -> u32 {
    respond(&context)
}

/// The same for drivers that spread a large frame over several buffers. All that is looked at is in the first.
#[xdp(frags)]
fn pooltime_frags(context: XdpContext) -> u32 {
    respond(&context)
}

#[inline(always)]
fn respond(context: &XdpContext) -> u32 {
    let mut frame = Frame::new(context);
    let outcome = responder::respond(&mut frame, &Host);
    if outcome.verdict != Verdict::NotNtp {
        count(outcome, frame.length());
    }
    match outcome.verdict.action() {
        Action::Transmit => XDP_TX,
        Action::Pass => XDP_PASS,
        Action::Drop => XDP_DROP,
    }
}

/// Decides about a request: see [`Client::settle`]. The arguments are [`Client::to_words`], the moment, and
/// [`Ruling::to_word`], with a bit for whether the source has a limit; the result is a [`Verdict`].
///
/// It is a global function, which the verifier follows once by itself, for all arguments. Within the program it would
/// follow it again for each way on which a request can come to it. The call costs an answer some nanoseconds: what most
/// requests need is not in here.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn pooltime_settle(source: u64, transmit: u64, detail: u64, now_ns: u64, ruling: u64) -> u64 {
    let client = Client::from_words([source, transmit, detail]);
    let Some(state) = PT_STATE.get(0) else {
        return Verdict::DropLimited as u64;
    };
    let is_limited = detail >> Client::DETAIL_BITS != 0;
    let hash = if is_limited { state.policy.hash(source) } else { u64::MAX };
    client.settle(&Host, &state.policy, Ruling::from_word(ruling, hash), now_ns) as u64
}

/// The host, for `responder`.
struct Host;

/// What control publishes, in the map.
struct Map(&'static State);

impl Server for Host {
    type Published<'a> = Map;

    #[inline(always)]
    fn published(&self) -> Option<Map> {
        PT_STATE.get(0).map(Map)
    }

    #[inline(always)]
    fn interface(&self) -> u32 {
        interface_slot()
    }
}

impl responder::Host for Host {
    #[inline(always)]
    fn received_ns(&self) -> u64 {
        // SAFETY: the helper takes nothing and is allowed in XDP programs.
        unsafe { bpf_ktime_get_ns() }
    }

    #[inline(always)]
    fn settle(&self, client: &Client, _policy: &Policy, ruling: Ruling, now_ns: u64) -> Verdict {
        let [source, transmit, detail] = client.to_words();
        let detail = detail | u64::from(ruling.is_limited()) << Client::DETAIL_BITS;
        let verdict = pooltime_settle(source, transmit, detail, now_ns, ruling.to_word());
        Verdict::of_admission(verdict as u8)
    }

    #[inline(always)]
    fn access_ipv4(&self, source: [u8; 4]) -> Access {
        let Block { entry, word, mask } = Block::of(source);
        let Some(words) = PT_BLOCKS_IPV4.get_ptr(entry) else {
            return Access::Ordinary;
        };
        // SAFETY: the index is below the number of words. Volatile, because control writes them at any time.
        let bits = unsafe { core::ptr::read_volatile(words.cast::<u64>().add(word & (BLOCK_WORDS - 1))) };
        if bits & mask == 0 {
            return Access::Ordinary;
        }
        access(PT_LIST_IPV4.get(&AlignedKey::new(32, source).key))
    }

    #[inline(always)]
    fn access_ipv6(&self, source: [u8; 16]) -> Access {
        access(PT_LIST_IPV6.get(&AlignedKey::new(128, source).key))
    }
}

/// A key whose address is aligned: the stack, other than packets, is written to at natural alignment alone.
#[repr(C, align(8))]
struct AlignedKey<A> {
    padding: u32,
    key: Key<A>,
}

impl<A> AlignedKey<A> {
    #[inline(always)]
    const fn new(length: u32, address: A) -> Self {
        Self { padding: 0, key: Key::new(length, address) }
    }
}

#[inline(always)]
fn access(entry: Option<&u32>) -> Access {
    entry.map_or(Access::Ordinary, |value| Access::from_u32(*value))
}

impl Buckets for Host {
    type Bucket = Word;

    #[inline(always)]
    fn set(&self, number: u32) -> Option<&[Word; WAYS]> {
        // SAFETY: a map value, aligned to eight bytes, that is never freed while the program is loaded; a
        // `Word` has the layout of a `u64`.
        PT_BUCKETS.get_ptr_mut(number).map(|set| unsafe { &*set.cast::<[Word; WAYS]>() })
    }

    #[inline(always)]
    fn known(&self, number: u32) -> Option<&[Word; WAYS]> {
        // SAFETY: as above.
        PT_KNOWN.get_ptr_mut(number).map(|set| unsafe { &*set.cast::<[Word; WAYS]>() })
    }

    #[inline(always)]
    fn tries(&self, number: u32) -> Option<&[Word; WAYS]> {
        // SAFETY: as above.
        PT_TRIES.get_ptr_mut(number).map(|set| unsafe { &*set.cast::<[Word; WAYS]>() })
    }

    #[inline(always)]
    fn kisses(&self) -> Option<&Word> {
        // SAFETY: the first field of the map's value; otherwise as above.
        PT_SPENT.get_ptr_mut(0).map(|spent| unsafe { &*(&raw mut (*spent).kisses).cast::<Word>() })
    }

    #[inline(always)]
    fn allowance(&self) -> Option<Allowance<'_, Word>> {
        let (grant, spent) = (PT_GRANTS.get_ptr(0)?, PT_SPENT.get_ptr_mut(0)?);
        // SAFETY: fields of map values of this CPU. Control writes the cost at any time, each word as a whole.
        let (answer, byte, bucket) = unsafe {
            (
                core::ptr::read_volatile(&raw const (*grant).cost.answer),
                core::ptr::read_volatile(&raw const (*grant).cost.byte),
                &*(&raw mut (*spent).answers).cast::<Word>(),
            )
        };
        let cost = Cost { answer, byte };
        (cost != Cost::NOTHING).then_some(Allowance { cost, bucket })
    }

    #[inline(always)]
    fn report(&self, sample: Sample) {
        let (Some(grant), Some(spent)) = (PT_GRANTS.get_ptr(0), PT_SPENT.get_ptr_mut(0)) else {
            return;
        };
        // SAFETY: fields of map values of this CPU; control writes the grant at any time, as a whole.
        let (granted, samples) =
            unsafe { (core::ptr::read_volatile(&raw const (*grant).samples), &mut (*spent).samples) };
        if *samples >= granted {
            return;
        }
        *samples = samples.wrapping_add(1);
        // The daemon looks by itself. What finds no room is lost.
        let _lost = PT_SAMPLES.output(sample, BPF_RB_NO_WAKEUP.into());
    }
}

impl Published for Map {
    #[inline(always)]
    fn served(&self) -> &ServedTable {
        let [first, second] = &self.0.tables;
        if self.0.head.served & 1 == 0 { first } else { second }
    }

    #[inline(always)]
    fn stations(&self) -> &StationTable {
        // The bound is for the verifier: the loader sets no slot beyond it.
        &self.0.stations[interface_slot() as usize & (INTERFACES - 1)]
    }

    #[inline(always)]
    fn clock(&self) -> Option<ClockState> {
        let [first, second] = &self.0.head.clocks;
        let slot = if self.0.head.clock & 1 == 0 { first } else { second };
        let word = |index: usize| {
            // SAFETY: the slot has WORDS words and `index` is below that. Volatile, because control writes
            // to the map while programs run: the sequence number has to be read twice.
            unsafe { core::ptr::read_volatile(slot.as_ptr().add(index)) }
        };
        let sequence = word(7);
        let words = [word(0), word(1), word(2), word(3), word(4), word(5), word(6), word(7)];
        (words[7] == sequence).then(|| ClockState::from_words(words))
    }

    #[inline(always)]
    fn port_ours_until_ns(&self, family: Family) -> u64 {
        let [ipv4, ipv6] = &self.0.port_ours_until_ns;
        let until = match family {
            Family::Ipv4 => ipv4,
            Family::Ipv6 => ipv6,
        };
        // SAFETY: a word of the map's value. Volatile, because control writes it at any time, as a whole.
        unsafe { core::ptr::read_volatile(until) }
    }

    #[inline(always)]
    fn policy(&self) -> &Policy {
        &self.0.policy
    }
}

/// The entry of this instance's interface.
#[inline(always)]
fn interface_slot() -> u32 {
    // SAFETY: a static of the object; volatile, because the loader changes it after the compiler has seen it.
    unsafe { core::ptr::read_volatile(&raw const INTERFACE_SLOT) }
}

#[inline(always)]
fn count(outcome: Outcome, bytes: usize) {
    if let Some(counters) = PT_COUNTERS.get_ptr_mut(interface_slot()) {
        let counter = outcome.counter();
        // SAFETY: a local value. Volatile, because the compiler knows that the mask changes nothing and would leave
        // it out, and the verifier of Linux 6.1 does not follow the bounds of an OR of two unknown numbers.
        let counter = unsafe { core::ptr::read_volatile(&raw const counter) } & (verdict::COUNTERS - 1);
        // SAFETY: the entry is this CPU's, and softirq does not interrupt itself; the index is below the
        // length of the array.
        let count = unsafe { &mut *counters.cast::<responder::layout::Count>().add(counter) };
        count.packets = count.packets.wrapping_add(1);
        count.bytes = count.bytes.wrapping_add(bytes as u64);
    }
}
