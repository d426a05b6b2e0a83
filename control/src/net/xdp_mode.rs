//! Where in the kernel an interface runs its XDP program.

use serde::{Deserialize, Serialize};

/// Where in the kernel the program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// In the driver, before a socket buffer is made for the frame.
    Native,
    /// After the driver, on socket buffers: works everywhere, but is slower.
    Generic,
}

impl Mode {
    /// Stable label, for text output and JSON.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}
