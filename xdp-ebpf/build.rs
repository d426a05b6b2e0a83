//! Builds this package's programs for the eBPF target when the package is built for the host.
//!
//! Not by aya-build: its flags are fixed, and one more is needed here ([`FLAGS`]).

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context as _, Result, bail};

/// The nightly whose LLVM the installed bpf-linker matches; `scripts/setup` installs both.
const TOOLCHAIN: &str = "nightly-2026-05-20";

/// Packages whose sources end up in the programs.
const SOURCES: [&str; 3] = ["src", "../responder/src", "../Cargo.lock"];

/// Debug information and BTF are what the kernel and bpftool show the program by.
///
/// Header fields stand at even offsets of a frame. Without the target feature LLVM would take every 4- and
/// 8-byte field apart into single bytes, although all machines that the kernel's JIT serves load them
/// whole. The verifier has the last word on it where the kernel insists on alignment.
const FLAGS: [&str; 3] =
    ["-Cdebuginfo=2", "-Clink-arg=--btf", "-Ctarget-feature=+allows-misaligned-mem-access"];

fn main() -> Result<()> {
    let architecture = env::var("CARGO_CFG_TARGET_ARCH")?;
    if architecture == "bpf" {
        return Ok(());
    }
    for source in SOURCES {
        println!("cargo:rerun-if-changed={source}");
    }
    let endian = if env::var("CARGO_CFG_TARGET_ENDIAN")? == "big" { "bpfeb" } else { "bpfel" };
    let target = format!("{endian}-unknown-none");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    // A target directory of its own: cargo holds a lock on the outer one while this runs.
    let target_directory = out.join("ebpf-target");

    build(&target, &architecture, &target_directory).with_context(|| {
        format!(
            "the eBPF programs did not build; they need the toolchain {TOOLCHAIN} with rust-src, and bpf-linker \
             in the path: `sudo scripts/setup` installs both"
        )
    })?;
    for program in ["pooltime", "yardstick", "generator"] {
        let built = target_directory.join(&target).join("release").join(program);
        fs::copy(&built, out.join(program)).with_context(|| format!("cannot copy {}", built.display()))?;
    }
    Ok(())
}

fn build(target: &str, architecture: &str, target_directory: &Path) -> Result<()> {
    let mut flags = vec![format!("--cfg=bpf_target_arch=\"{architecture}\"")];
    flags.extend(FLAGS.map(String::from));
    let mut cargo = Command::new("rustup");
    cargo
        .args(["run", TOOLCHAIN, "cargo", "build", "--quiet", "--release", "-Z", "build-std=core"])
        .args(["--package", "xdp-ebpf", "--bins", "--features", "ebpf", "--target", target])
        .arg("--target-dir")
        .arg(target_directory)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1");
    // Set by the outer cargo, and they would bring its compiler in.
    for variable in ["RUSTC", "RUSTC_WORKSPACE_WRAPPER", "RUSTUP_TOOLCHAIN", "CARGO"] {
        cargo.env_remove(variable);
    }
    let output = cargo.output().context("cannot run rustup")?;
    if !output.status.success() {
        bail!("{cargo:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
