//! The clock that is served: what the kernel and the local time daemon say of it, made into a
//! [`responder::ClockState`] and published.

pub mod disciplined;
pub mod drift;
#[cfg(test)]
mod fake;
pub mod kernel;
pub mod mirror;
pub mod publisher;
pub mod rate;
pub mod steering;
pub mod step;
pub mod system;
