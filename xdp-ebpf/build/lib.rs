//! Builds a package's eBPF programs while cargo builds the package for the host: for build scripts.
//!
//! Not by aya-build: its flags are fixed, and one more is needed here ([`FLAGS`]).

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context as _, Result, bail};

/// The nightly whose LLVM the installed bpf-linker matches; `scripts/setup` installs both.
const TOOLCHAIN: &str = "nightly-2026-05-20";

/// Debug information and BTF are what the kernel and bpftool show the program by.
///
/// Header fields stand at even offsets of a frame. Without the target feature LLVM would take every 4- and
/// 8-byte field apart into single bytes, although all machines that the kernel's JIT serves load them
/// whole. The verifier has the last word on it where the kernel insists on alignment.
const FLAGS: [&str; 3] =
    ["-Cdebuginfo=2", "-Clink-arg=--btf", "-Ctarget-feature=+allows-misaligned-mem-access"];

/// A feature of the package that is passed on to its programs.
const PASSED_ON: &str = "other-layout";

/// Builds `programs`, which are binaries of the package whose build script calls this and need its feature `ebpf`,
/// and puts each under its name into `OUT_DIR`. They are built again when one of `sources` changes, which are paths
/// relative to the package: what ends up in the programs.
///
/// Does nothing while the package itself is built for the eBPF target.
///
/// # Errors
///
/// If the programs do not build, with what the compiler says, or if cargo's variables are missing.
pub fn build(programs: &[&str], sources: &[&str]) -> Result<()> {
    let architecture = env::var("CARGO_CFG_TARGET_ARCH")?;
    if architecture == "bpf" {
        return Ok(());
    }
    for source in sources {
        println!("cargo:rerun-if-changed={source}");
    }
    let endian = if env::var("CARGO_CFG_TARGET_ENDIAN")? == "big" { "bpfeb" } else { "bpfel" };
    let target = format!("{endian}-unknown-none");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    // A target directory of its own: cargo holds a lock on the outer one while this runs.
    let target_directory = out.join("ebpf-target");

    compile(&target, &architecture, &target_directory).with_context(|| {
        format!(
            "the eBPF programs did not build; they need the toolchain {TOOLCHAIN} with rust-src, and bpf-linker \
             in the path: `sudo scripts/setup` installs both"
        )
    })?;
    for program in programs {
        let built = target_directory.join(&target).join("release").join(program);
        fs::copy(&built, out.join(program)).with_context(|| format!("cannot copy {}", built.display()))?;
    }
    Ok(())
}

/// Where sources are on this machine is of no use to anybody else, and would make other bytes of the same sources.
fn remapped_paths() -> Result<Vec<String>> {
    let package = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let workspace = package.ancestors().find(|directory| directory.join("Cargo.lock").exists());
    let workspace = workspace.context("no directory above this package has a Cargo.lock")?.to_owned();
    let home = env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let cargo = env::var_os("CARGO_HOME").map_or_else(|| home.join(".cargo"), PathBuf::from);
    let mut rustc = Command::new("rustup");
    rustc.args(["run", TOOLCHAIN, "rustc", "--print", "sysroot"]).env_remove("RUSTUP_TOOLCHAIN");
    let output = rustc.output().context("cannot run rustup")?;
    let sysroot = String::from_utf8(output.stdout)?;
    if !output.status.success() || sysroot.trim().is_empty() {
        bail!("{rustc:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    let directories = [
        (workspace, "/usr/src/pooltime-xdp"),
        (cargo, "/usr/src/cargo"),
        (PathBuf::from(sysroot.trim()), "/usr/src/rust"),
    ];
    let remap = |(from, to): (PathBuf, &str)| format!("--remap-path-prefix={}={to}", from.display());
    Ok(directories.into_iter().filter(|(from, _)| !from.as_os_str().is_empty()).map(remap).collect())
}

fn compile(target: &str, architecture: &str, target_directory: &Path) -> Result<()> {
    let package = env::var("CARGO_PKG_NAME")?;
    let mut flags = vec![format!("--cfg=bpf_target_arch=\"{architecture}\"")];
    flags.extend(FLAGS.map(String::from));
    flags.extend(remapped_paths()?);
    let features = match env::var_os("CARGO_FEATURE_OTHER_LAYOUT") {
        Some(_) => format!("ebpf,{PASSED_ON}"),
        None => "ebpf".into(),
    };
    let mut cargo = Command::new("rustup");
    cargo
        .args(["run", TOOLCHAIN, "cargo", "build", "--quiet", "--release", "-Z", "build-std=core"])
        .args(["--package", &package, "--bins", "--features", &features, "--target", target])
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
