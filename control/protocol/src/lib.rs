//! NTP between hosts, seen from whoever asks: requests, answers, and what an exchange measures.
//!
//! Pure: no sockets, no clock, no random numbers, no system calls. Bytes from the network come in, a value or a named
//! [`Reject`] goes out. Formats and constants that the answering code has, too, are those of [`responder`].
//!
//! # The way of an exchange
//!
//! 1. [`PendingRequest`] makes the request out of eight random bytes and keeps what the answer has to agree with.
//! 2. [`PendingRequest::read`] says whether a packet is the answer, as strictly as [`Strictness`] has it: the
//!    daemon's client, `query`, `upstream probe` and `pool check` differ in nothing else. A packet that does not repeat
//!    the request's transmit timestamp is never an answer.
//! 3. An [`Answer`] is a [`Kiss`] or a [`ServerTime`]; [`ServerTime::usable`] says whether a client can go by it.
//! 4. [`ServerTime::measure`] makes offset, delay and dispersion of it and of the two ends of the exchange.

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
