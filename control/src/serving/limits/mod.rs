//! Who is limited, and how: from the configuration and the operator's commands to what both answering paths
//! decide by.

mod blocks;
mod budget;
mod in_force;
mod lists;

pub use blocks::Blocks;
pub use budget::{Budget, Shares};
pub use in_force::{Changes, Effective, InForce, Maps};
pub(crate) use lists::duration;
pub use lists::{Entry, Listed, Lists};
