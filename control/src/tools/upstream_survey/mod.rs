//! Candidates for upstreams: measures them as politely as a client's first contact, and ranks them.

mod rank;
mod render;

use std::collections::HashSet;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::Path;
use std::time::{Duration, Instant};

use protocol::{Reading, Reject};
use responder::udp::NTP_PORT;

use crate::config::{is_pool_name, read_text};
use crate::error::{Code, Error, Result};
use crate::net::own_addresses::OwnAddresses;
use crate::net::query::{Failure, exchange};
use crate::net::server_name::{NoServer, ServerName};
pub use rank::{Fit, Ranked, Ranking, rank};

/// Largest number of requests to a candidate, sent no faster than `iburst` does (RFC 8633, section 3.1).
pub const MOST_REQUESTS: u8 = 8;
const INTERVAL: Duration = Duration::from_secs(2);
const TIMEOUT: Duration = Duration::from_secs(2);
/// Largest number of candidates of one run. Each has a thread.
const MOST_CANDIDATES: usize = 64;
const MOST_BYTES: u64 = 1 << 16;

/// The outcome of asking a candidate.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// The name as it was given.
    pub name: String,
    /// The address that was asked.
    pub address: Option<SocketAddr>,
    /// Number of requests sent.
    pub sent: u8,
    /// What the answers measured.
    pub readings: Vec<Reading>,
    /// The last error.
    pub failure: Option<String>,
    /// The kiss of death that ended it.
    pub kiss: Option<String>,
    /// Why it can never be an upstream of this host: it is this host itself, or takes its time from it.
    pub unusable: Option<String>,
}

/// Reads names from a file, one per line; `#` begins a comment.
///
/// # Errors
///
/// The file cannot be read, or a line is no name.
pub fn read_names(path: &Path) -> Result<Vec<String>> {
    let text = read_text(path, path.display(), MOST_BYTES)?;
    let mut names = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let name = line.split('#').next().unwrap_or_default().trim();
        if name.is_empty() {
            continue;
        }
        if let Err(error) = name.parse::<ServerName>() {
            let what = format!("{}: line {number}: `{name}` {}", path.display(), error.reason);
            return Err(Error::new(Code::Data, what).remedy("write one name or address per line"));
        }
        names.push(name.to_owned());
    }
    Ok(names)
}

/// Asks all candidates at the same time, each `requests` times, and waits until the last has answered or its
/// timeout has passed. Names of the pool are not asked, nor is this host itself, which has the addresses
/// `own`.
///
/// # Errors
///
/// There are no candidates or too many.
pub fn measure(names: &[String], requests: u8, own: &OwnAddresses) -> Result<Vec<Measured>> {
    let mut seen = HashSet::new();
    let mut different = Vec::new();
    for name in names {
        let server: ServerName = name
            .parse()
            .map_err(|error: NoServer| Error::new(Code::Usage, format_args!("{name:?} {}", error.reason)))?;
        if seen.insert(server) {
            different.push(name);
        }
    }
    let names = different;
    if names.is_empty() || names.len() > MOST_CANDIDATES {
        return Err(Error::new(
            Code::Usage,
            format_args!("{} candidates: 1 to {MOST_CANDIDATES} can be measured at once", names.len()),
        ));
    }
    let requests = requests.clamp(1, MOST_REQUESTS);
    Ok(std::thread::scope(|scope| {
        let threads: Vec<_> =
            names.iter().map(|name| scope.spawn(move || measure_one(name, requests, own))).collect();
        let given_up = |name: &String| Measured { failure: Some("given up".into()), ..Measured::of(name) };
        threads
            .into_iter()
            .zip(&names)
            .map(|(thread, name)| thread.join().unwrap_or_else(|_| given_up(name)))
            .collect()
    }))
}

impl Measured {
    /// Makes the record of a candidate that has not been asked yet.
    fn of(name: &str) -> Self {
        Self {
            name: name.into(),
            address: None,
            sent: 0,
            readings: Vec::new(),
            failure: None,
            kiss: None,
            unusable: None,
        }
    }
}

