//! Where the served time comes from: sources, the discipline over them, and the kernel's clock.

pub mod disciplined;
pub mod drift;
#[cfg(test)]
mod fake;
pub mod kernel_steering;
pub mod mirror;
pub mod ntp;
pub mod rate_watch;
pub mod step_watch;
pub mod system_clock;
