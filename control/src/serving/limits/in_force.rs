//! The access lists in force: in the program's maps, and for the sockets' thread in user space. They go from one state
//! to another by their differences alone, however long they are.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

use responder::access::BLOCK_WORDS;
use responder::layout::LIST_ENTRIES;
use responder::limiter::{IPV4_LIST, IPV6_LIST};
use responder::{Access, Family};
use tracing::error;

use super::{Blocks, Lists};
use crate::config::answers_nobody;
use crate::error::Result;
use crate::net::prefix::{Prefix, truncated};

/// More prefixes than this that go at once have the /24s counted out anew.
const FEW: usize = 1024;

/// Entries by prefix, for looking up addresses in user space.
#[derive(Clone, Debug)]
pub struct Effective {
    entries: BTreeMap<Prefix, Access>,
    /// How many entries have so many bits, by family.
    lengths: [[usize; 129]; 2],
}

impl Default for Effective {
    fn default() -> Self {
        Self { entries: BTreeMap::new(), lengths: [[0; 129]; 2] }
    }
}

impl FromIterator<(Prefix, Access)> for Effective {
    fn from_iter<T: IntoIterator<Item = (Prefix, Access)>>(entries: T) -> Self {
        let mut effective = Self::default();
        for (prefix, access) in entries {
            effective.set(prefix, Some(access));
        }
        effective
    }
}

impl Effective {
    /// What the longest prefix that the address is in says.
    #[must_use]
    pub fn of(&self, address: IpAddr) -> Access {
        self.around(address, 128).next().unwrap_or_default()
    }

    /// Makes an entry, or takes it away.
    fn set(&mut self, prefix: Prefix, access: Option<Access>) {
        let before = match access {
            Some(access) => self.entries.insert(prefix, access),
            None => self.entries.remove(&prefix),
        };
        let number = &mut self.lengths[family(prefix.address())][usize::from(prefix.length())];
        *number += usize::from(access.is_some());
        *number -= usize::from(before.is_some());
    }

    /// What those entries of at most so many bits say that an address is in, the longest first.
    fn around(&self, address: IpAddr, most_bits: u8) -> impl Iterator<Item = Access> + '_ {
        let used = &self.lengths[family(address)];
        (0..=most_bits).rev().filter(|length| used[usize::from(*length)] != 0).filter_map(move |length| {
            let prefix = Prefix::new(truncated(address, length), length).ok()?;
            self.entries.get(&prefix).copied()
        })
    }

    /// The IPv4 entries within a prefix, itself included.
    fn within(&self, prefix: Prefix) -> impl Iterator<Item = Prefix> + '_ {
        let bits = u32::MAX.checked_shr(prefix.length().into()).unwrap_or(0);
        let last = match prefix.address() {
            IpAddr::V4(address) => Prefix::new(IpAddr::V4((address.to_bits() | bits).into()), 32).ok(),
            IpAddr::V6(_) => None,
        };
        last.into_iter().flat_map(move |last| self.entries.range(prefix..=last)).map(|(prefix, _)| *prefix)
    }

    /// Entries of a family.
    fn number(&self, family: usize) -> usize {
        self.lengths[family].iter().sum()
    }
}

fn family(address: IpAddr) -> usize {
    usize::from(address.is_ipv6())
}

/// The program's maps, or what stands for them in a test.
pub trait Maps {
    /// The entries of both lists.
    ///
    /// # Errors
    ///
    /// The kernel's, here and below.
    fn entries(&self) -> Result<Vec<(Prefix, Access)>>;

    /// The /24s that the IPv4 list is asked about.
    ///
    /// # Errors
    ///
    /// The kernel's.
    fn blocks(&self) -> Result<Blocks>;

    /// Makes an entry, or takes it away; one that is not there is no error.
    ///
    /// # Errors
    ///
    /// The kernel's.
    fn set(&mut self, prefix: Prefix, access: Option<Access>) -> Result<()>;

