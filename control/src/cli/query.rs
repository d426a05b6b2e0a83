//! `query`: asks servers for the time.

use std::net::IpAddr;
use std::time::Duration;

use clap::Args;
use protocol::Reading;
use responder::udp::NTP_PORT;
use serde_json::json;

use crate::error::{Code, Error, Result};
use crate::net::own_addresses::OwnAddresses;
use crate::net::query::{Failure, exchange};
use crate::output::{print_line, print_versioned_json, seconds};
use crate::tools::resolve::{FamilyArguments, resolve};

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
            let result = exchange(address, timeout);
            synchronised +=
                usize::from(result.as_ref().is_ok_and(|reading| reading.server.is_synchronised()));
            if arguments.json {
                lines.push(describe_json(server, address.ip(), &result, &own));
            } else {
                print_line(format_args!("{}", describe(address.ip(), &result, &own)))?;
            }
        }
    }
    if arguments.json {
        print_versioned_json(&json!({ "answers": lines }))?;
    }
    if synchronised == 0 {
        return Err(Error::new(Code::Unavailable, "no synchronised server answered"));
    }
    Ok(())
}

/// Formats a result like `ntpdate -q`.
fn describe(address: IpAddr, result: &std::result::Result<Reading, Failure>, own: &OwnAddresses) -> String {
    match result {
        Ok(Reading { server, offset_ns, delay_ns }) => {
            let note = if server.is_synchronised() { "" } else { ", NOT SYNCHRONISED" };
            format!(
                "server {address}, stratum {}, offset {:.6}, delay {:.6}, leap {}, refid {}{note}{}",
                server.stratum,
                seconds(*offset_ns),
                seconds(*delay_ns),
                server.leap,
                server.reference(),
                if server.is_loop(own.reference_ids()) { ", which is this host: a loop" } else { "" },
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
        Ok(Reading { server: said, offset_ns, delay_ns }) => json!({
            "server": server,
            "address": address.to_string(),
            "synchronised": said.is_synchronised(),
            "leap": said.leap,
            "stratum": said.stratum,
            "precision": said.precision,
            "reference": said.reference(),
            "loop": said.is_loop(own.reference_ids()),
            "offset_s": seconds(*offset_ns),
            "delay_s": seconds(*delay_ns),
            "root_delay_s": seconds(said.root_delay.as_nanos().cast_signed()),
            "root_dispersion_s": seconds(said.root_dispersion.as_nanos().cast_signed()),
        }),
        Err(failure) => {
            json!({ "server": server, "address": address.to_string(), "error": failure.to_string() })
        }
    }
}
