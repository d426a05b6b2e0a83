//! `upstream probe`: measures candidates and suggests the best.

use std::path::PathBuf;

use clap::Args;

use crate::error::{Code, Error, Result};
use crate::net::own_addresses::OwnAddresses;
use crate::output::{print_versioned_json, write};
use crate::tools::upstream_survey;

#[derive(Args, Debug)]
pub(super) struct ProbeArguments {
    /// Candidate names or addresses
    #[arg(required_unless_present = "file", value_name = "NAME")]
    names: Vec<String>,
    /// File with more candidates, one per line; # starts a comment
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Number of requests to each candidate, 2 s apart
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=i64::from(upstream_survey::MOST_REQUESTS)))]
    count: u8,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn probe(arguments: &ProbeArguments) -> Result<()> {
    let mut names = arguments.names.clone();
    if let Some(file) = &arguments.file {
        names.extend(upstream_survey::read_names(file)?);
    }
    let ranking = upstream_survey::rank(&upstream_survey::measure(
        &names,
        arguments.count,
        &OwnAddresses::of_this_host()?,
    )?);
    if arguments.json {
        print_versioned_json(&ranking)?;
    } else {
        write(&ranking.to_string())?;
    }
    if ranking.taken().next().is_none() {
        return Err(Error::new(Code::Unavailable, "no candidate is suitable as an upstream")
            .remedy("try others; public servers are listed at https://support.ntp.org/Servers"));
    }
    Ok(())
}
