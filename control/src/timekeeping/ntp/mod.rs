//! What a client makes of NTP packets.

pub mod answer;
pub mod reference;
pub mod reject;
