//! The host's network as the server sees it: interfaces, their addresses and relations, and the default route.

pub mod address;
pub mod default_route;
pub(crate) mod forwarding;
pub mod interfaces;
pub mod own_addresses;
pub mod prefix;
pub mod query;
pub mod served;
pub mod server_name;
pub mod stations;
pub mod topology;
pub mod xdp_mode;
