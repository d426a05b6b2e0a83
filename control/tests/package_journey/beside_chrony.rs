//! The operator's way beside a chronyd that keeps the clock and serves clients, by the commands of
//! docs/beside-chrony.md, with Debian's chronyd as a service and the package.

use std::fmt::Write as _;
use std::fs;

use testlab::upstreams::{UPSTREAMS, Upstreams, address, give_addresses};
use testlab::{Lab, not_run, tool, wait_for};

use crate::document::steps;
use crate::journey::Journey;
use crate::machine::Machine;
use crate::packages::Packages;

const DOCUMENT: &str = include_str!("../../../docs/beside-chrony.md");
/// What the operator has beside the upstreams.
const CHRONY: &str = "keyfile /etc/chrony/chrony.keys\ndriftfile /var/lib/chrony/chrony.drift\nmakestep 1 3\nrtcsync\n\
                      allow 192.0.2.0/24\nallow 10.77.0.0/24\nallow fd77::/64\ndeny 10.77.0.66\nratelimit interval -4 burst 64\n";
/// Of the server and of its clients.
const KEY: &str = "1 SHA256 HEX:46e0a1ff2c7c8e4fd2b0f0d3bd0c4c9d7d5c2b1a\n";
/// chronyd without the means to set the clock, which the machine does not have: it follows its upstreams all the same.
const WITHOUT_A_CLOCK: &str = "mkdir -p /run/systemd/system/chrony.service.d
    printf '[Unit]\\nConditionCapability=\\n' >/run/systemd/system/chrony.service.d/lab.conf
    echo 'DAEMON_OPTS=\"-x\"' >/etc/default/chrony
    systemctl daemon-reload && systemctl restart chrony";

#[test]
fn every_command_of_the_document_is_one_that_can_be_run() {
    let steps = steps(DOCUMENT).unwrap();
    assert!(steps.len() > 8, "{steps:#?}");
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn the_document_leads_beside_chronyd_and_back() {
    let Some(chronyd) = tool("chronyd") else { return not_run("chronyd is not here") };
    let lab = Lab::up(&[]);
    lab.ip("server", "address add 192.0.2.1/24 dev lan0");
    lab.ip("client", "address add 192.0.2.2/24 dev lan0");
    lab.ip("server", "route add default via 192.0.2.2");
    give_addresses(&lab, UPSTREAMS);
    let _upstreams = Upstreams::start(&lab, &chronyd);
    let machine = match Machine::boot(&lab, "server", "chrony") {
        Ok(machine) => machine,
        Err(reason) => return not_run(&reason),
    };
    machine.write("/etc/hosts", "127.0.0.1 localhost server\n::1 localhost\n");
    machine.write("/etc/apt/apt.conf.d/90yes", "APT::Get::Assume-Yes \"true\";\n");
    machine.put(&Packages::get().deb, "/root");
    let mut config = CHRONY.to_owned();
    for server in (0..UPSTREAMS).map(address) {
        writeln!(config, "server {server} iburst minpoll 3 maxpoll 3").unwrap();
    }
    machine.write("/etc/chrony/chrony.conf", &config);
    machine.write("/etc/chrony/chrony.keys", KEY);
    fs::write(lab.directory("elsewhere").join("chrony.keys"), KEY).unwrap();
    machine.says(WITHOUT_A_CLOCK);
    wait_for("chronyd to be synchronised", || {
        machine.shell("chronyc tracking").stdout.contains("Normal").then_some(())
    });
    let mut journey = Journey::of(DOCUMENT, &lab, machine);

    journey.takes_the_rules_over();
    journey.is_beside_chronyd();
    journey.changes_the_rules();
    journey.goes_back();
    journey.takes_the_clock_over();
    journey.ends();
}

impl Journey<'_> {
    fn takes_the_rules_over(&mut self) {
        let said = self.take("look");
        assert!(said.contains("Normal") && said.contains("deny 10.77.0.66"), "{said}");
        let said = self.take("take-over");
        for part in ["source = \"system\"", "\"10.77.0.66/32\"", "rate = 16", "burst = 64", ": OK"] {
            assert!(said.contains(part), "{part}: {said}");
        }
        assert!(!self.is_attached(), "nothing is started unasked");
    }

    fn is_beside_chronyd(&mut self) {
        let said = self.take("start");
        for part in ["healthy: serving synchronised time", "port 123 is held by", "10.77.0.66"] {
            assert!(said.contains(part), "{part}: {said}");
        }
        assert!(self.machine.says("chronyc tracking").contains("Normal"), "chronyd goes on");
        // What it finds in a lab is no problem.
        let output = self.run("doctor");
        assert!(output.code().is_some_and(|code| code <= 1), "{output:#?}");
        for part in ["chronyd, asked by its command socket", "held by chronyd"] {
            assert!(output.stdout.contains(part), "{part}: {output:#?}");
        }

        let before = self.received();
        let said = self.take("plain");
        assert!(said.contains("192.0.2.1 s2"), "{said}");
        assert_eq!(self.received(), before, "chronyd has seen nothing of this");
        let said = self.take("keyed");
        assert!(said.contains("System clock wrong by"), "{said}");
        let said = self.take("counted");
        let counts: Vec<_> = said.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).collect();
        for verdict in ["answered", "pass_long"] {
            assert!(counts.iter().any(|words| words.get(1) == Some(&verdict)), "{verdict}: {said}");
        }
        assert!(number(&said, "Authenticated NTP packets") > 0, "{said}");
    }

    fn changes_the_rules(&mut self) {
        self.take("change");
        wait_for("the new list", || {
            let listed = self.machine.says("pooltime-xdp access list");
            (listed.contains("203.0.113.0/24") && listed.contains("10.77.0.66")).then_some(())
        });
    }

    fn goes_back(&mut self) {
        self.take("back");
        assert!(!self.is_attached(), "the program is off the interface");
        let before = self.received();
        let said = self.take("again");
        assert!(said.contains("192.0.2.1 s2"), "{said}");
        assert!(self.received() > before, "chronyd has answered");
    }

    fn takes_the_clock_over(&mut self) {
        let said = self.take("instead");
        assert!(said.contains("source = \"upstream\"") && said.contains(": OK"), "{said}");
        assert_eq!(said.matches("[[upstream]]").count(), usize::from(UPSTREAMS), "{said}");
        // What a lab cannot do as the document says: steer the machine's clock.
        let config = self.machine.read("/etc/pooltime-xdp.toml");
        let config = config.replace("source = \"upstream\"\n", "source = \"upstream\"\nsteer = false\n");
        assert!(config.contains("steer = false"), "{config}");
        self.machine.write("/etc/pooltime-xdp.toml", &config);
        let said = self.take("restart");
        assert!(said.contains("healthy: serving synchronised time"), "{said}");
    }

    /// How many NTP packets chronyd has received.
    fn received(&self) -> u64 {
        number(&self.machine.says("chronyc serverstats"), "NTP packets received")
    }
}

/// What `chronyc serverstats` has under a name.
fn number(said: &str, name: &str) -> u64 {
    let line =
        said.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name}: {said}"));
    line.split(':').nth(1).unwrap().trim().parse().unwrap()
}