    /// Writes to the map of /24s.
    ///
    /// # Errors
    ///
    /// The kernel's.
    fn set_block(&mut self, entry: u32, words: &[u64; BLOCK_WORDS]) -> Result<()>;
}

/// What becomes of a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Change {
    prefix: Prefix,
    before: Option<Access>,
    after: Option<Access>,
}

impl Change {
    const fn back(self) -> Self {
        Self { prefix: self.prefix, before: self.after, after: self.before }
    }
}

/// Changes in their order, to be made or unmade.
#[derive(Debug, Default)]
pub struct Changes(Vec<Change>);

impl Changes {
    /// What leads from the one to the other, in an order in which no map ever holds more than `room` of a family, if
    /// what is wanted fits in at all.
    ///
    /// A client is concerned by the changes of the prefixes that it is in. These are within each other, so that the
    /// changes fall into groups that concern different clients: a prefix, and those within it. In each group what is
    /// new comes before what goes: every client meets the entry that was or the one that is to be. Entries come before
    /// those around them and go after them, so that an exception is never missing from what it is an exception to.
    ///
    /// Only where a group finds no room for what is new beside what it has, what goes in it goes first. For a moment
    /// its clients are treated as if only the entries around it were there. Groups that make room come first, so that
    /// this takes a list that is full, or a prefix with very many within it.
    fn between(before: &Effective, wanted: &Lists, room: usize) -> Self {
        let goes = before.entries.iter().filter(|(prefix, _)| wanted.get(prefix).is_none());
        let gone =
            goes.map(|(prefix, access)| Change { prefix: *prefix, before: Some(*access), after: None });
        let mut changes: Vec<_> = wanted
            .entries()
            .map(|(prefix, access)| {
                let before = before.entries.get(&prefix).copied();
                Change { prefix, before, after: Some(access) }
            })
            .filter(|change| change.before != change.after)
            .chain(gone)
            .collect();
        // A prefix comes after those around it in the order of prefixes.
        changes.sort_unstable_by_key(|change| change.prefix);
        let mut groups: Vec<_> = groups(&changes).collect();
        groups.sort_by_key(|group| growth(group));
        let mut used = [0, 1].map(|of| before.number(of));
        let mut ordered = Vec::with_capacity(changes.len());
        for group in groups {
            let used = &mut used[family(group[0].prefix.address())];
            let comes = group.iter().rev().filter(|change| change.after.is_some());
            let goes = group.iter().filter(|change| change.after.is_none());
            let new = comes.clone().filter(|change| change.before.is_none()).count();
            if *used + new <= room {
                ordered.extend(comes.chain(goes));
            } else {
                ordered.extend(goes.clone().chain(comes));
            }
            *used = used.saturating_add_signed(growth(group));
        }
        Self(ordered)
    }
}

/// Divides changes in the order of prefixes into groups of a prefix and those within it.
fn groups(changes: &[Change]) -> impl Iterator<Item = &[Change]> {
    let mut rest = changes;
    std::iter::from_fn(move || {
        let around = rest.first()?.prefix;
        let end = rest.iter().position(|change| !change.prefix.is_within(around)).unwrap_or(rest.len());
        let (group, behind) = rest.split_at(end);
        rest = behind;
        Some(group)
    })
}

/// By how many entries a list grows with these changes.
fn growth(changes: &[Change]) -> isize {
    let by_one = |entry: Option<Access>| isize::from(entry.is_some());
    changes.iter().map(|change| by_one(change.after) - by_one(change.before)).sum()
}

/// The lists as they are in force.
pub struct InForce<M> {
    maps: M,
    entries: Arc<RwLock<Effective>>,
    /// As the map has them.
    blocks: Blocks,
}

