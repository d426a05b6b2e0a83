//! Which IPv4 /24s an access list has to be asked about: a bit for each, set where an entry is in it or around it.
//!
//! The kernel's trie takes a step for each bit in which entries differ, so that a hundred thousand of them would
//! double an answer's cost. Most clients are in a /24 of which the list says nothing: for those one bit is read.

use std::net::IpAddr;

use responder::access::{BLOCK_ENTRIES, BLOCK_WORDS, Block};

use crate::net::prefix::Prefix;

/// The bits, 2 MiB of them, as the map has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocks(Vec<[u64; BLOCK_WORDS]>);

impl Default for Blocks {
    fn default() -> Self {
        Self(vec![[0; BLOCK_WORDS]; BLOCK_ENTRIES])
    }
}

impl Blocks {
    /// Of a list with these entries; those of IPv6 are left out.
    pub(crate) fn of<'a>(prefixes: impl IntoIterator<Item = &'a Prefix>) -> Self {
        let mut blocks = Self::default();
        prefixes.into_iter().for_each(|prefix| blocks.set(*prefix, true));
        blocks
    }

    /// Sets or clears the bits of all /24s that the prefix is in, or that are in it.
    pub(crate) fn set(&mut self, prefix: Prefix, value: bool) {
        let IpAddr::V4(address) = prefix.address() else { return };
        let first = address.to_bits() >> 8;
        let number = 1_u32 << 24_u8.saturating_sub(prefix.length());
        for block in first..first.saturating_add(number) {
            let Block { entry, word, mask } = Block::of((block << 8).to_be_bytes());
            let bits = &mut self.0[entry as usize][word];
            *bits = if value { *bits | mask } else { *bits & !mask };
        }
    }

    /// The map's entries.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (u32, &[u64; BLOCK_WORDS])> {
        (0..).zip(&self.0)
    }

    /// One of them.
    pub(crate) fn words(&self, entry: u32) -> &[u64; BLOCK_WORDS] {
        &self.0[entry as usize]
    }

    pub(crate) fn words_mut(&mut self, entry: u32) -> &mut [u64; BLOCK_WORDS] {
        &mut self.0[entry as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has(blocks: &Blocks, address: [u8; 4]) -> bool {
        let Block { entry, word, mask } = Block::of(address);
        blocks.0[entry as usize][word] & mask != 0
    }

    #[test]
    fn every_address_of_every_entry_has_its_bit_and_few_others_have() {
        let prefixes: Vec<Prefix> =
            ["192.0.2.7/32", "198.51.0.0/16", "10.0.0.0/8", "203.0.113.128/25", "2001:db8::/32"]
                .map(|text| text.parse().unwrap())
                .into();
        let blocks = Blocks::of(&prefixes);
        for address in
            [[192, 0, 2, 7], [198, 51, 0, 0], [198, 51, 255, 255], [10, 255, 255, 255], [203, 0, 113, 200]]
        {
            assert!(has(&blocks, address), "{address:?}");
        }
        for address in [
            [192, 0, 3, 7],
            [198, 52, 0, 0],
            [198, 50, 255, 255],
            [11, 0, 0, 0],
            [9, 255, 255, 255],
            [32, 1, 13, 184],
        ] {
            assert!(!has(&blocks, address), "{address:?}");
        }
        let bits: u32 = blocks.0.iter().flatten().map(|word| word.count_ones()).sum();
        assert_eq!(bits, 1 + 256 + 65_536 + 1);
    }

    #[test]
    fn the_whole_of_ipv4_is_every_bit() {
        let blocks = Blocks::of(&["0.0.0.0/0".parse().unwrap()]);
        assert!(blocks.entries().all(|(_, words)| *words == [u64::MAX; BLOCK_WORDS]));
    }
}
