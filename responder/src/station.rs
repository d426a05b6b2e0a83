//! The stations that the host is on an Ethernet: at which MAC addresses, in which VLANs, it receives frames.
//!
//! A frame that comes in need not be for this host. Switches flood, an interface in promiscuous mode receives what is
//! its neighbours', and the backup port of a bond what the active one receives too. Whoever answers such a frame does
//! so from another station's MAC address, and the switches believe from then on that this station is here.
//!
//! The table is one of constant look-up cost like that of the served addresses, one for each interface. It is written
//! while it is read. A reader that meets it half-written finds a station or not, by a row and a seed each of which is
//! as good as another: what is not found is passed on, and the kernel decides.

use crate::packet::load;
use crate::seed::first_that_fits;

const BUCKETS: usize = 64;
const WAYS: usize = 4;
/// The top six bits of a product choose the bucket.
const BUCKET_SHIFT: u32 = 58;
/// Largest number of stations on an interface: one seed in six fits so many.
pub const CAPACITY: usize = 96;

/// Bit of a tag's code: the tag is one of IEEE 802.1ad.
const SERVICE: u16 = 1 << 12;
/// The bits of a tag's control information that are the VLAN ID.
const ID: u16 = SERVICE - 1;
/// The bits of a tag's code.
const CODE: u32 = (SERVICE | ID) as u32;
/// Bit of [`Tags`] that is always set, so that no station is all zeros.
const USED: u32 = 1 << 14;
/// Bit of [`Tags`]: there is a second tag.
const SECOND: u32 = 1 << 15;

/// The VLAN tags of a frame, two at most. The priority of a tag makes no difference, nor does a tag with the VLAN ID 0,
/// which has nothing but a priority (IEEE 802.1Q, "priority-tagged").
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tags(
    /// In the lower half the code of the outer tag, which is the VLAN ID and [`SERVICE`], with [`USED`] and [`SECOND`];
    /// in the upper half the code of the inner tag. A code of 0 is no tag.
    u32,
);

impl Tags {
    /// No tag.
    pub const NONE: Self = Self(USED);

    /// Adds a tag within those that are there: its control information, and whether it is one of IEEE 802.1ad. There
    /// is room for two.
    #[must_use]
    #[inline(always)]
    pub const fn with(self, control: u16, is_service: bool) -> Self {
        let id = control & ID;
        if id == 0 {
            return self;
        }
        let code = (if is_service { id | SERVICE } else { id }) as u32;
        Self(if self.0 & CODE == 0 { self.0 | code } else { self.0 & 0xffff | SECOND | code << 16 })
    }
}

impl Tags {
    /// Returns the tags as a number.
    #[must_use]
    #[inline(always)]
    pub const fn bits(self) -> u32 {
        self.0
    }
}

/// A MAC address in a VLAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Station(
    /// The address above the lower half of the tags, and the upper half of the tags. The second word is 0 unless the
    /// first one says that there is a second tag.
    [u64; 2],
);

impl Station {
    /// Makes the station with this address that frames with these tags are for.
    #[must_use]
    #[inline(always)]
    pub const fn new(address: [u8; 6], tags: Tags) -> Self {
        let mut start = [0; 8];
        if let Some(destination) = start.first_chunk_mut() {
            *destination = address;
        }
        Self::of_frame(start, tags)
    }

    /// Makes the station that a frame is for, by its first eight bytes: the destination, and two bytes that do not
    /// matter.
    #[must_use]
    #[inline(always)]
    pub(crate) const fn of_frame(start: [u8; 8], Tags(tags): Tags) -> Self {
        let address = u64::from_le_bytes(start) << 16;
        Self([address | (tags & 0xffff) as u64, (tags >> 16) as u64])
    }

    /// Returns the address.
    #[must_use]
    pub fn address(self) -> [u8; 6] {
        load(&self.0[0].to_le_bytes(), 2)
    }

    /// Returns whether the address is that of a group, which no station has.
    #[must_use]
    pub fn is_group(self) -> bool {
        let [first, ..] = self.address();
        first & 1 != 0
    }

    #[inline(always)]
    const fn bucket(self, seed: u64) -> usize {
        let [address, inner] = self.0;
        ((address ^ inner << 40).wrapping_mul(seed) >> BUCKET_SHIFT) as usize
    }
}

/// The stations of an interface, as they are in the eBPF program's map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct StationTable {
    /// The first word of the first station, without which most hosts need to look no further; 0 if there is none, or it
    /// has two tags.
    first: u64,
    seed: u64,
    /// Each row is a station; all zeros is free.
    rows: [[[u64; 2]; WAYS]; BUCKETS],
}

/// An interface has more stations than [`CAPACITY`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableFull;

impl Default for StationTable {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl StationTable {
    /// A table without stations.
    pub const EMPTY: Self = Self { first: 0, seed: 1, rows: [[[0; 2]; WAYS]; BUCKETS] };

    /// Makes a table of stations. The first one is found fastest. Groups are left out.
    ///
    /// # Errors
    ///
    /// [`TableFull`] if there are more than [`CAPACITY`] different ones.
    pub fn new(stations: &[Station]) -> Result<Self, TableFull> {
        first_that_fits(|seed| Self::with_seed(seed, stations))
            .filter(|table| table.stations() <= CAPACITY)
            .ok_or(TableFull)
    }

    fn with_seed(seed: u64, stations: &[Station]) -> Option<Self> {
        let mut table = Self { seed, ..Self::EMPTY };
        if let Some(Station([word, 0])) = stations.iter().find(|station| !station.is_group()) {
            table.first = *word;
        }
        for station in stations.iter().copied().filter(|station| !station.is_group()) {
            if table.has_row(station) {
                continue;
            }
            let bucket = table.rows.get_mut(station.bucket(seed))?;
            *bucket.iter_mut().find(|row| **row == [0; 2])? = station.0;
        }
        Some(table)
    }

    fn stations(&self) -> usize {
        self.rows.iter().flatten().filter(|row| **row != [0; 2]).count()
    }

    /// Returns whether the host is this station.
    #[must_use]
    #[inline(always)]
    pub fn has(&self, station: Station) -> bool {
        let [word, _] = station.0;
        // The word says whether there is a second tag: of stations with one tag at most it is all.
        word == self.first || self.has_row(station)
    }

    #[inline(always)]
    fn has_row(&self, station: Station) -> bool {
        let [a, b, c, d] = self.rows.get(station.bucket(self.seed)).copied().unwrap_or_default();
        let wanted = station.0;
        a == wanted || a != [0; 2] && (b == wanted || c == wanted || d == wanted)
    }
}
