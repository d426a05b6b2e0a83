//! `query`: asks servers for the time.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use clap::Args;
use responder::udp::NTP_PORT;
use serde_json::json;

use super::{FamilyArguments, resolve, say, seconds};
use crate::error::{Code, Error, Result};
use crate::net::own_addresses::OwnAddresses;
use crate::tools::query::{Failure, Reading, exchange};

#[derive(Args, Debug)]
pub(super) struct QueryArguments {
    /// Server names or addresses
    #[arg(required = true, value_name = "SERVER")]
    servers: Vec<String>,
    #[command(flatten)]
    family: FamilyArguments,
    /// UDP port to query
    #[arg(long, default_value_t = NTP_PORT)]
    port: u16,
    /// Timeout for each answer, in seconds
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=60))]
    timeout: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn query(arguments: &QueryArguments) -> Result<()> {
    let timeout = Duration::from_secs(arguments.timeout);
    // This only adds a remark; the query works even if the host's own addresses cannot be listed.
    let own = OwnAddresses::of_this_host().unwrap_or_default();
    let (mut lines, mut synchronised) = (Vec::new(), 0);
    for server in &arguments.servers {
        for address in resolve(server, arguments.port, &arguments.family)? {
            let result = exchange(SocketAddr::new(address.ip(), arguments.port), timeout);
            synchronised += usize::from(result.as_ref().is_ok_and(Reading::is_synchronised));
            if arguments.json {
                lines.push(describe_json(server, address.ip(), &result, &own));
            } else {
                say(format_args!("{}", describe(address.ip(), &result, &own)))?;
            }
        }
    }
    if arguments.json {
        say(format_args!("{:#}", serde_json::Value::from(lines)))?;
    }
    if synchronised == 0 {
        return Err(Error::new(Code::Unavailable, "no synchronised server answered"));
    }
    Ok(())
}

/// Returns whether the server takes its time from this host.
fn is_loop(reading: &Reading, own: &OwnAddresses) -> bool {
    own.is_loop(reading.stratum, reading.reference_id)
}

/// Formats a result like `ntpdate -q`.
fn describe(address: IpAddr, result: &std::result::Result<Reading, Failure>, own: &OwnAddresses) -> String {
    match result {
        Ok(reading) => {
            let note = if reading.is_synchronised() { "" } else { ", NOT SYNCHRONISED" };
            format!(
                "server {address}, stratum {}, offset {:.6}, delay {:.6}, leap {}, refid {}{note}{}",
                reading.stratum,
                seconds(reading.offset_ns),
                seconds(reading.delay_ns),
                reading.leap,
                reading.reference(),
                if is_loop(reading, own) { ", which is this host: a loop" } else { "" },
            )
        }
        Err(failure) => format!("server {address}: {failure}"),
    }
}

fn describe_json(
    server: &str,
    address: IpAddr,
    result: &std::result::Result<Reading, Failure>,
    own: &OwnAddresses,
) -> serde_json::Value {
    match result {
        Ok(reading) => json!({
            "server": server,
            "address": address.to_string(),
            "synchronised": reading.is_synchronised(),
            "leap": reading.leap,
            "stratum": reading.stratum,
            "precision": reading.precision,
            "reference": reading.reference(),
            "loop": is_loop(reading, own),
            "offset_s": seconds(reading.offset_ns),
            "delay_s": seconds(reading.delay_ns),
            "root_delay_s": seconds(reading.root_delay.as_nanos().cast_signed()),
            "root_dispersion_s": seconds(reading.root_dispersion.as_nanos().cast_signed()),
        }),
        Err(failure) => {
            json!({ "server": server, "address": address.to_string(), "error": failure.to_string() })
        }
    }
}
