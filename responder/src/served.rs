//! The addresses that the server answers for, in a table with constant look-up cost.
//!
//! A host has few addresses, so the kernel's general hash map does not fit: it takes about 15 ns per
//! look-up, and an answer needs two. This table has 64 buckets of four, filled under a seed with which no
//! bucket overflows. Buckets are filled from their first place on. So most look-ups, of a host's only address
//! or of a stranger's, take one or two multiplications and a compare or two; none takes more than four
//! compares.

use crate::seed::first_that_fits;

const BUCKETS: usize = 64;
const WAYS: usize = 4;
/// The top six bits of a product choose the bucket.
const BUCKET_SHIFT: u32 = 58;
/// Largest number of addresses of a family: one seed in six fits so many. With more, finding one would take too long.
pub const CAPACITY: usize = 96;

const SERVED: u64 = 1 << 32;
const BROADCAST: u64 = 2 << 32;

/// The table as it is in the eBPF program's map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct ServedTable {
    seed: u64,
    /// Each entry has an address in the machine's byte order in the lower half and its kind in the upper; 0
    /// is free.
    ipv4: [[u64; WAYS]; BUCKETS],
    /// Each entry is an address; all zeros is free.
    ipv6: [[[u64; 2]; WAYS]; BUCKETS],
}

/// A family has more addresses than [`CAPACITY`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableFull;

impl Default for ServedTable {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl ServedTable {
    /// A table without addresses.
    pub const EMPTY: Self = Self { seed: 1, ipv4: [[0; WAYS]; BUCKETS], ipv6: [[[0; 2]; WAYS]; BUCKETS] };

    /// Makes a table of addresses to serve, and of broadcast addresses that cannot be a source.
    ///
    /// # Errors
    ///
    /// [`TableFull`] if a family has more than [`CAPACITY`] different addresses, including broadcast
    /// addresses.
    pub fn new(ipv4: &[[u8; 4]], broadcast: &[[u8; 4]], ipv6: &[[u8; 16]]) -> Result<Self, TableFull> {
        first_that_fits(|seed| Self::with_seed(seed, ipv4, broadcast, ipv6))
            .filter(Self::is_within_capacity)
            .ok_or(TableFull)
    }

    /// Checks the number of addresses in the table and not the number given, because interfaces may share an
    /// address.
    fn is_within_capacity(&self) -> bool {
        let ipv4 = self.ipv4.iter().flatten().filter(|entry| **entry != 0).count();
        let ipv6 = self.ipv6.iter().flatten().filter(|entry| **entry != [0; 2]).count();
        ipv4 <= CAPACITY && ipv6 <= CAPACITY
    }

    fn with_seed(seed: u64, ipv4: &[[u8; 4]], broadcast: &[[u8; 4]], ipv6: &[[u8; 16]]) -> Option<Self> {
        let mut table = Self { seed, ..Self::EMPTY };
        for (addresses, kind) in [(ipv4, SERVED), (broadcast, BROADCAST)] {
            for address in addresses.iter().copied().filter(|address| *address != [0; 4]) {
                if table.owns_ipv4(address) {
                    continue;
                }
                let bucket = table.ipv4.get_mut(ipv4_bucket(seed, address))?;
                *bucket.iter_mut().find(|entry| **entry == 0)? =
                    kind | u64::from(u32::from_ne_bytes(address));
            }
        }
        for address in ipv6.iter().copied().filter(|address| *address != [0; 16]) {
            if table.serves_ipv6(address) {
                continue;
            }
            let words = halves(address);
            let bucket = table.ipv6.get_mut(ipv6_bucket(seed, words))?;
            *bucket.iter_mut().find(|entry| **entry == [0; 2])? = words;
        }
        Some(table)
    }

    /// Returns whether requests to this address are answered.
    #[must_use]
    #[inline(always)]
    pub fn serves_ipv4(&self, address: [u8; 4]) -> bool {
        let wanted = SERVED | u64::from(u32::from_ne_bytes(address));
        let [a, b, c, d] = self.ipv4_candidates(address);
        a == wanted || a != 0 && (b == wanted || c == wanted || d == wanted)
    }

    /// Returns whether this is an address of ours, served or broadcast, and therefore never a client's.
    #[must_use]
    #[inline(always)]
    pub fn owns_ipv4(&self, address: [u8; 4]) -> bool {
        let wanted = u64::from(u32::from_ne_bytes(address));
        let [a, b, c, d] = self.ipv4_candidates(address);
        let is = |entry: u64| entry & 0xffff_ffff == wanted;
        a != 0 && (is(a) || is(b) || is(c) || is(d))
    }

    #[inline(always)]
    fn ipv4_candidates(&self, address: [u8; 4]) -> [u64; WAYS] {
        self.ipv4.get(ipv4_bucket(self.seed, address)).copied().unwrap_or_default()
    }

    /// Returns whether requests to this address are answered.
    #[must_use]
    #[inline(always)]
    pub fn serves_ipv6(&self, address: [u8; 16]) -> bool {
        let wanted = halves(address);
        let [a, b, c, d] = self.ipv6.get(ipv6_bucket(self.seed, wanted)).copied().unwrap_or_default();
        // The unspecified address would match a free place.
        a != [0; 2] && (a == wanted || wanted != [0; 2] && (b == wanted || c == wanted || d == wanted))
    }

    /// Returns whether this is an address of ours, and therefore never a client's.
    #[must_use]
    #[inline(always)]
    pub fn owns_ipv6(&self, address: [u8; 16]) -> bool {
        self.serves_ipv6(address)
    }
}

#[inline(always)]
fn ipv4_bucket(seed: u64, address: [u8; 4]) -> usize {
    (u64::from(u32::from_ne_bytes(address)).wrapping_mul(seed) >> BUCKET_SHIFT) as usize
}

#[inline(always)]
fn ipv6_bucket(seed: u64, [network, host]: [u64; 2]) -> usize {
    ((network.wrapping_mul(seed) ^ host).wrapping_mul(seed) >> BUCKET_SHIFT) as usize
}

#[inline(always)]
fn halves(address: [u8; 16]) -> [u64; 2] {
    [
        u64::from_ne_bytes(crate::packet::load(&address, 0)),
        u64::from_ne_bytes(crate::packet::load(&address, 8)),
    ]
}

/// Returns whether a packet from this address may be a client's: not "this network" (RFC 6890), loopback,
/// multicast, reserved or the limited broadcast.
#[must_use]
#[inline(always)]
pub fn is_plausible_ipv4([first, ..]: [u8; 4]) -> bool {
    first != 0 && first != 127 && first < 224
}

/// Returns whether a packet from this address may be a client's: not multicast, and not in `::/64`, where the
/// unspecified, the loopback and the IPv4-mapped addresses are.
#[must_use]
#[inline(always)]
pub fn is_plausible_ipv6(address: [u8; 16]) -> bool {
    let [network, _] = halves(address);
    network.to_be() >> 56 != 0xff && network != 0
}
