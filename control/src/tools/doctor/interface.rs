//! An interface: the program on it, its mode, and the settings that matter to both.

use responder::layout;

use super::finding::Finding;
use super::{Serving, native};
use crate::net::interfaces::Interface;
use crate::net::xdp_mode::Mode;
use crate::safe_text::shell_word;
use crate::serving::xdp::{self, Condition, conditions, hypervisor_offloads, slow_transmit};
use crate::sys::ethtool::{Feature, Nic};

/// The XDP program on an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Program {
    /// No program is attached.
    Absent,
    /// The program of this server.
    Own { mode: Mode, fallback: Option<String>, remark: Option<String> },
    /// The program of somebody else or of another instance.
    Foreign { mode: Mode, id: u32, name: Option<String> },
    /// A program whose owner cannot be found out without root.
    Unknown { mode: Mode, id: u32 },
}

/// The facts about an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "readings, each of a thing of its own")]
struct Facts {
    name: String,
    /// The beginning of commands to this instance.
    command: String,
    up: bool,
    mtu: u32,
    is_bond: bool,
    /// Why the program cannot serve on it, and what to do instead.
    unservable: Option<(&'static str, &'static str)>,
    driver: Option<String>,
    program: Program,
    /// Whether the server should be attached now.
    expected: bool,
    /// Whether the driver reports native XDP.
    native: Option<bool>,
    /// Settings that keep some drivers from native XDP.
    conditions: Vec<Condition>,
    /// Whether the hypervisor merges segments in a way that this host cannot turn off.
    host_offloads: bool,
    /// Features that are on and strip VLAN tags.
    strips: Vec<Feature>,
    slow_transmit: Option<String>,
}

/// Examines an interface.
pub(super) fn examine(interface: &Interface, serving: &Serving, command: &str) -> Vec<Finding> {
    judge(&look(interface, serving, command))
}

fn look(interface: &Interface, serving: &Serving, command: &str) -> Facts {
    let nic = Nic(&interface.name);
    let served = serving.status().and_then(|status| {
        status.interfaces.iter().find(|served| served.index == interface.index && served.index != 0)
    });
    let own = served.and_then(|served| Some((served.mode?, served)));
    let program = match (interface.xdp, own, serving) {
        (_, Some((mode, served)), _) => {
            Program::Own { mode, fallback: served.fallback.clone(), remark: served.remark.clone() }
        }
        (None, None, _) => Program::Absent,
        (Some(xdp), None, Serving::Unknown) => Program::Unknown { mode: xdp.mode, id: xdp.program_id },
        (Some(xdp), None, _) => {
            Program::Foreign { mode: xdp.mode, id: xdp.program_id, name: xdp::program_name(xdp.program_id) }
        }
    };
    let is_on = |feature: &Feature| nic.has(*feature).unwrap_or(false);
    Facts {
        name: interface.name.clone(),
        command: command.into(),
        up: interface.up,
        mtu: interface.mtu,
        is_bond: interface.is_bond,
        unservable: interface.unservable(),
        driver: nic.driver(),
        program,
        expected: served.is_some(),
        native: native::says_native(interface.index),
        conditions: conditions(interface),
        host_offloads: nic.is_fixed(Feature::HardwareJoin).unwrap_or(false),
        strips: [Feature::StripTag, Feature::StripServiceTag].into_iter().filter(is_on).collect(),
        slow_transmit: slow_transmit(interface),
    }
}

fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !facts.up {
        findings.push(
            Finding::problem("interface-down", format!("{} is down", facts.name))
                .why("no packet arrives on it")
                .fix(format!("ip link set dev {} up", shell_word(&facts.name))),
        );
    }
    if let Some((reason, remedy)) = facts.unservable {
        findings.push(
            Finding::problem("interface-kind", format!("{} cannot be served on", facts.name))
                .why(reason)
                .advice(remedy),
        );
        return findings;
    }
    findings.extend(program(facts));
    findings.extend(settings(facts));
    findings
}

/// Examines the program, and the mode that it has or would get.
fn program(facts: &Facts) -> Vec<Finding> {
    let name = &facts.name;
    let driver = facts.driver.as_deref().unwrap_or("no driver's name");
    match &facts.program {
        Program::Own { mode: Mode::Native, remark, .. } => {
            let attached = Finding::ok("xdp-mode", format!("{name} ({driver}): attached in native mode"));
            let remark = remark.as_ref().map(|remark| Finding::note("transmit-queues", remark.clone()));
            std::iter::once(attached).chain(remark).collect()
        }
        Program::Own { mode: Mode::Generic, fallback: None, .. } => {
            vec![
                Finding::note(
                    "xdp-mode",
                    format!("{name} ({driver}): attached in generic mode, as requested"),
                )
                .why("it answers fewer requests per second than native mode"),
            ]
        }
        Program::Own { mode: Mode::Generic, fallback: Some(reason), .. } => {
            vec![
                Finding::warning(
                    "xdp-mode",
                    format!(
                        "{name} ({driver}): attached in generic mode because native mode was refused: {reason}"
                    ),
                )
                .why("clients are answered, but more slowly than in native mode"),
            ]
        }
        Program::Foreign { mode, id, name: program } => vec![foreign(facts, *mode, *id, program.as_deref())],
        Program::Unknown { mode, id } => vec![Finding::unseen(
            "xdp-foreign",
            &format!("the owner of XDP program {id}, attached to {name} in {} mode", mode.label()),
            "needs root and a daemon that responds",
        )],
        Program::Absent if facts.expected => vec![
            Finding::problem("xdp-missing", format!("{name}: the program is no longer attached"))
                .why("at best, requests reach only the socket on port 123")
                .fix(format!("{} attach {}", facts.command, shell_word(name))),
        ],
        Program::Absent => prospect(facts, driver),
    }
}

