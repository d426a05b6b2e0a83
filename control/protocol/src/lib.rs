//! NTP between hosts from the client's side: requests, answers, and what an exchange measures.
//!
//! This crate is pure: it has no sockets, clock, random numbers or system calls. Bytes from the network
//! come in, and a value or a named [`Reject`] goes out. Formats and constants that the answering code also
//! needs are those of [`responder`].
//!
//! # The steps of an exchange
//!
//! 1. [`PendingRequest`] makes the request from eight random bytes and keeps what the answer must agree with.
//! 2. [`PendingRequest::read`] decides whether a packet is the answer, according to a [`Strictness`]. The
//!    daemon's client, `query`, `upstream probe` and `pool check` differ only in that. A packet that does not
//!    repeat the request's transmit timestamp is never an answer.
//! 3. An [`Answer`] is a [`Kiss`] or a [`ServerTime`]; [`ServerTime::usable`] tells whether a client can use
//!    it.
//! 4. [`ServerTime::measure`] computes offset, delay and dispersion from it and from the times of both ends.

pub mod answer;
pub mod kiss;
pub mod measurement;
pub mod packet;
pub mod reference;
pub mod reject;
pub mod request;
pub mod time;

pub use answer::{Answer, ServerTime, Strictness};
pub use kiss::Kiss;
pub use measurement::{Era, Measurement, Reading, Times};
pub use reference::{reference_id, show_reference};
pub use reject::Reject;
pub use request::PendingRequest;
