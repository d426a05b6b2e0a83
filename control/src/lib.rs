//! `pooltime-xdp`: attaches the NTP server to interfaces, keeps its clock and shows what it does.
//!
//! Data flows one way: the kernel's clock and the interfaces' addresses come in, [`clock`] and
//! [`interfaces`] make state of them, [`datapath`] publishes it to the eBPF program's maps, [`socket`]
//! answers by it what the program passes up, and [`status`] shows it; [`observe`] does so over HTTP, [`health`]
//! says whether all is well. [`daemon`] is the loop around all that, [`command`] the command line.

pub mod clock;
pub mod command;
pub mod config;
pub mod daemon;
pub mod datapath;
pub use ::discipline;
pub mod doctor;
pub mod error;
pub mod health;
mod holder;
pub mod import;
pub mod instance;
pub mod interfaces;
pub mod limits;
pub mod log;
pub mod mode6;
pub mod nic;
pub mod observe;
pub mod own_addresses;
pub mod peers;
pub mod pool;
pub mod probe;
mod process;
pub mod query;
mod route;
pub mod socket;
mod stack;
pub mod status;
pub mod sys;
mod top;
pub mod traffic;
pub mod upstream;
