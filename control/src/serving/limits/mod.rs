//! Who is limited, and how: from the configuration and the operator's commands to what both answering paths
//! decide by.

mod blocks;
mod budget;
mod lists;

pub(crate) use blocks::Blocks;
pub use budget::{Budget, Shares};
pub use lists::{Effective, Entry, Listed, Lists, configured};
pub(crate) use lists::{duration, effective, flags};
