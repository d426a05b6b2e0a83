//! Where the served time comes from: sources, the discipline over them, and the kernel's clock.

pub mod drift;
#[cfg(test)]
mod fake;
pub mod keeper;
mod kernel_leap;
pub mod kernel_steering;
pub mod line_state;
pub mod pause_watch;
pub mod rate_watch;
mod slew_file;
pub mod sources;
pub mod step_watch;
pub mod system_clock;
pub mod timekeeper;
