//! What the daemon grants each CPU and what the CPU has spent of it, and the samples that come back.

use responder::layout;
use responder::layout::{Grant, Spent};
use responder::sample::Sample;

use super::{Datapath, map_error};
use crate::error::{Code, Error, Result};
use crate::sys::Plain;

impl Datapath {
    /// What each CPU that the kernel may have has spent.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn spent(&self) -> Result<Vec<Spent>> {
        let spent = self.spent_map.get(&0, 0).map_err(map_error(layout::SPENT))?;
        Ok(spent.iter().map(|Plain(spent)| *spent).collect())
    }

    /// Grants each of them something; as many as [`Datapath::spent`] gives.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn grant(&mut self, grants: &[Grant]) -> Result<()> {
        let values = aya::maps::PerCpuValues::try_from(grants.iter().copied().map(Plain).collect::<Vec<_>>())
            .map_err(Error::because(Code::Software, "grants"))?;
        self.grants_map.set(0, values, 0).map_err(map_error(layout::GRANTS))
    }

    /// Takes the samples that have come in, at most as many as there is room for.
    pub fn take_samples(&mut self) -> Vec<Sample> {
        const MOST: usize = layout::SAMPLES_BYTES / size_of::<Sample>();
        let mut samples = Vec::new();
        while samples.len() < MOST
            && let Some(item) = self.samples_map.next()
        {
            samples.extend(item.first_chunk().map(Sample::from_bytes));
        }
        samples
    }
}
