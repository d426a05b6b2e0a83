//! The program under test, and how it is run on a host of the lab.

use testlab::{Lab, Output};

/// Its path.
pub(crate) const BENCH: &str = env!("CARGO_BIN_EXE_pooltime-bench");

/// The generators that need root.
pub(crate) const LINK_GENERATORS: [&str; 3] = ["packet", "xdp", "live"];

/// Runs it on the host `client`.
pub(crate) fn bench(lab: &Lab, arguments: &[&str]) -> Output {
    Output::of(lab.command("client", BENCH).args(arguments))
}
