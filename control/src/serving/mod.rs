//! What answers clients: the eBPF program and its maps, the socket for what it passes up, and the limits on both.

pub mod limits;
pub mod mode6;
pub mod quota;
pub mod traffic;
pub mod userspace;
pub mod xdp;