impl<M: Maps> InForce<M> {
    /// With what is in the maps, which goes into `entries`, too.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn inheriting(maps: M, entries: Arc<RwLock<Effective>>) -> Result<Self> {
        *entries.write().unwrap_or_else(PoisonError::into_inner) = maps.entries()?.into_iter().collect();
        let blocks = maps.blocks()?;
        let mut in_force = Self { maps, entries, blocks };
        // Whoever wrote the entries may have been killed before it wrote the /24s.
        let wanted = Blocks::of(in_force.read().entries.keys());
        in_force.write_blocks(&wanted)?;
        Ok(in_force)
    }

    /// The lists that are not empty, for [`responder::Policy::lists`].
    #[must_use]
    pub fn flags(&self) -> u8 {
        let entries = self.read();
        let flag = |of, flag| if entries.number(of) == 0 { 0 } else { flag };
        flag(0, IPV4_LIST) | flag(1, IPV6_LIST)
    }

    /// Entries in all.
    #[must_use]
    pub fn number(&self) -> usize {
        self.read().entries.len()
    }

    /// The families of which all clients are denied.
    #[must_use]
    pub fn unanswered(&self) -> Vec<Family> {
        let entries = self.read();
        Family::ALL.iter().copied().filter(|family| answers_nobody(&entries.entries, *family)).collect()
    }

    /// Puts all that is wanted in force, or if that fails halfway, nothing of it. Gives what was changed.
    ///
    /// # Errors
    ///
    /// A list is full, or the kernel's.
    pub fn put(&mut self, wanted: &Lists) -> Result<Changes> {
        let changes = Changes::between(&self.read(), wanted, LIST_ENTRIES);
        self.apply(&changes.0)?;
        Ok(changes)
    }

    /// The same for one prefix, and in no more time than that takes.
    ///
    /// # Errors
    ///
    /// As above.
    pub fn put_one(&mut self, prefix: Prefix, wanted: &Lists) -> Result<()> {
        let before = self.read().entries.get(&prefix).copied();
        let after = wanted.get(&prefix);
        if before == after { Ok(()) } else { self.apply(&[Change { prefix, before, after }]) }
    }

    /// Takes changes back, as far as that is possible.
    pub fn undo(&mut self, Changes(changes): &Changes) {
        for change in changes.iter().rev() {
            self.tell(|this| this.set(change.back()));
        }
        self.tell(|this| this.follow_in_blocks(changes));
    }

    fn apply(&mut self, changes: &[Change]) -> Result<()> {
        for (done, change) in changes.iter().enumerate() {
            if let Err(error) = self.set(*change) {
                changes[..done].iter().rev().for_each(|change| self.tell(|this| this.set(change.back())));
                return Err(error);
            }
        }
        self.follow_in_blocks(changes).inspect_err(|_| {
            changes.iter().rev().for_each(|change| self.tell(|this| this.set(change.back())));
            self.tell(|this| this.follow_in_blocks(changes));
        })
    }

    fn set(&mut self, change: Change) -> Result<()> {
        self.maps.set(change.prefix, change.after)?;
        self.entries.write().unwrap_or_else(PoisonError::into_inner).set(change.prefix, change.after);
        Ok(())
    }

    /// Says which /24s the list is asked about, after these changes: what differs is written. One that nothing is said
    /// of any more costs a look-up until then, one that is new is not asked about.
    fn follow_in_blocks(&mut self, changes: &[Change]) -> Result<()> {
        let wanted = {
            let entries = self.read();
            if changes.len() > FEW {
                Blocks::of(entries.entries.keys())
            } else {
                let mut blocks = self.blocks.clone();
                for change in changes {
                    follow(&mut blocks, &entries, change.prefix);
                }
                blocks
            }
        };
        self.write_blocks(&wanted)
    }

    fn write_blocks(&mut self, wanted: &Blocks) -> Result<()> {
        for (entry, words) in wanted.entries() {
            if self.blocks.words(entry) != words {
                self.maps.set_block(entry, words)?;
                *self.blocks.words_mut(entry) = *words;
            }
        }
        Ok(())
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Effective> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&mut self, put_back: impl FnOnce(&mut Self) -> Result<()>) {
        if let Err(error) = put_back(self) {
            error!("the access lists could not be put back: {error}");
        }
    }
}

