//! A name server on the host `client`: it knows `ntp0.example.net` and so on, or answers as a test tells it.

use std::net::{IpAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use testlab::Lab;

/// Interval at which the thread looks for the end.
const LOOK: Duration = Duration::from_millis(50);
/// Bytes of the header of a message: RFC 1035, section 4.1.1.
const HEADER: usize = 12;
/// Types of records: RFC 1035, section 3.2.2, and RFC 3596.
const A: u16 = 1;
const AAAA: u16 = 28;
/// How long an answer may be kept, in seconds.
const TTL_S: u32 = 1;

/// What it says.
#[derive(Clone, Debug)]
pub(crate) enum Says {
    /// The addresses, by number.
    Addresses(Vec<IpAddr>),
    /// Nothing.
    Nothing,
    /// That there is no such name (NXDOMAIN).
    NoSuchName,
}

/// A running name server. It ends when this is dropped.
pub(crate) struct NameServer {
    says: Arc<Mutex<Says>>,
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl NameServer {
    pub(crate) fn start(lab: &Lab, addresses: Vec<IpAddr>) -> Self {
        let socket = lab.inside("client", || UdpSocket::bind("10.77.0.2:53").unwrap());
        socket.set_read_timeout(Some(LOOK)).unwrap();
        let says = Arc::new(Mutex::new(Says::Addresses(addresses)));
        let end = Arc::new(AtomicBool::new(false));
        let (shared, ended) = (Arc::clone(&says), Arc::clone(&end));
        let thread = thread::spawn(move || {
            let mut buffer = [0; 512];
            while !ended.load(Ordering::Relaxed) {
                let Ok((length, client)) = socket.recv_from(&mut buffer) else { continue };
                if let Some(answer) = answer(&buffer[..length], &shared.lock().unwrap()) {
                    let _lost = socket.send_to(&answer, client);
                }
            }
        });
        Self { says, end, thread: Some(thread) }
    }

    /// From now on it says this.
    pub(crate) fn say(&self, what: Says) {
        *self.says.lock().unwrap() = what;
    }

    /// From now on it says of each name what `change` makes of its addresses.
    pub(crate) fn lie(&self, change: impl Fn(IpAddr) -> IpAddr) {
        if let Says::Addresses(addresses) = &mut *self.says.lock().unwrap() {
            for address in addresses {
                *address = change(*address);
            }
        }
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _told_by_the_thread = thread.join();
        }
    }
}

/// The answer to a query with one question, if it gets one.
fn answer(query: &[u8], says: &Says) -> Option<Vec<u8>> {
    let question = query.get(HEADER..)?;
    let name_length = question.iter().position(|byte| *byte == 0)? + 1;
    let question = question.get(..name_length + 4)?;
    let kind = u16::from_be_bytes([question[name_length], question[name_length + 1]]);
    let (code, address) = match says {
        Says::Nothing => return None,
        Says::NoSuchName => (3, None),
        // A label begins with its length: "\x04ntp0\x07example\x03net\0".
        Says::Addresses(addresses) => match question.get(4) {
            Some(digit @ b'0'..=b'9') => (0, addresses.get(usize::from(digit - b'0'))),
            _ => (3, None),
        },
    };
    let address: Option<Vec<u8>> = address.and_then(|address| match (address, kind) {
        (IpAddr::V4(address), A) => Some(address.octets().to_vec()),
        (IpAddr::V6(address), AAAA) => Some(address.octets().to_vec()),
        _ => None,
    });
    let mut answer = query.get(..2)?.to_vec();
    // A response to a query that wanted recursion, which is available.
    answer.extend([0x81, 0x80 | code, 0, 1, 0, u8::from(address.is_some()), 0, 0, 0, 0]);
    answer.extend(question);
    if let Some(address) = address {
        // Of the name in the question.
        answer.extend([0xc0, 0x0c]);
        answer.extend(kind.to_be_bytes());
        answer.extend([0, 1]);
        answer.extend(TTL_S.to_be_bytes());
        answer.extend(u16::try_from(address.len()).unwrap().to_be_bytes());
        answer.extend(address);
    }
    Some(answer)
}
