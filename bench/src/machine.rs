//! The machine that figures come from.

use std::fs;

use serde::{Deserialize, Serialize};

/// What decides about figures besides the code.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Machine {
    /// Release of the running kernel.
    pub(crate) kernel: String,
    /// The processor's own name for itself.
    pub(crate) processor: String,
    /// Processors of the machine.
    pub(crate) cpus: usize,
    /// Whether the kernel compiles eBPF to machine code; without, figures are an interpreter's.
    pub(crate) jit: bool,
}

impl Machine {
    /// This machine. What cannot be read is left empty: no figure depends on it.
    pub(crate) fn describe() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let processors = read("/proc/cpuinfo");
        let processor = processors.lines().find(|line| line.starts_with("model name"));
        Self {
            kernel: kernel_release(),
            processor: processor
                .and_then(|line| line.split_once(':'))
                .map(|(_, name)| name.trim().to_owned())
                .unwrap_or_default(),
            cpus: processors.lines().filter(|line| line.starts_with("processor")).count(),
            // Absent where the kernel is built with nothing but the JIT.
            jit: read("/proc/sys/net/core/bpf_jit_enable").trim() != "0",
        }
    }
}

/// Release of the running kernel.
pub(crate) fn kernel_release() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}
