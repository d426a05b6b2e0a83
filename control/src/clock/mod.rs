//! The clock that is served: what the kernel and the local time daemon say of it, made into a
//! [`responder::ClockState`] and published.

pub mod kernel;
pub mod publisher;
pub mod step;
pub mod system;
