//! Control messages, read-only: what `ntpq` asks of a daemon (NTP mode 6, RFC 9327).
//!
//! Answered are READSTAT, the list of associations with their status words, and READVAR, the variables of the
//! system or of an association. All that would change something, and lists of clients, are unknown here.
//!
//! An answer is many times as long as its request: [`answer`] is for requests that came over loopback, and who
//! calls it sees to that.

mod message;
mod variables;

use responder::NtpTimestamp;

use crate::status::sources::{Peer, Peers};
use message::{Refusal, Request};
use variables::{Variable, peer_status, peer_variables, system_status, system_variables};

const READ_STATUS: u8 = 1;
const READ_VARIABLES: u8 = 2;

/// A status word, and the data that go with it.
type Reading = (u16, Vec<u8>);

/// The datagrams that answer a request; none for what is no request. `host_time` is the host's own clock, by
/// which `ntpq` reckons how long ago something was.
#[must_use]
pub fn answer(datagram: &[u8], peers: &Peers, host_time: NtpTimestamp) -> Vec<Vec<u8>> {
    let Some(request) = Request::parse(datagram) else {
        return Vec::new();
    };
    match read(&request, peers, host_time) {
        Ok((status, data)) => request.answer(status, &data),
        Err(refusal) => vec![request.refuse(refusal)],
    }
}

fn read(request: &Request, peers: &Peers, host_time: NtpTimestamp) -> Result<Reading, Refusal> {
    let names = request.data.ok_or(Refusal::BadFormat)?;
    match (request.opcode, request.association) {
        (READ_STATUS, 0) => Ok((system_status(&peers.system), associations(peers))),
        (READ_STATUS, association) => {
            let peer = find(peers, association)?;
            Ok((peer_status(peer), text(&peer_variables(peer, host_time))))
        }
        (READ_VARIABLES, 0) => {
            let variables = system_variables(peers);
            Ok((system_status(&peers.system), text(&chosen(variables, names)?)))
        }
        (READ_VARIABLES, association) => {
            let peer = find(peers, association)?;
            Ok((peer_status(peer), text(&chosen(peer_variables(peer, host_time), names)?)))
        }
        _ => Err(Refusal::BadOperation),
    }
}

fn find(peers: &Peers, association: u16) -> Result<&Peer, Refusal> {
    peers.peers.iter().find(|peer| peer.association == association).ok_or(Refusal::UnknownAssociation)
}

fn associations(peers: &Peers) -> Vec<u8> {
    let pair = |peer: &Peer| [peer.association.to_be_bytes(), peer_status(peer).to_be_bytes()].concat();
    peers.peers.iter().flat_map(pair).collect()
}

/// Those that a request names, in its order; all if it names none. Each once, so that no request makes an answer
/// longer than all of them.
fn chosen(variables: Vec<Variable>, names: &[u8]) -> Result<Vec<Variable>, Refusal> {
    let names = std::str::from_utf8(names).map_err(|_| Refusal::BadFormat)?;
    // A value after the name is for writing.
    let names = names.split(',').map(|item| item.split_once('=').map_or(item, |(name, _)| name));
    let mut chosen: Vec<Variable> = Vec::new();
    for name in names.map(|name| name.trim_matches(|c: char| c.is_whitespace() || c == '\0')) {
        if name.is_empty() || chosen.iter().any(|variable| variable.name == name) {
            continue;
        }
        let found = variables.iter().find(|variable| variable.name == name);
        chosen.push(found.ok_or(Refusal::UnknownVariable)?.clone());
    }
    Ok(if chosen.is_empty() { variables } else { chosen })
}

/// `name=value`, separated by commas, in lines that fit a terminal.
fn text(variables: &[Variable]) -> Vec<u8> {
    const WIDTH: usize = 72;
    let (mut text, mut column) = (String::new(), 0);
    for Variable { name, value } in variables {
        let item = format!("{name}={value}");
        if column > 0 {
            let fits = column + 2 + item.len() <= WIDTH;
            text.push_str(if fits { ", " } else { ",\r\n" });
            column = if fits { column + 2 } else { 0 };
        }
        column += item.len();
        text.push_str(&item);
    }
    text.push_str("\r\n");
    text.into_bytes()
}

#[cfg(test)]
mod tests;
