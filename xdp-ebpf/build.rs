//! Builds the program for the eBPF target.

fn main() -> anyhow::Result<()> {
    ebpf_build::build(&["pooltime"], &["src", "../responder/src", "../Cargo.lock"])
}
