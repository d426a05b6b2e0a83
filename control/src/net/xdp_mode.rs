//! Where in the kernel an interface runs its XDP program.

use serde::{Deserialize, Serialize};

/// Where in the kernel the program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// In the driver, before a socket buffer is made of the frame.
    Native,
    /// Behind the driver, on socket buffers: works everywhere, at a part of the speed.
    Generic,
}

impl Mode {
    /// The word for it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}
