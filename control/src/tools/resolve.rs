//! Resolves a server's name to its addresses.

use std::net::{SocketAddr, ToSocketAddrs as _};

use clap::Args;

use crate::error::{Code, Error, Result};

/// Options that select the address family of names.
#[derive(Args, Debug)]
pub(crate) struct FamilyArguments {
    /// Use only IPv4 addresses
    #[arg(short = '4', long, conflicts_with = "ipv6")]
    ipv4: bool,
    /// Use only IPv6 addresses
    #[arg(short = '6', long)]
    ipv6: bool,
}

/// Returns the addresses of a server, of one family or of both.
pub(crate) fn resolve(server: &str, port: u16, family: &FamilyArguments) -> Result<Vec<SocketAddr>> {
    let addresses: Vec<_> = (server, port)
        .to_socket_addrs()
        .map_err(Error::because(Code::NoInput, format_args!("`{server}`")))?
        .filter(|address| !(family.ipv4 && address.is_ipv6() || family.ipv6 && address.is_ipv4()))
        .collect();
    if addresses.is_empty() {
        return Err(Error::new(Code::NoInput, format_args!("`{server}` has no address in that family")));
    }
    Ok(addresses)
}
