//! The state file of the quota: what was counted, and where the counters stood then, for the next start.
//!
//! The counters of the program go on while no daemon runs, and begin at zero with a new map. A record therefore names
//! the map by the boot and the map's number in it. What these counters have gone up by since the record was made is
//! counted when it is read; counters of a later map are counted from zero.
//!
//! The file is text with a checksum. It is replaced as a whole, and the one before is kept beside it, so that a file
//! that is torn or damaged costs no more than what has been counted by the sockets since the one before.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tracing::warn;

use super::account::{Account, Month, Rates};
use super::bytes::Bytes;
use super::pace::Pace;
use crate::error::{Code, Error, Result};
use crate::instance::{not_writable, replace_file};

/// The name of the file in the state directory.
const FILE: &str = "quota";
/// The one before it.
const BEFORE: &str = "quota-before";
/// The largest size of a record; with all interfaces it has some 2 KiB.
const MAX_BYTES: u64 = 16_384;
/// What is before the checksum on the last line.
const CHECKSUM: &str = "# checksum ";
/// A rate above this is none, in bytes per second.
const MOST_RATE: f64 = 1e15;
/// The last second of the year 9999.
const MOST_S: f64 = 253_402_300_799.0;
const HEAD: &str =
    "# What pooltime-xdp has counted for the quota. Changes are noticed by the checksum and refused.\n";

/// Which map the counters are those of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// The boot, as the kernel names it.
    pub boot: String,
    /// The kernel's number of the map of counters.
    pub map: u32,
}

/// What is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// The account.
    pub account: Account,
    /// The map that the counters are in; `None` if it is gone and all that it had is counted.
    pub identity: Option<Identity>,
    /// What the counters of each interface, by its index, said when the account was made.
    pub counters: BTreeMap<u32, Bytes>,
}

/// The file's values.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Values {
    day: u8,
    known_s: Option<f64>,
    now_s: Option<f64>,
    unplaced: Bytes,
    current: Option<Month>,
    previous: Option<Month>,
    rates: Rates,
    pace: Averages,
    counters_of: Option<Identity>,
    #[serde(default)]
    interface: Vec<Interface>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Averages {
    demand: f64,
    received: f64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Interface {
    index: u32,
    bytes: Bytes,
}

impl Record {
    /// Takes in what the counters have gone up by since the record was made, and returns where they stand now.
    #[must_use]
    pub fn catch_up(self, identity: &Identity, counters: BTreeMap<u32, Bytes>) -> Self {
        let mut account = self.account;
        account.missed(came(self.identity.as_ref() == Some(identity), &self.counters, &counters));
        Self { account, identity: Some(identity.clone()), counters }
    }

    /// Writes the record as text.
    ///
    /// # Errors
    ///
    /// A number does not fit into the format.
    pub fn to_text(&self) -> Result<String> {
        let Account { day, current, previous, unplaced, known_s, now_s, rates, pace, .. } = self.account;
        let interface = self.counters.iter().map(|(index, bytes)| Interface { index: *index, bytes: *bytes });
        let values = Values {
            day,
            known_s,
            now_s,
            unplaced,
            current,
            previous,
            rates,
            pace: Averages { demand: pace.demand, received: pace.received },
            counters_of: self.identity.clone(),
            interface: interface.collect(),
        };
        let text =
            toml::to_string(&values).map_err(Error::because(Code::Software, "the record of the quota"))?;
        let text = format!("{HEAD}{text}");
        Ok(format!("{text}{CHECKSUM}{:016x}\n", checksum(&text)))
    }

    /// Reads a record.
    ///
    /// # Errors
    ///
    /// The text is not a whole record, or has been changed.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |what: &str| Error::new(Code::Data, what);
        let (content, sum) = text.rsplit_once(CHECKSUM).ok_or_else(|| wrong("it is not whole"))?;
        if sum != format!("{:016x}\n", checksum(content)) {
            return Err(wrong("its checksum is wrong"));
        }
        let values: Values = toml::from_str(content).map_err(|error| wrong(error.message()))?;
        values.check().ok_or_else(|| wrong("it has a number that cannot be"))?;
        let Values { day, known_s, now_s, unplaced, current, previous, rates, pace, .. } = values;
        let pace = Pace { demand: pace.demand, received: pace.received };
        let account =
            Account { day, current, previous, unplaced, known_s, now_s, is_known: false, rates, pace };
        let counters = values.interface.iter().map(|interface| (interface.index, interface.bytes));
        Ok(Self { account, identity: values.counters_of, counters: counters.collect() })
    }
}