fn foreign(facts: &Facts, mode: Mode, id: u32, program: Option<&str>) -> Finding {
    let Facts { name, command, .. } = facts;
    let word = shell_word(name);
    let described =
        program.map_or_else(|| "an XDP program".into(), |program| format!("the XDP program `{program}`"));
    let keyword = match mode {
        Mode::Native => "xdpdrv",
        Mode::Generic => "xdpgeneric",
    };
    let found = Finding::problem(
        "xdp-foreign",
        format!(
            "{name}: {described} (id {id}, {} mode) is attached, and does not belong to this server",
            mode.label()
        ),
    );
    if program == Some(layout::PROGRAM) || program == Some(layout::PROGRAM_FRAGS) {
        return found
            .why("another instance of this server has the interface")
            .advice("`pooltime-xdp --instance NAME status` shows it; an interface takes one instance only");
    }
    found
        .why("an interface takes one XDP program; this server does not replace another one unless told to")
        .fix(format!("ip link set dev {word} {keyword} off"))
        .advice(format!(
            "`{command} attach {word} --replace`; `bpftool prog show id {id}` shows whose it is; if \
            a BPF link holds it (`bpftool link list`), only its owner can detach it"
        ))
}

/// Predicts what attaching would result in.
fn prospect(facts: &Facts, driver: &str) -> Vec<Finding> {
    let name = &facts.name;
    let not_native = if facts.is_bond {
        Some("a bond is served in generic mode; attach to its ports instead")
    } else if facts.host_offloads {
        Some("its driver refuses native XDP because the host coalesces received segments")
    } else if facts.native == Some(false) {
        Some("its driver has no native XDP, or not with the current settings")
    } else {
        None
    };
    let finding = match not_native {
        Some(why) => {
            Finding::note("xdp-mode", format!("{name} ({driver}): would be attached in generic mode"))
                .why(format!("{why}; generic mode answers fewer requests per second than native mode"))
        }
        None if facts.native.is_none() => Finding::note(
            "xdp-mode",
            format!("{name} ({driver}): attaching will show whether its driver has native XDP"),
        )
        .why("kernels before 6.3 do not report it"),
        None => Finding::ok("xdp-mode", format!("{name} ({driver}): the driver has native XDP")),
    };
    // Generic mode does not take queues of its own.
    let slow = facts.slow_transmit.as_ref().filter(|_| not_native.is_none());
    std::iter::once(finding).chain(slow.map(|text| Finding::note("transmit-queues", text.clone()))).collect()
}

