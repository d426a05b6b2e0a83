//! The load test in the kernel. One program makes requests out of the frames that `BPF_PROG_TEST_RUN` sends
//! around. The other takes the answers where they come in, whatever sent the requests, and checks every one.
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![allow(internal_features, reason = "the target has atomic instructions, but no fetch_or in core")]

mod object;

use core::intrinsics::{AtomicOrdering, atomic_or};

use aya_ebpf::bindings::xdp_action::{XDP_ABORTED, XDP_DROP, XDP_PASS};
use aya_ebpf::btf_maps::{Array, PerCpuArray};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::helpers::generated::bpf_redirect;
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;
use bench_ebpf::load_token::{
    self, AnswerClass, BUCKETS, DATAGRAM, Fault, INTERVALS, IPV4_MESSAGE, IPV6_MESSAGE, Key, MAX_EXTENSION,
    MAX_REQUESTS, MESSAGE, MIX, Plan, Request, Token, WINDOWS, count,
};
use responder::Packet as _;
use responder::checksum::Sum;
use xdp_ebpf::Frame;

#[btf_map]
static GN_PLAN: Array<Plan, 1> = Array::new();

/// Table of versions, each in its share of the entries.
#[btf_map]
static GN_MIX: Array<u8, MIX> = Array::new();

/// Intervals between independent requests, as fractions of their mean.
#[btf_map]
static GN_INTERVALS: Array<u32, INTERVALS> = Array::new();

/// State of the generator on each CPU: how many requests have been due, its index among the generators, and
/// when its next request is due if requests are not evenly spaced.
#[btf_map]
static GN_WORKER: PerCpuArray<[u64; 3], 1> = PerCpuArray::new();

#[btf_map]
static GN_COUNTS: PerCpuArray<[u64; count::COUNTS], 1> = PerCpuArray::new();

/// Histograms: entry 0 has round trips, entry 1 residence times.
#[btf_map]
static GN_TIMES: PerCpuArray<[u64; BUCKETS], 2> = PerCpuArray::new();

/// Counts for each window of time in which requests were sent: entry 0 has requests sent, entry 1 those
/// answered right.
#[btf_map]
static GN_WINDOWS: PerCpuArray<[u64; WINDOWS], 2> = PerCpuArray::new();

/// A bit for each request, set when something has come back to it. The loader makes the array as long as
/// needed.
#[btf_map]
static GN_SEEN: Array<u64, 1> = Array::new();

const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];
const UDP: u8 = 17;

/// Makes the frame the next request if one is due and sends it; drops the frame if none is due.
#[xdp]
fn generate(context: XdpContext) -> u32 {
    let (Some(plan), Some(worker), Some(counts)) =
        (GN_PLAN.get(0), GN_WORKER.get_ptr_mut(0), GN_COUNTS.get_ptr_mut(0))
    else {
        return XDP_ABORTED;
    };
    // SAFETY: values of this CPU, on which one generator runs.
    let (worker, counts) = unsafe { (&mut *worker, &mut *counts) };
    let [mut made, index, next] = *worker;
    let now_ns = monotonic_ns().wrapping_sub(plan.start_ns);
    let even = plan.poisson == 0 && plan.spike.extra == 0;
    let mut due_ns = if even { made.wrapping_mul(plan.interval) >> 16 } else { next >> 16 };
    // Before the start the difference is a huge number.
    if now_ns < due_ns || now_ns >= plan.duration_ns {
        return XDP_DROP;
    }
    // If the generator was without the CPU for a while, sending all overdue requests would be a burst that no
    // client sends, and its losses would be blamed on the server.
    if now_ns - due_ns > plan.late_ns {
        let interval = plan.interval * 256 / plan.spike.factor(due_ns).max(1);
        let skipped = ((now_ns - due_ns) << 16) / (interval | u64::from(interval == 0));
        counts[count::SKIPPED] += skipped;
        made = made.wrapping_add(skipped);
        due_ns = now_ns;
    }
    let sequence = made.wrapping_mul(plan.generators).wrapping_add(index);
    if sequence >= MAX_REQUESTS {
        return XDP_DROP;
    }
    let Some(version) = GN_MIX.get(load_token::mix_index(sequence) as u32) else {
        return XDP_ABORTED;
    };
    let request = Request::new(plan, Token { sequence, sent_ns: now_ns }, *version);
    if request.write_to(&mut Frame::new(&context), plan).is_none() {
        return XDP_ABORTED;
    }
    worker[0] = made.wrapping_add(1);
    if !even {
        let drawn = GN_INTERVALS.get(interval_index(plan.key, made)).copied().unwrap_or(1 << 16);
        let part = if plan.poisson == 0 { 1 << 16 } else { u64::from(drawn) };
        let interval = (plan.interval.wrapping_mul(part) >> 8) / plan.spike.factor(due_ns).max(1);
        // The fraction of a nanosecond is kept, or else the rate would be a little too high.
        let from = if next >> 16 == due_ns { next } else { due_ns << 16 };
        worker[2] = from.wrapping_add(interval);
    }
    if request.is_malformed() {
        counts[count::MALFORMED] += 1;
    } else {
        counts[count::SENT] += 1;
        count_in(&GN_WINDOWS, 0, load_token::window(now_ns, plan.window_shift));
    }
    // SAFETY: the helper takes plain numbers.
    unsafe { bpf_redirect(plan.interface as u32, 0).cast_unsigned() as u32 }
}