impl Values {
    fn check(&self) -> Option<()> {
        let is_rate = |rate: &f64| (0.0..=MOST_RATE).contains(rate);
        let is_time = |time_s: &f64| (0.0..=MOST_S).contains(time_s);
        let Rates { received, sent, refused, weight } = self.rates;
        let rates = [received, sent, refused, self.pace.demand, self.pace.received];
        let right = rates.iter().all(is_rate)
            && (0.0..=1.0).contains(&weight)
            && self.known_s.iter().chain(&self.now_s).all(is_time)
            && (1..=31).contains(&self.day);
        right.then_some(())
    }
}

/// Returns what came since counters were read: since `before`, if they are still the same ones, else since they began.
#[must_use]
pub fn came(same: bool, before: &BTreeMap<u32, Bytes>, now: &BTreeMap<u32, Bytes>) -> Bytes {
    let since = |(index, bytes): (&u32, &Bytes)| match before.get(index) {
        Some(before) if same => bytes.since(*before),
        _ => *bytes,
    };
    now.iter().map(since).fold(Bytes::default(), Bytes::plus)
}

/// The place where the record is kept.
#[derive(Clone, Debug)]
pub struct RecordFile {
    directory: PathBuf,
}

impl RecordFile {
    /// Makes it of the state directory, which is created when the record is written.
    #[must_use]
    pub const fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// Reads the latest record that is whole; `None` if there is none. A file that makes no sense is renamed, logged,
    /// and the one before is read.
    #[must_use]
    pub fn load(&self) -> Option<Record> {
        for name in [FILE, BEFORE] {
            let path = self.directory.join(name);
            match read(&path) {
                Ok(None) => {}
                Ok(Some(record)) => return Some(record),
                Err(error) => {
                    let aside = path.with_extension("corrupt");
                    let kept = match fs::rename(&path, &aside) {
                        Ok(()) => format!("it is {} now", aside.display()),
                        Err(failed) => format!("it cannot be set aside ({failed})"),
                    };
                    let next = if name == FILE {
                        "the one before is read"
                    } else {
                        "what was used so far is not known: it is counted from now on"
                    };
                    warn!("{}: {error}; {kept}, and {next}", path.display());
                }
            }
        }
        None
    }

    /// Writes a record, so that a crash at any moment leaves one that is whole.
    ///
    /// # Errors
    ///
    /// The file system reports an error.
    pub fn store(&self, text: &str) -> Result<()> {
        let path = self.directory.join(FILE);
        fs::create_dir_all(&self.directory)
            .map_err(|error| not_writable(&self.directory, &error, "StateDirectory="))?;
        match fs::rename(&path, self.directory.join(BEFORE)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => replace_file(&path, text.as_bytes()),
        }
        .map_err(Error::because(Code::Io, format_args!("cannot write {}", path.display())))
    }
}

fn read(path: &Path) -> Result<Option<Record>> {
    let metadata = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        metadata => metadata.map_err(Error::because(Code::Io, "it cannot be looked at"))?,
    };
    if !metadata.is_file() || metadata.len() > MAX_BYTES {
        return Err(Error::new(Code::Data, format_args!("not a file of at most {MAX_BYTES} bytes")));
    }
    let text = fs::read_to_string(path).map_err(Error::because(Code::Io, "it cannot be read"))?;
    Record::parse(&text).map(Some)
}

