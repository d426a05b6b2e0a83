//! A plain HTTP client on a host of the lab.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use serde_json::Value;
use testlab::{Lab, PATIENCE};

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    /// What is in the body.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.code, 200, "{self:?}");
        serde_json::from_str(&self.body).unwrap()
    }
}

/// Gets a path; `fields` are header lines, each with its end.
pub(crate) fn get(lab: &Lab, host: &str, address: &str, path: &str, fields: &str) -> Answer {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{fields}\r\n");
    try_request(lab, host, address, &request).unwrap_or_else(|error| panic!("{address}{path}: {error}"))
}

/// Sends a request as it is and reads the answer to its end.
pub(crate) fn try_request(lab: &Lab, host: &str, address: &str, request: &str) -> std::io::Result<Answer> {
    let mut text = String::new();
    lab.inside(host, || {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(request.as_bytes())?;
        stream.read_to_string(&mut text).map(|_length| ())
    })?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or(std::io::ErrorKind::UnexpectedEof)?;
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect(head);
    let body = if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        join_chunks(body)
    } else {
        body.to_owned()
    };
    Ok(Answer { code, head: head.to_owned(), body })
}

fn join_chunks(mut chunked: &str) -> String {
    let mut body = String::new();
    while let Some((length, rest)) = chunked.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).unwrap();
        body.push_str(&rest[..length]);
        chunked = rest[length..].strip_prefix("\r\n").unwrap_or_default();
    }
    body
}
