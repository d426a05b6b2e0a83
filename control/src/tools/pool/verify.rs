//! `pool verify`: the proof that a server belongs to its operator.
//!
//! The pool's management pages ask the operator to fetch a page of its validation server from the address
//! that is to be proved. That page names an address to open in the browser in which the operator is logged
//! in. There is one validation server per family. The built-in ones are those that the management pages have
//! shown since 2024. The page of an unverified server names the present one, and `--url` takes it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use super::http::{self, Family, From};
use crate::error::{Code, Error, Result};
use crate::output::print_line;

const VALIDATION_IPV4: &str = "https://validate4.ntppool.dev/p/";
const VALIDATION_IPV6: &str = "https://validate6.ntppool.dev/p/";

/// Arguments of `pool verify`.
#[derive(clap::Args, Debug)]
pub(crate) struct VerifyArguments {
    /// The server's address, one of this host
    #[arg(value_name = "ADDRESS")]
    address: IpAddr,
    /// Ask the validation server now, from that address, and print what it says
    #[arg(long)]
    now: bool,
    /// The validation server's page, if the pool names another one [default: the pool's for the family]
    #[arg(long, value_name = "URL")]
    url: Option<String>,
}

/// Shows the step, or takes it.
pub(super) fn run(arguments: &VerifyArguments) -> Result<()> {
    let address = arguments.address;
    let (family, validation) = match address {
        IpAddr::V4(_) => (Family::Ipv4, VALIDATION_IPV4),
        IpAddr::V6(_) => (Family::Ipv6, VALIDATION_IPV6),
    };
    let url = arguments.url.as_deref().unwrap_or(validation);
    if !arguments.now {
        return print_line(format_args!("{}", steps(address, url)));
    }
    require_own(address)?;
    let page = http::get(url, From { family: Some(family), address: Some(address) }).map_err(|error| {
        error.remedy(
            "the page of the unverified server at https://manage.ntppool.org/manage/servers shows the current \
             address: pass it with --url",
        )
    })?;
    // The text goes to a terminal.
    let text: String = page.chars().filter(|c| !c.is_control() || *c == '\n').take(4_096).collect();
    print_line(format_args!("{}", text.trim_end()))
}

fn steps(address: IpAddr, url: &str) -> String {
    let flag = if address.is_ipv4() { "-4" } else { "-6" };
    format!(
        "To prove that {address} is yours:\n\
         1. Log in at https://manage.ntppool.org/manage/servers and add the server, if that is not done.\n\
         2. On this host, from this address, do one of\n\
         \x20    pooltime-xdp pool verify --now {address}\n\
         \x20    curl {flag} --interface {address} {url}\n\
         3. Open the address that it prints in the browser where you are logged in.\n\
         The page of the unverified server shows the validation server; if it is not {url}, add --url."
    )
}

/// Requires an address of this host. Otherwise the kernel would report "cannot assign requested address"
/// after the name was resolved.
fn require_own(address: IpAddr) -> Result<()> {
    let any: IpAddr =
        if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(address, 0));
    if address == any || socket.is_err() {
        return Err(Error::new(Code::NoInput, format_args!("{address} is not an address of this host"))
            .remedy("run it on the server, with one of the addresses that `ip address` shows"));
    }
    Ok(())
}
