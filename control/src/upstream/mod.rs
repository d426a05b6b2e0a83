//! The daemon as an NTP client: it asks the configured upstreams, and what they answer goes to the
//! [`crate::discipline`].

pub mod answer;
pub mod exchange;
mod stamp;
