//! The served time is never further off than the answers claim, whatever the upstreams do: the real daemon, upstreams
//! that behave as they are told, and the oracle, which checks every answer against the truth.
//!
//! The kernel's clock is left alone. It is the truth.

#[path = "../lab/mod.rs"]
mod lab;

mod instruments;