/// Examines settings that keep drivers from native mode or spoil it. Once the program is attached in native
/// mode, the former are fine, whatever they are.
fn settings(facts: &Facts) -> Vec<Finding> {
    let name = &facts.name;
    let mut findings = Vec::new();
    if let Program::Own { mode: Mode::Native, .. } = facts.program {
        for feature in &facts.strips {
            let feature = feature.ethtool_name();
            findings.push(
                Finding::problem("vlan-tags", format!("{name} strips VLAN tags ({feature} is on)"))
                    .why("a native program does not see them, so answers to tagged requests go to the wrong VLAN")
                    .fix(format!("ethtool -K {} {feature} off", shell_word(name))),
            );
        }
    } else if !matches!(facts.program, Program::Own { mode: Mode::Generic, fallback: None, .. }) {
        for condition in &facts.conditions {
            let Condition { what, command } = condition;
            findings.push(
                Finding::warning(
                    "native-settings",
                    format!("{name}: {what}, which prevents native mode or may do so"),
                )
                .why("drivers refuse native XDP if frames do not fit into one buffer")
                .fix(command.clone())
                .advice("without the change, generic mode is used; attach again after a change"),
            );
        }
        if facts.host_offloads {
            findings.push(
                Finding::warning(
                    "host-offloads",
                    format!(
                        "{name}: the host coalesces received segments, and this machine cannot turn that off"
                    ),
                )
                .why("the driver refuses native XDP because of that")
                .advice(hypervisor_offloads(name)),
            );
        }
    }
    if findings.is_empty() {
        findings.push(Finding::ok(
            "native-settings",
            format!("{name}: MTU {}, and no setting prevents the requested mode", facts.mtu),
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::doctor::finding::Severity::{Note, Ok, Problem, Warning};
    use crate::tools::doctor::finding::{ids, only};

    fn facts() -> Facts {
        Facts {
            name: "eth0".into(),
            command: "pooltime-xdp".into(),
            up: true,
            mtu: 1500,
            is_bond: false,
            unservable: None,
            driver: Some("igb".into()),
            program: Program::Own { mode: Mode::Native, fallback: None, remark: None },
            expected: true,
            native: Some(true),
            conditions: Vec::new(),
            host_offloads: false,
            strips: Vec::new(),
            slow_transmit: None,
        }
    }

    #[track_caller]
    fn fix(facts: &Facts, id: &str) -> String {
        let findings = judge(facts);
        only(&findings, id).fix.clone().unwrap()
    }

    #[test]
    fn a_nic_with_the_native_program_and_good_settings_has_only_things_that_are_well() {
        let findings = judge(&facts());
        assert_eq!(ids(&findings), [("xdp-mode", Ok), ("native-settings", Ok)]);
    }

    #[test]
    fn an_interface_that_is_down_is_brought_up() {
        assert_eq!(fix(&Facts { up: false, ..facts() }, "interface-down"), "ip link set dev eth0 up");
    }

    #[test]
    fn a_fallback_is_told_with_its_reason_and_a_wish_is_none() {
        let own = |fallback| Program::Own { mode: Mode::Generic, fallback, remark: None };
        let fell_back = judge(&Facts { program: own(Some("\"igb: no\"".into())), ..facts() });
        let found = only(&fell_back, "xdp-mode");
        assert!(found.severity == Warning && found.what.contains("\"igb: no\""), "{found:?}");
        assert_eq!(only(&judge(&Facts { program: own(None), ..facts() }), "xdp-mode").severity, Note);
    }

    #[test]
    fn somebody_else_s_program_is_named_with_what_takes_it_off_in_its_mode() {
        for (mode, keyword) in [(Mode::Native, "xdpdrv"), (Mode::Generic, "xdpgeneric")] {
            let program = Program::Foreign { mode, id: 12, name: Some("pass".into()) };
            let findings = judge(&Facts { program, ..facts() });
            let found = only(&findings, "xdp-foreign");
            assert_eq!(found.severity, Problem);
            assert!(found.what.contains("`pass` (id 12"), "{found:?}");
            assert_eq!(found.fix.as_deref(), Some(&*format!("ip link set dev eth0 {keyword} off")));
        }
        // A program that another instance's link holds cannot be detached like this.
        let program = Program::Foreign { mode: Mode::Native, id: 12, name: Some(layout::PROGRAM.into()) };
        let findings = judge(&Facts { program, ..facts() });
        assert!(only(&findings, "xdp-foreign").fix.is_none() && findings[0].advice.is_some());
        let program = Program::Unknown { mode: Mode::Native, id: 12 };
        assert_eq!(only(&judge(&Facts { program, ..facts() }), "xdp-foreign").severity, Note);
    }

    #[test]
    fn a_program_that_should_be_there_and_is_not_is_a_problem_and_else_the_prospect_is_told() {
        let absent = |expected, native| Facts { program: Program::Absent, expected, native, ..facts() };
        assert_eq!(fix(&absent(true, Some(true)), "xdp-missing"), "pooltime-xdp attach eth0");
        for (native, findings) in [(Some(true), 3), (Some(false), 2)] {
            let slow = Facts { slow_transmit: Some("few queues".into()), ..absent(false, native) };
            assert_eq!(judge(&slow).len(), findings, "generic mode takes no queues of its own");
        }
        let prospect = |facts: &Facts| only(&judge(facts), "xdp-mode").severity;
        assert_eq!(prospect(&absent(false, Some(true))), Ok);
        assert_eq!(prospect(&absent(false, Some(false))), Note);
        assert_eq!(prospect(&absent(false, None)), Note);
        assert_eq!(prospect(&Facts { is_bond: true, ..absent(false, Some(true)) }), Note);
    }

    #[test]
    fn settings_that_keep_a_driver_from_native_mode_matter_only_where_it_is_not_native() {
        let condition = Condition { what: "LRO".into(), command: "ethtool -K eth0 lro off".into() };
        let native = Facts { conditions: vec![condition], host_offloads: true, ..facts() };
        assert_eq!(only(&judge(&native), "native-settings").severity, Ok);
        let wanted = Program::Own { mode: Mode::Generic, fallback: None, remark: None };
        let by_choice = Facts { program: wanted, ..native.clone() };
        assert_eq!(only(&judge(&by_choice), "native-settings").severity, Ok);
        let generic = Facts { program: Program::Absent, expected: false, ..native };
        assert_eq!(fix(&generic, "native-settings"), "ethtool -K eth0 lro off");
        let findings = judge(&generic);
        assert!(
            only(&findings, "xdp-mode").what.contains("would be attached in generic mode"),
            "{findings:?}"
        );
        assert!(only(&findings, "host-offloads").advice.as_ref().unwrap().contains("ctrl_guest_offloads=on"));
    }

    #[test]
    fn tags_that_a_native_program_does_not_see_are_a_problem() {
        let facts = Facts { strips: vec![Feature::StripTag], ..facts() };
        assert_eq!(fix(&facts, "vlan-tags"), "ethtool -K eth0 rxvlan off");
    }
}
