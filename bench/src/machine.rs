//! The machine on which figures were measured.

use std::fs;

use serde::{Deserialize, Serialize};

/// What figures depend on besides the code.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Machine {
    /// Release of the running kernel.
    pub(crate) kernel: String,
    /// Model name of the processor.
    pub(crate) processor: String,
    /// Number of processors of the machine.
    pub(crate) cpus: usize,
    /// Whether the kernel compiles eBPF to machine code. Without that, figures are those of an interpreter.
    pub(crate) jit: bool,
}

impl Machine {
    /// Describes this machine. What cannot be read is left empty, because no figure depends on it.
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
            // The file is absent if the kernel is built with the JIT as the only choice.
            jit: read("/proc/sys/net/core/bpf_jit_enable").trim() != "0",
        }
    }
}

/// Release of the running kernel.
pub(crate) fn kernel_release() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}