/// Picks an entry of the table of intervals, another one each time.
#[inline(always)]
fn interval_index(key: u64, made: u64) -> u32 {
    (Key(key).seal(Token { sequence: made, sent_ns: 0 }) >> 52) as u32
}

/// Takes and checks answers; all other frames pass.
#[xdp]
fn collect(context: XdpContext) -> u32 {
    let frame = Frame::new(&context);
    let (Some(ethernet), Some(plan)) = (frame.bytes::<14>(0), GN_PLAN.get(0)) else {
        return XDP_PASS;
    };
    match [ethernet[12], ethernet[13]] {
        IPV4 => match frame.bytes::<IPV4_MESSAGE>(0) {
            Some(headers) if headers[14] == 0x45 && headers[23] == UDP => {
                let ip = Sum::ZERO
                    .word(part(headers, 14))
                    .word(part(headers, 18))
                    .word(part(headers, 22))
                    .word(part(headers, 26))
                    .word(part(headers, 30));
                let addresses = Sum::ZERO.word(part(headers, 26)).word(part(headers, 30));
                let udp = part(headers, 34);
                take::<IPV4_MESSAGE>(&frame, plan, udp, addresses, ip.fold() == [0xff, 0xff])
            }
            _ => XDP_PASS,
        },
        IPV6 => match frame.bytes::<IPV6_MESSAGE>(0) {
            Some(headers) if headers[20] == UDP => {
                let addresses = Sum::ZERO
                    .double(part(headers, 22))
                    .double(part(headers, 30))
                    .double(part(headers, 38))
                    .double(part(headers, 46));
                take::<IPV6_MESSAGE>(&frame, plan, part(headers, 54), addresses, true)
            }
            _ => XDP_PASS,
        },
        _ => XDP_PASS,
    }
}

/// Takes a frame if it is an answer from the server's port to one of ours.
#[inline(always)]
fn take<const START: usize>(frame: &Frame, plan: &Plan, udp: [u8; 8], addresses: Sum, header: bool) -> u32 {
    let [source, destination, length, checksum] =
        [[udp[0], udp[1]], [udp[2], udp[3]], [udp[4], udp[5]], [udp[6], udp[7]]].map(u16::from_be_bytes);
    let malformation = plan.malformation_at(destination);
    if u64::from(source) != plan.port || !(malformation.is_some() || plan.has_source(destination)) {
        return XDP_PASS;
    }
    let Some(counts) = GN_COUNTS.get_ptr_mut(0) else {
        return XDP_ABORTED;
    };
    // SAFETY: the value belongs to this CPU. Softirq does not interrupt itself, nor does it interrupt the
    // generator, which runs with softirq held off.
    let counts = unsafe { &mut *counts };
    if let Some(malformation) = malformation {
        counts[(count::FAULTS + Fault::ToShort as usize + malformation as usize) & (count::COUNTS - 1)] += 1;
        return XDP_DROP;
    }
    let Some(message) = frame.bytes::<MESSAGE>(START) else {
        counts[count::FAULTS + Fault::Short as usize] += 1;
        return XDP_DROP;
    };
    let pseudo = addresses.number(u16::from(UDP)).number(length);
    let words: [[u8; 8]; 6] = [
        part(message, 0),
        part(message, 8),
        part(message, 16),
        part(message, 24),
        part(message, 32),
        part(message, 40),
    ];
    let mut sum = words.into_iter().fold(pseudo.double(udp), Sum::double);
    let extension = length.wrapping_sub(DATAGRAM);
    if u64::from(extension) > plan.extension || extension & 3 != 0 {
        let fault = if length < DATAGRAM { Fault::Short } else { Fault::Longer };
        counts[count::FAULTS + fault as usize] += 1;
        return XDP_DROP;
    }
    for offset in (0..MAX_EXTENSION).step_by(4) {
        if offset >= extension {
            break;
        }
        let Some(word) = frame.bytes::<4>(START + MESSAGE + usize::from(offset)) else {
            counts[count::FAULTS + Fault::Short as usize] += 1;
            return XDP_DROP;
        };
        sum = sum.word(*word);
    }
    // A server on this machine may leave the checksum to a NIC that is not there. The field then has only the
    // sum of the pseudo header.
    let unfinished = checksum == u16::from_be_bytes(pseudo.fold());
    let right = checksum == 0 || unfinished || sum.fold() == [0xff, 0xff];
    if !header || !right {
        counts[count::FAULTS + Fault::Checksum as usize] += 1;
        return XDP_DROP;
    }
    check_answer(plan, counts, words.map(u64::from_ne_bytes));
    XDP_DROP
}