fn measure_one(name: &str, requests: u8, own: &OwnAddresses) -> Measured {
    let mut measured = Measured::of(name);
    if is_pool_name(name) {
        return measured;
    }
    if let Some(unusable) = own.unusable_name(name) {
        measured.unusable = Some(format!("it {}", unusable.reason()));
        return measured;
    }
    let address = match (name, NTP_PORT).to_socket_addrs() {
        Ok(addresses) => own.first_usable(&addresses.collect::<Vec<_>>()),
        Err(error) => {
            measured.failure = Some(error.to_string());
            return measured;
        }
    };
    let address = match address {
        Ok(address) => address,
        Err(reason) => {
            measured.unusable = Some(reason);
            return measured;
        }
    };
    measured.address = address;
    let Some(address) = address else { return measured };
    let started = Instant::now();
    for number in 0..requests {
        let due = started + INTERVAL * u32::from(number);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        measured.sent += 1;
        match exchange(address, TIMEOUT) {
            Ok(reading) if reading.server.is_loop(own.reference_ids()) => {
                measured.unusable = Some(Reject::Loop.to_string());
                return measured;
            }
            Ok(reading) => measured.readings.push(reading),
            Err(Failure::Kiss(code)) => {
                measured.kiss = Some(code);
                return measured;
            }
            Err(failure) => measured.failure = Some(failure.to_string()),
        }
    }
    measured
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::own_addresses::tests::own;

    #[test]
    fn names_are_read_from_a_file_with_comments() {
        let directory = std::env::temp_dir().join(format!("pooltime-names-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("names");
        let list = b"\xef\xbb\xbf# f\xfcr uns\nntp1.example.net # GPS\n\n  192.0.2.1\n";
        std::fs::write(&path, list).unwrap();
        assert_eq!(read_names(&path).unwrap(), ["ntp1.example.net", "192.0.2.1"]);
        std::fs::write(&path, "ntp1.example.net\nserver ntp2.example.net iburst\n").unwrap();
        let error = read_names(&path).unwrap_err();
        assert!(error.what.contains("line 2"), "{error}");
        std::fs::remove_dir_all(&directory).unwrap();
        assert_eq!(read_names(&path).unwrap_err().code, Code::NoInput);
    }

    #[test]
    fn this_host_itself_is_not_asked() {
        let own = own(&["192.0.2.1", "198.51.100.1", "2001:db8::1"]);
        let names = ["192.0.2.1", "::ffff:198.51.100.1", "2001:db8::1", "127.0.0.1", "localhost", "::"];
        let measured = measure(&names.map(String::from), 8, &own).unwrap();
        for (name, measured) in names.iter().zip(&measured) {
            assert_eq!((measured.name.as_str(), measured.sent, measured.address), (*name, 0, None));
            assert!(measured.unusable.as_ref().unwrap().contains("this host"), "{measured:?}");
        }
        assert_eq!(rank(&measured).taken().count(), 0);

        let here: SocketAddr = "192.0.2.1:123".parse().unwrap();
        let there: SocketAddr = "192.0.2.2:123".parse().unwrap();
        assert_eq!(own.first_usable(&[here, there]), Ok(Some(there)));
        assert_eq!(own.first_usable(&[]), Ok(None));
        assert!(own.first_usable(&[here]).unwrap_err().contains("192.0.2.1 is an address of this host"));
    }

    #[test]
    fn names_of_the_pool_are_not_asked_and_too_many_are_refused() {
        let nobody = OwnAddresses::default();
        let measured = measure(&["0.pool.ntp.org".into(), "0.pool.ntp.org".into()], 8, &nobody).unwrap();
        assert_eq!(measured, [Measured::of("0.pool.ntp.org")]);
        assert!(measure(&[], 8, &nobody).is_err() && measure(&["a\nb".into()], 8, &nobody).is_err());
        let many: Vec<String> = (0..65).map(|number| format!("{number}.pool.ntp.org")).collect();
        assert!(measure(&many, 8, &nobody).unwrap_err().what.contains("65"));
    }
}
