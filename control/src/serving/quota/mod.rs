//! The monthly traffic quota: what was used, how fast the rest may be used, and the file that keeps both.

mod account;
mod bytes;
mod pace;
mod period;
mod record;
#[cfg(test)]
mod tests;
mod view;

pub use account::{Account, Demand, Month, Rates};
pub use bytes::Bytes;
pub use pace::{FLOOR, Pace, Standing};
pub use period::Period;
pub use record::{Identity, Record, RecordFile, came};
