//! Servers on loopback that do what they are told: an NTP server with a fault, a web server with one page.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

/// What an NTP server does.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Behaviour {
    Silent,
    Kiss([u8; 4]),
    Stratum(u8),
    OffsetMs(i64),
    ReceivedAfterSent,
    WrongOrigin,
    NotAServer,
}

/// Starts one; it ends with the test program.
pub(crate) fn ntp_server(behaviour: Behaviour) -> SocketAddr {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut request = [0; 256];
        loop {
            let Ok((length, client)) = socket.recv_from(&mut request) else { return };
            assert_eq!((length, request[0], request[3]), (48, 0x23, 0x20), "it is not the monitor's request");
            if let Some(answer) = answer(behaviour, &request) {
                socket.send_to(&answer, client).unwrap();
            }
        }
    });
    address
}

fn answer(behaviour: Behaviour, request: &[u8]) -> Option<[u8; 48]> {
    const MILLISECOND: i128 = (1 << 32) / 1_000;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let now = (i128::from(now.as_secs() + 2_208_988_800) << 32)
        + (i128::from(now.subsec_nanos()) << 32) / 1_000_000_000;
    let (mut receive, transmit) = match behaviour {
        Behaviour::OffsetMs(ms) => (now + i128::from(ms) * MILLISECOND, now + i128::from(ms) * MILLISECOND),
        _ => (now, now),
    };
    let mut bytes = [0; 48];
    bytes[0] = 0x24;
    bytes[1] = 2;
    bytes[24..32].copy_from_slice(&request[40..48]);
    match behaviour {
        Behaviour::Silent => return None,
        Behaviour::Kiss(code) => {
            bytes[1] = 0;
            bytes[12..16].copy_from_slice(&code);
        }
        Behaviour::Stratum(stratum) => bytes[1] = stratum,
        Behaviour::OffsetMs(_) => {}
        Behaviour::ReceivedAfterSent => receive += MILLISECOND,
        Behaviour::WrongOrigin => bytes[31] ^= 1,
        Behaviour::NotAServer => bytes[0] = 0x25,
    }
    bytes[32..40].copy_from_slice(&receive.to_be_bytes()[8..]);
    bytes[40..].copy_from_slice(&transmit.to_be_bytes()[8..]);
    Some(bytes)
}

/// Serves one page to everybody and says which path was asked for; ends with the test program.
pub(crate) fn web_server(path: &'static str, status: u16, page: &'static str) -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut line = String::new();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            reader.read_line(&mut line).unwrap();
            let mut header = String::from("-");
            while !header.trim().is_empty() {
                header.clear();
                reader.read_line(&mut header).unwrap();
            }
            let from = stream.peer_addr().unwrap().ip();
            let (status, page) = if line.starts_with(&format!("GET {path} ")) {
                (status, page.replace("{FROM}", &from.to_string()))
            } else {
                (404, line)
            };
            let length = page.len();
            write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n\r\n{page}").unwrap();
        }
    });
    base
}
