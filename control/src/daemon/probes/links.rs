//! What the kernel says of the interfaces from one look to the next: carriers that go, programs that are off, frames
//! that find no room.

use std::collections::BTreeMap;

use crate::status::probes::What;

/// An interface that is served, as the kernel has it at a look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::daemon) struct LinkLook {
    /// The name that it is served under.
    pub(in crate::daemon) name: String,
    /// What the kernel has of it; `None` if it is gone.
    pub(in crate::daemon) state: Option<LinkState>,
}

/// An interface that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::daemon) struct LinkState {
    /// Whether it is up and its link carries frames.
    pub(in crate::daemon) carries: bool,
    /// How often its carrier was lost.
    pub(in crate::daemon) carrier_losses: u32,
    /// Whether our program is on it.
    pub(in crate::daemon) is_attached: bool,
    /// Frames for which the driver had no room, and frames that it dropped on their way out.
    pub(in crate::daemon) drops: u64,
}

/// The states at the last look.
#[derive(Debug, Default)]
pub(super) struct LinkWatch {
    before: BTreeMap<String, LinkState>,
}

/// What a look found: the thing, and whether it went on since the last look and not only now.
pub(super) type Found = (What, bool);

impl LinkWatch {
    /// Takes in a look and returns what went on.
    pub(super) fn look(&mut self, links: &[LinkLook]) -> Vec<Found> {
        let mut found = Vec::new();
        for LinkLook { name, state } in links {
            let interface = || name.clone();
            let Some(state) = state else {
                found.push((What::LinkDown { interface: interface() }, false));
                continue;
            };
            let before = self.before.get(name);
            if !state.carries {
                found.push((What::LinkDown { interface: interface() }, false));
            } else if before
                .is_some_and(|before| before.carries && state.carrier_losses > before.carrier_losses)
            {
                // It came back before anybody looked.
                found.push((What::LinkDown { interface: interface() }, true));
            }
            if !state.is_attached {
                found.push((What::Detached { interface: interface() }, false));
            }
            let drops = before.map_or(0, |before| state.drops.saturating_sub(before.drops));
            if drops > 0 {
                found.push((What::DriverDrops { interface: interface(), number: drops }, true));
            }
        }
        let states = links.iter().filter_map(|link| Some((link.name.clone(), link.state?)));
        self.before = states.collect();
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FINE: LinkState = LinkState { carries: true, carrier_losses: 3, is_attached: true, drops: 7 };

    fn look(watch: &mut LinkWatch, state: Option<LinkState>) -> Vec<Found> {
        watch.look(&[LinkLook { name: "eth0".into(), state }])
    }

    #[test]
    fn an_interface_that_is_well_is_not_worth_a_word_and_every_trouble_is() {
        let mut watch = LinkWatch::default();
        let interface = || "eth0".to_owned();
        let down = |since| vec![(What::LinkDown { interface: interface() }, since)];
        assert_eq!(look(&mut watch, Some(FINE)), []);
        assert_eq!(look(&mut watch, Some(FINE)), []);
        let flapped = LinkState { carrier_losses: 4, ..FINE };
        assert_eq!(look(&mut watch, Some(flapped)), down(true), "between two looks");
        assert_eq!(look(&mut watch, Some(flapped)), []);
        let without = LinkState { carries: false, carrier_losses: 5, ..FINE };
        assert_eq!(look(&mut watch, Some(without)), down(false));
        assert_eq!(look(&mut watch, Some(LinkState { carries: true, ..without })), []);
        assert_eq!(look(&mut watch, None), down(false));
        let off = LinkState { is_attached: false, ..FINE };
        assert_eq!(look(&mut watch, Some(off)), [(What::Detached { interface: interface() }, false)]);
        let full = LinkState { drops: 19, ..FINE };
        assert_eq!(
            look(&mut watch, Some(full)),
            [(What::DriverDrops { interface: interface(), number: 12 }, true)]
        );
        // A driver that was loaded anew counts from zero.
        assert_eq!(look(&mut watch, Some(LinkState { drops: 0, ..FINE })), []);
    }
}