/// A checksum against accidents: FNV-1a with 64 bits (Fowler, Noll, Vo).
fn checksum(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use testinput::random::Random;

    use super::*;

    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("pooltime-quota-{name}-{}", std::process::id()));
            Self(path)
        }

        fn file(&self) -> RecordFile {
            RecordFile::new(self.0.join("state"))
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _not_there = fs::remove_dir_all(&self.0);
        }
    }

    /// A record with something in every field, from a seed.
    fn record(seed: u64) -> Record {
        let mut random = Random::new(seed);
        let bytes = |random: &mut Random| Bytes {
            received: random.bits() >> 2,
            sent: random.bits() >> 2,
            refused: random.bits() >> 2,
        };
        let month = |random: &mut Random| Month {
            start_s: i64::try_from(random.bits() >> 32).unwrap(),
            bytes: bytes(random),
        };
        Record {
            account: Account {
                day: u8::try_from(random.between(1, 31)).unwrap(),
                current: random.chance(80).then(|| month(&mut random)),
                previous: random.chance(50).then(|| month(&mut random)),
                unplaced: bytes(&mut random),
                known_s: random.chance(80).then(|| random.uniform() * 1e10),
                now_s: random.chance(80).then(|| random.uniform() * 1e10),
                is_known: false,
                rates: Rates {
                    received: 1.5,
                    sent: random.uniform() * 1e9,
                    refused: 0.0,
                    weight: random.uniform(),
                },
                pace: Pace { demand: random.uniform() * 1e9, received: 1e-30 },
            },
            identity: random.chance(80).then(|| Identity { boot: "0b-1f".into(), map: 77 }),
            counters: (0..8).map(|index| (index + 1, bytes(&mut random))).collect(),
        }
    }

    #[test]
    fn what_was_written_is_read_and_anything_else_is_refused() {
        for seed in 0..300 {
            let written = record(seed);
            let text = written.to_text().unwrap();
            assert!(text.len() < 4096, "{}", text.len());
            assert_eq!(Record::parse(&text).unwrap(), written);
            let mut random = Random::new(seed);
            // Torn anywhere, a byte changed, something added.
            let cut = random.index(text.len());
            assert!(Record::parse(&text[..cut]).is_err(), "cut at {cut}");
            let mut changed = text.clone().into_bytes();
            let at = random.index(changed.len());
            changed[at] ^= 1 << random.between(0, 6);
            assert!(Record::parse(&String::from_utf8_lossy(&changed)).is_err(), "byte {at}");
            assert!(Record::parse(&format!("{text}x")).is_err());
            let length = random.between(0, 300);
            let _no_panic = Record::parse(&String::from_utf8_lossy(&random.bytes(length)));
        }
    }

    #[test]
    fn a_torn_or_corrupt_file_is_set_aside_and_the_one_before_is_read() {
        for damage in ["torn", "empty", "garbage", "large", "directory"] {
            let directory = Directory::new(damage);
            let file = directory.file();
            assert_eq!(file.load(), None);
            let (older, newer) = (record(1), record(2));
            file.store(&older.to_text().unwrap()).unwrap();
            assert_eq!(file.load(), Some(older.clone()));
            file.store(&newer.to_text().unwrap()).unwrap();
            assert_eq!(file.load(), Some(newer.clone()));
            let path = directory.0.join("state/quota");
            let text = newer.to_text().unwrap();
            match damage {
                "torn" => fs::write(&path, &text[..text.len() / 2]).unwrap(),
                "empty" => fs::write(&path, "").unwrap(),
                "garbage" => fs::write(&path, [0xff; 100]).unwrap(),
                "large" => fs::write(&path, vec![b'#'; 1 << 20]).unwrap(),
                _ => {
                    fs::remove_file(&path).unwrap();
                    fs::create_dir(&path).unwrap();
                }
            }
            assert_eq!(file.load(), Some(older), "{damage}");
            assert!(directory.0.join("state/quota.corrupt").exists(), "{damage}");
            // Between the two renames of a write there is only the one before.
            fs::remove_file(directory.0.join("state/quota-before")).unwrap();
            assert_eq!(file.load(), None, "{damage}");
            file.store(&newer.to_text().unwrap()).unwrap();
            assert_eq!(file.load(), Some(newer), "{damage}");
        }
    }
}
