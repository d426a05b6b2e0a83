//! Builds the programs for the eBPF target.

fn main() -> anyhow::Result<()> {
    let sources = ["src", "../../xdp-ebpf/src", "../../responder/src", "../../Cargo.lock"];
    ebpf_build::build(&["baseline", "generator"], &sources)
}