#[inline(always)]
fn check_answer(plan: &Plan, counts: &mut [u64; count::COUNTS], words: [u64; 6]) {
    let now_ns = monotonic_ns().wrapping_sub(plan.start_ns);
    let echo = plan.echo != 0;
    let token = Key(plan.key).open(u64::from_be(if echo { words[5] } else { words[3] }));
    // A request is never sent before it is due, nor later than now.
    let due_ns = if plan.poisson == 0 && plan.spike.extra == 0 {
        (token.sequence / (plan.generators | u64::from(plan.generators == 0))).wrapping_mul(plan.interval)
            >> 16
    } else {
        0
    };
    let bit = GN_SEEN.get_ptr_mut((token.sequence >> 6) as u32);
    // The token's time is rounded down by up to 15 ns.
    let (true, Some(word)) = (token.sent_ns + 15 >= due_ns && token.sent_ns <= now_ns, bit) else {
        counts[count::FAULTS + Fault::Origin as usize] += 1;
        return;
    };
    let round_trip_ns = now_ns - token.sent_ns;
    if round_trip_ns > plan.timeout_ns {
        counts[count::LATE] += 1;
        return;
    }
    let mask = 1_u64 << (token.sequence & 63);
    // SAFETY: an aligned map value. It is read and set in two steps: a duplicate answer that arrives on
    // another CPU within the same nanoseconds would be missed, but the bits that others set are not lost.
    let seen = unsafe { core::ptr::read_volatile(word) } & mask != 0;
    if seen {
        counts[count::DUPLICATES] += 1;
        return;
    }
    // SAFETY: as above.
    unsafe { atomic_or::<u64, u64, { AtomicOrdering::Relaxed }>(word, mask) };
    counts[count::MATCHED] += 1;
    if echo {
        answered(plan, counts, token, round_trip_ns);
        return;
    }

    let version = GN_MIX.get(load_token::mix_index(token.sequence) as u32).copied().unwrap_or(0);
    let sent = plan.ntp_start.wrapping_add(load_token::ntp_units(token.sent_ns));
    let received = plan.ntp_start.wrapping_add(load_token::ntp_units(now_ns));
    let window = (sent.wrapping_sub(plan.tolerance), received.wrapping_add(plan.tolerance));
    match load_token::classify(words, version, (plan.ntp_start != 0).then_some(window), plan.lenient != 0) {
        AnswerClass::Kiss => counts[count::KISSES] += 1,
        AnswerClass::Wrong(fault) => counts[(count::FAULTS + fault as usize) & (count::COUNTS - 1)] += 1,
        AnswerClass::Time { receive, transmit } => {
            answered(plan, counts, token, round_trip_ns);
            let ahead = receive.wrapping_sub(sent).wrapping_add(transmit.wrapping_sub(received));
            counts[count::OFFSETS] = counts[count::OFFSETS].wrapping_add(ahead);
            count_in(
                &GN_TIMES,
                1,
                load_token::bucket(load_token::nanoseconds(transmit.wrapping_sub(receive))),
            );
        }
    }
}

#[inline(always)]
fn answered(plan: &Plan, counts: &mut [u64; count::COUNTS], token: Token, round_trip_ns: u64) {
    counts[count::ANSWERED] += 1;
    count_in(&GN_TIMES, 0, load_token::bucket(round_trip_ns));
    count_in(&GN_WINDOWS, 1, load_token::window(token.sent_ns, plan.window_shift));
}

/// Adds one to a place in an entry. The number of places is a power of two.
#[inline(always)]
fn count_in<const N: usize>(map: &PerCpuArray<[u64; N], 2>, entry: u32, place: usize) {
    // SAFETY: a local value. The read is volatile because the compiler knows that the mask changes nothing
    // and would leave it out; the verifier does not know it and would refuse the index.
    let place = unsafe { core::ptr::read_volatile(&raw const place) } & (N - 1);
    if let Some(counts) = map.get_ptr_mut(entry) {
        // SAFETY: this CPU's value, and the index is below its length.
        unsafe { *counts.cast::<u64>().add(place) += 1 };
    }
}

#[inline(always)]
fn monotonic_ns() -> u64 {
    // SAFETY: the helper takes nothing.
    unsafe { bpf_ktime_get_ns() }
}

/// Returns the bytes at a constant offset.
#[inline(always)]
fn part<const W: usize>(bytes: &[u8], offset: usize) -> [u8; W] {
    match bytes.get(offset..) {
        Some(rest) => rest.first_chunk().copied().unwrap_or([0; W]),
        None => [0; W],
    }
}