/// Brings the /24s that a prefix is in, or that are in it, to what the entries say of them.
fn follow(blocks: &mut Blocks, entries: &Effective, prefix: Prefix) {
    let length = prefix.length().min(24);
    let Ok(area) = Prefix::new(truncated(prefix.address(), length), length) else { return };
    if entries.around(area.address(), length).next().is_some() {
        blocks.set(area, true);
    } else {
        blocks.set(area, false);
        entries.within(area).for_each(|prefix| blocks.set(prefix, true));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::error::{Code, Error};

    /// Maps with so much room, which refuse one of the writes to come if they are told to.
    #[derive(Default)]
    struct Fake {
        entries: BTreeMap<Prefix, Access>,
        blocks: Option<Blocks>,
        room: usize,
        writes: usize,
        refused: Option<usize>,
        block_writes: usize,
    }

    impl Fake {
        fn write(&mut self) -> Result<()> {
            self.writes += 1;
            match self.refused {
                Some(refused) if refused == self.writes => Err(Error::new(Code::Os, "refused")),
                _ => Ok(()),
            }
        }
    }

    impl Maps for Fake {
        fn entries(&self) -> Result<Vec<(Prefix, Access)>> {
            Ok(self.entries.iter().map(|(prefix, access)| (*prefix, *access)).collect())
        }

        fn blocks(&self) -> Result<Blocks> {
            Ok(self.blocks.clone().unwrap_or_else(|| Blocks::of(self.entries.keys())))
        }

        fn set(&mut self, prefix: Prefix, access: Option<Access>) -> Result<()> {
            self.write()?;
            match access {
                None => drop(self.entries.remove(&prefix)),
                Some(access) => drop(self.entries.insert(prefix, access)),
            }
            let ipv4 = self.entries.keys().filter(|prefix| prefix.address().is_ipv4()).count();
            assert!(ipv4.max(self.entries.len() - ipv4) <= self.room, "more than there is room for");
            Ok(())
        }

        fn set_block(&mut self, entry: u32, words: &[u64; BLOCK_WORDS]) -> Result<()> {
            self.write()?;
            self.block_writes += 1;
            let mut blocks = self.blocks()?;
            *blocks.words_mut(entry) = *words;
            self.blocks = Some(blocks);
            Ok(())
        }
    }

    /// The same each time.
    struct Random(u64);

    impl Random {
        fn below(&mut self, limit: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % limit
        }

        fn prefix(&mut self) -> Prefix {
            let (address, length): (IpAddr, u64) = if self.below(3) == 0 {
                (
                    [0x2001, 0xdb8, u16::try_from(self.below(4)).unwrap(), 0, 0, 0, 0, 0].into(),
                    32 + 8 * self.below(3),
                )
            } else {
                let [b, c, d] = [3, 3, 256].map(|limit| u8::try_from(self.below(limit)).unwrap());
                ([10, b, c, d].into(), [8, 15, 16, 22, 24, 25, 32][usize::try_from(self.below(7)).unwrap()])
            };
            let length = u8::try_from(length).unwrap();
            Prefix::new(truncated(address, length), length).unwrap()
        }

        fn entries(&mut self, number: u64) -> BTreeMap<Prefix, Access> {
            (0..number)
                .map(|_| (self.prefix(), Access::from_u32(u32::try_from(self.below(4)).unwrap())))
                .collect()
        }
    }

    fn lists(entries: BTreeMap<Prefix, Access>) -> Lists {
        let mut lists = Lists::default();
        lists.configure(entries);
        lists
    }

    fn in_force(entries: BTreeMap<Prefix, Access>, room: usize) -> InForce<Fake> {
        let blocks = Some(Blocks::of(entries.keys()));
        InForce::inheriting(Fake { entries, blocks, room, ..Fake::default() }, Arc::default()).unwrap()
    }

    fn assert_consistent(in_force: &InForce<Fake>, wanted: &BTreeMap<Prefix, Access>) {
        assert_eq!(in_force.maps.entries, *wanted);
        assert_eq!(in_force.read().entries, *wanted);
        assert_eq!(in_force.blocks, Blocks::of(wanted.keys()));
        assert_eq!(in_force.maps.blocks().unwrap(), in_force.blocks);
    }

    /// The answer of plain sets: which prefixes have to be written, and which not touched.
    #[test]
    fn the_changes_between_two_lists_are_those_of_plain_sets_and_fit_in() {
        let mut random = Random(1);
        for round in 0..300 {
            let (before, after) = (random.entries(round % 40), random.entries(round % 37));
            let room = 40;
            let Changes(changes) =
                Changes::between(&before.clone().into_iter().collect(), &lists(after.clone()), room);
            let touched: BTreeSet<_> = changes.iter().map(|change| change.prefix).collect();
            let all: BTreeSet<_> = before.keys().chain(after.keys()).copied().collect();
            let differing =
                all.into_iter().filter(|prefix| before.get(prefix) != after.get(prefix)).collect();
            assert_eq!(touched, differing);
            assert_eq!(changes.len(), touched.len(), "each once");
            let mut model = before;
            for Change { prefix, before, after } in changes {
                assert_eq!(model.get(&prefix).copied(), before);
                match after {
                    Some(access) => model.insert(prefix, access),
                    None => model.remove(&prefix),
                };
                assert!(model.len() <= 2 * room);
            }
            assert_eq!(model, after);
        }
    }

    #[test]
    fn a_client_meets_what_was_or_what_is_to_be_and_nothing_else_where_both_fit_in() {
        let mut random = Random(2);
        for _ in 0..300 {
            let (before, after) = (random.entries(12), random.entries(12));
            let (old, new): (Effective, Effective) =
                (before.clone().into_iter().collect(), after.clone().into_iter().collect());
            let Changes(changes) = Changes::between(&old, &lists(after), 100);
            let mut now = old.clone();
            for change in changes {
                now.set(change.prefix, change.after);
                for _ in 0..20 {
                    let address = random.prefix().address();
                    assert!([old.of(address), new.of(address)].contains(&now.of(address)), "{address}");
                }
            }
        }
    }

    /// Addresses of their own, as lists of abusers are, with so much room that one more fits in than either has.
    #[test]
    fn lists_without_prefixes_in_each_other_need_no_room_for_both() {
        let mut random = Random(7);
        for _ in 0..300 {
            let mut entries = |number| -> BTreeMap<Prefix, Access> {
                let all = random.entries(number).into_iter();
                all.filter(|(prefix, _)| [32, 48].contains(&prefix.length())).collect()
            };
            let (before, after) = (entries(60), entries(60));
            let (old, new): (Effective, Effective) =
                (before.clone().into_iter().collect(), after.clone().into_iter().collect());
            let most = [0, 1].map(|of| old.number(of).max(new.number(of)) + 1);
            let room = most[0].max(most[1]);
            let Changes(changes) = Changes::between(&old, &lists(after.clone()), room);
            let mut now = old.clone();
            for change in changes {
                now.set(change.prefix, change.after);
                assert!([0, 1].into_iter().all(|of| now.number(of) <= room));
                for address in before.keys().chain(after.keys()).map(|prefix| prefix.address()) {
                    assert!([old.of(address), new.of(address)].contains(&now.of(address)), "{address}");
                }
            }
            assert_eq!(now.entries, after);
        }
    }

    /// With as much room as the larger one needs.
    #[test]
    fn any_list_becomes_any_other_within_the_room_that_they_need() {
        let mut random = Random(8);
        for round in 0..300 {
            let (before, after) = (random.entries(round % 50), random.entries(round % 47));
            let (old, new): (Effective, Effective) =
                (before.into_iter().collect(), after.clone().into_iter().collect());
            let room = [0, 1].into_iter().map(|of| old.number(of).max(new.number(of))).max().unwrap();
            let Changes(changes) = Changes::between(&old, &lists(after.clone()), room);
            let mut now = old;
            for change in changes {
                now.set(change.prefix, change.after);
                assert!([0, 1].into_iter().all(|of| now.number(of) <= room));
            }
            assert_eq!(now.entries, after);
        }
    }

    #[test]
    fn full_lists_become_others_without_ever_being_more_than_full() {
        let list = |first: u8| -> BTreeMap<Prefix, Access> {
            let prefix = |last: u8| Prefix::new([first, 0, 0, last].into(), 32).unwrap();
            (0..50).map(|last| (prefix(last), Access::Denied)).collect()
        };
        let Changes(changes) = Changes::between(&list(11).into_iter().collect(), &lists(list(12)), 50);
        let mut maps = Fake { entries: list(11), room: 50, ..Fake::default() };
        for change in &changes {
            maps.set(change.prefix, change.after).unwrap();
        }
        assert_eq!(maps.entries, list(12));
    }

    #[test]
    fn entries_come_and_go_one_by_one_with_their_24s() {
        let mut random = Random(3);
        let mut in_force = in_force(BTreeMap::new(), 1000);
        let mut wanted = Lists::default();
        let mut model = BTreeMap::new();
        for _ in 0..400 {
            let prefix = random.prefix();
            let access = (random.below(2) == 0).then_some(Access::Denied);
            wanted.set(prefix, access.map(|access| super::super::Entry { access, until: None }));
            match access {
                Some(access) => model.insert(prefix, access),
                None => model.remove(&prefix),
            };
            in_force.put_one(prefix, &wanted).unwrap();
            assert_consistent(&in_force, &model);
        }
    }

    #[test]
    fn one_entry_costs_one_write_and_one_for_its_24() {
        let mut random = Random(4);
        let mut in_force = in_force(random.entries(1000), 1000);
        let mut wanted = lists(in_force.maps.entries.clone());
        let prefix = "192.0.2.7/32".parse().unwrap();
        wanted.set(prefix, Some(super::super::Entry { access: Access::Denied, until: None }));
        in_force.put_one(prefix, &wanted).unwrap();
        assert_eq!((in_force.maps.writes, in_force.maps.block_writes), (2, 1));
        in_force.put_one(prefix, &wanted).unwrap();
        assert_eq!(in_force.maps.writes, 2, "nothing changes");
    }

    #[test]
    fn wherever_a_change_fails_all_is_as_it_was() {
        let mut random = Random(5);
        for round in 0..200 {
            let (before, after) = (random.entries(30), random.entries(30));
            let mut in_force = in_force(before.clone(), 100);
            in_force.maps.refused = Some(1 + round % 60);
            let done = in_force.put(&lists(after.clone()));
            assert_consistent(&in_force, if done.is_ok() { &after } else { &before });
            if let Ok(changes) = done {
                in_force.maps.refused = None;
                in_force.undo(&changes);
                assert_consistent(&in_force, &before);
            }
        }
    }

    #[test]
    fn after_a_daemon_that_was_killed_halfway_the_24s_are_right_at_once() {
        let entries = Random(6).entries(30);
        let maps =
            Fake { entries: entries.clone(), blocks: Some(Blocks::default()), room: 30, ..Fake::default() };
        assert_consistent(&InForce::inheriting(maps, Arc::default()).unwrap(), &entries);
    }

    #[test]
    fn the_longest_prefix_decides() {
        let effective: Effective = [
            ("192.0.2.0/24", Access::Denied),
            ("2001:db8::/32", Access::Denied),
            ("192.0.2.128/25", Access::Ordinary),
            ("192.0.2.129/32", Access::Unlimited),
            ("2001:db8:1::/48", Access::Unlimited),
        ]
        .into_iter()
        .map(|(prefix, access)| (prefix.parse().unwrap(), access))
        .collect();
        for (address, access) in [
            ("192.0.2.1", Access::Denied),
            ("192.0.2.130", Access::Ordinary),
            ("192.0.2.129", Access::Unlimited),
            ("198.51.100.1", Access::Ordinary),
            ("2001:db8::1", Access::Denied),
            ("2001:db8:1::1", Access::Unlimited),
            ("2001:db9::", Access::Ordinary),
        ] {
            assert_eq!(effective.of(address.parse().unwrap()), access, "{address}");
        }
    }
}
