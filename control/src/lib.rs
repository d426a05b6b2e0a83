//! `pooltime-xdp`: attaches the NTP server to interfaces, keeps its clock and shows what it does.
//!
//! Data flows one way: the kernel's clock and the interfaces' addresses come in, [`clock`] and
//! [`interfaces`] make state of them, [`datapath`] publishes it to the eBPF program's maps, [`socket`]
//! answers by it what the program passes up, and [`status`] shows it; [`observe`] does so over HTTP, [`health`]
//! says whether all is well. [`daemon`] is the loop around all that, [`command`] the command line.

pub mod cli;
pub mod config;
pub mod daemon;
pub use ::discipline;
pub mod error;
pub mod http;
pub mod instance;
pub mod log;
pub mod net;
pub mod serving;
pub mod status;
pub mod sys;
pub mod timekeeping;
pub mod tools;
