//! The operator's journey, from an empty Debian 12 server to the NTP Pool and back, by the commands of
//! docs/join-the-pool.md, with the package, and a real systemd.

mod document;
mod machine;
mod packages;

use std::fs;
use std::path::Path;
use std::process::Command;

use testlab::foreign::xdp;
use testlab::load::load;
use testlab::upstreams::{Upstreams, address, give_addresses};
use testlab::{Lab, Output, not_run, tool, wait_for};

use document::{Host, Step, steps};
use machine::Machine;
use packages::{Packages, lintian};

const DOCUMENT: &str = include_str!("../../../docs/join-the-pool.md");
/// As the document has it.
const UPSTREAMS: u8 = 5;
/// Requests a second, over both families.
const RATE: u64 = 20_000;
/// Of the service's settings, by systemd's own reckoning: 0 is safe, 10 is not. What is left is what it is for: the
/// network, eBPF, the clock.
const MOST_EXPOSED: f64 = 2.8;
/// The first process of a service that gets so much time to hang.
const IMPATIENT: &str = "mkdir -p /run/systemd/system/pooltime-xdp.service.d
    printf '[Service]\\nWatchdogSec=1\\nRestartSec=0\\n' >/run/systemd/system/pooltime-xdp.service.d/watchdog.conf
    systemctl daemon-reload && systemctl restart pooltime-xdp";

#[test]
fn every_command_of_the_document_is_one_that_can_be_run() {
    let steps = steps(DOCUMENT).unwrap();
    assert!(steps.len() > 15, "{steps:#?}");
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn the_package_has_no_error_that_debian_knows_of_and_comes_out_the_same_twice() {
    let packages = Packages::get();
    lintian(&packages.deb);
    let again = Packages::again();
    for (first, second) in [(&packages.deb, &again.deb), (&packages.tarball, &again.tarball)] {
        assert!(fs::read(first).unwrap() == fs::read(second).unwrap(), "{first:?} and {second:?} differ");
    }
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn the_document_leads_from_an_empty_server_to_the_pool_and_back() {
    let Some(chronyd) = tool("chronyd") else { return not_run("chronyd is not here") };
    let lab = Lab::up(&[]);
    let _upstreams = network(&lab, &chronyd);
    let machine = match Machine::boot(&lab, "server") {
        Ok(machine) => machine,
        Err(reason) => return not_run(&reason),
    };
    machine.write("/etc/hosts", &names());
    // Nothing may come in, as long as the operator says nothing else.
    machine.says("ufw --force enable");
    // The operator says yes.
    machine.write("/etc/apt/apt.conf.d/90yes", "APT::Get::Assume-Yes \"true\";\n");
    let mut journey = Journey { lab: &lab, machine, steps: steps(DOCUMENT).unwrap().into_iter() };

    journey.installs();
    journey.configures();
    journey.starts_and_is_seen();
    journey.goes_on_day_by_day();
    journey.survives_a_hang_and_a_reboot();
    journey.asks_the_doctor();
    journey.leaves_nothing();
    assert_eq!(journey.steps.next(), None, "the document has more steps than are taken here");
}

/// Makes the network of the document's examples: the server's address, a default route, upstreams.
fn network<'lab>(lab: &'lab Lab, chronyd: &Path) -> Upstreams<'lab> {
    lab.ip("server", "address add 192.0.2.1/24 dev lan0");
    lab.ip("client", "address add 192.0.2.2/24 dev lan0");
    lab.ip("server", "route add default via 192.0.2.2");
    give_addresses(lab, UPSTREAMS);
    let mut upstreams = Upstreams::start(lab, chronyd);
    for number in testlab::upstreams::UPSTREAMS..UPSTREAMS {
        upstreams.add(number);
    }
    upstreams
}

/// A table of hosts with the upstreams' names, and the machine's own.
fn names() -> String {
    let upstream = |number| format!("{} ntp{}.example.net\n", address(number), number + 1);
    format!("127.0.0.1 localhost server\n::1 localhost\n{}", (0..UPSTREAMS).map(upstream).collect::<String>())
}

/// The operator, on the way.
struct Journey<'lab> {
    lab: &'lab Lab,
    machine: Machine<'lab>,
    steps: std::vec::IntoIter<Step>,
}

impl Journey<'_> {
    fn installs(&mut self) {
        let packages = Packages::get();
        let step = self.next("package");
        assert_eq!(step.commands, packages::COMMAND, "it was run before");
        self.machine.put(&packages.deb, "/root");
        let said = self.take("install");
        assert!(said.contains("systemctl enable --now pooltime-xdp"), "{said}");
        assert!(!self.is_attached(), "nothing is started unasked");
        assert_eq!(self.machine.shell("systemctl is-enabled pooltime-xdp").stdout.trim(), "disabled");
        self.machine.says("pooltime-xdp config check && man -w pooltime-xdp 2>/dev/null || ls /usr/share/man/man1/pooltime-xdp.1.gz");
        self.machine.says(
            "ls /usr/share/man/man5/pooltime-xdp.toml.5.gz /usr/share/pooltime-xdp/pooltime-xdp.schema.json",
        );
        self.take("clock");
    }

    fn configures(&mut self) {
        let said = self.take("choose");
        assert!((4..=usize::from(UPSTREAMS)).contains(&said.matches("[[upstream]]").count()), "{said}");
        let said = self.take("configure");
        assert!(said.contains("interfaces = [\"lan0\"]") && said.contains(": OK"), "{said}");
        self.suit_the_lab();
    }

    /// What a lab cannot do as the document says: steer the machine's clock, and ask this often from a single host.
    fn suit_the_lab(&self) {
        let config = self.machine.read("/etc/pooltime-xdp.toml");
        assert!(!config.contains("[access]"), "{config}");
        let config = config.replace("source = \"upstream\"\n", "source = \"upstream\"\nsteer = false\n");
        assert!(config.contains("steer = false"), "{config}");
        let unlimited = "\n[access]\nunlimited = [\"10.77.0.0/24\", \"fd77::/64\"]\n";
        self.machine.write("/etc/pooltime-xdp.toml", &(config + unlimited));
    }

    /// By another host even before the firewall lets anything in.
    fn starts_and_is_seen(&mut self) {
        let said = self.take("start");
        assert!(said.contains("healthy: serving synchronised time"), "{said}");
        self.is_hardened();
        let query = "tar -xf *.tar.xz; pooltime-xdp-*-linux/usr/bin/pooltime-xdp query 192.0.2.1";
        self.elsewhere(query).expect_success();
        self.take("firewall");
        wait_for("the upstreams to be followed", || {
            self.machine.says("ntpq -pn").lines().any(|line| line.starts_with('*')).then_some(())
        });
        let said = self.take("look");
        assert!(said.contains("ntp1.example.net") && said.contains("\n*"), "{said}");
        assert!(said.contains("Status: \"Serving synchronised time on lan0\""), "{said}");
        let said = self.take("time");
        assert!(said.contains("192.0.2.1"), "{said}");
        let said = self.take("check");
        assert!(said.contains("forecast: 10 points after 14 checks"), "{said}");
        let said = self.take("register");
        assert!(said.contains("192.0.2.1"), "{said}");
    }

    fn is_hardened(&self) {
        let said = self.machine.says("systemd-analyze security --no-pager pooltime-xdp");
        let verdict = said.lines().find(|line| line.contains("Overall exposure level")).expect(&said);
        println!("{verdict}");
        let exposure = verdict.split_whitespace().find_map(|word| word.parse::<f64>().ok()).expect(verdict);
        assert!(exposure <= MOST_EXPOSED, "{said}");
    }

    fn goes_on_day_by_day(&mut self) {
        let said = self.take("watch");
        assert!(said.contains("attached in native mode"), "{said}");
        self.reloads();
        let before = (self.main_process(), self.program(), self.machine.read("/etc/pooltime-xdp.toml"));
        let lab = self.lab;
        let (account, ()) = load(lab, RATE, || {
            self.take("restart");
            self.machine.says("sleep 1");
            self.machine.says("cd; rm pooltime-xdp_*.deb");
            self.machine.put(&Packages::get().next_deb, "/root");
            self.take("upgrade");
            self.machine.says("sleep 1");
        });
        let (average, worst) = account.rates();
        println!(
            "{} requests during restart and upgrade, {average}/s (worst second {worst}): {} lost",
            account.sent,
            account.lost()
        );
        assert_eq!(
            (account.lost(), account.duplicates, account.strange),
            (0, 0, 0),
            "{:?}",
            account.lost_between()
        );
        assert!(account.sent > RATE / 2);
        assert_eq!(account.changes().len(), 1, "all of them are answered as synchronised");
        assert!(self.machine.says("dpkg-query -Wf '${Version}' pooltime-xdp").contains("+next"));
        let after = (self.main_process(), self.program(), self.machine.read("/etc/pooltime-xdp.toml"));
        assert_eq!(before.2, after.2, "the configuration stays");
        assert!(before.0 != after.0 && before.1 != after.1, "daemon and program are the new package's");
    }

    /// All of a new configuration, or nothing of a wrong one.
    fn reloads(&mut self) {
        let config = self.machine.read("/etc/pooltime-xdp.toml");
        self.machine.write("/etc/pooltime-xdp.toml", &(config.clone() + "deny = [\"203.0.113.0/24\"]\n"));
        self.take("reload");
        let listed = || self.machine.says("pooltime-xdp access list").contains("203.0.113.0/24");
        wait_for("the new list", || listed().then_some(()));
        self.machine.write("/etc/pooltime-xdp.toml", &(config.clone() + "denny = []\n"));
        assert!(!self.machine.shell("systemctl reload pooltime-xdp").status.success());
        assert!(self.machine.journal().contains("did you mean `deny`?") && listed());
        self.machine.write("/etc/pooltime-xdp.toml", &config);
        // It is there until the package is purged.
        self.machine.write("/etc/pooltime-xdp.toml.d/site.toml", "[access]\ndeny = [\"198.51.100.0/24\"]\n");
        self.machine.says("systemctl reload pooltime-xdp");
        let listed = || self.machine.says("pooltime-xdp access list").contains("198.51.100.0/24");
        wait_for("the list of the file beside it", || listed().then_some(()));
    }

    fn survives_a_hang_and_a_reboot(&mut self) {
        self.machine.says(IMPATIENT);
        let before = self.main_process();
        self.machine.says(&format!("kill -STOP {before}"));
        wait_for("systemd to replace the daemon that hangs", || {
            let after = self.main_process();
            (after != before && after != "0").then_some(())
        });
        assert!(self.machine.journal().contains("watchdog"), "{}", self.machine.journal());
        self.machine.reboot();
        wait_for("the service to be healthy after a reboot", || {
            self.machine.shell("pooltime-xdp health").status.success().then_some(())
        });
        assert!(self.is_attached());
    }

    /// What it finds in a lab is no problem.
    fn asks_the_doctor(&mut self) {
        let output = self.run("doctor");
        assert!(output.code().is_some_and(|code| code <= 1), "{output:#?}");
        assert!(output.stdout.contains("lan0"), "{output:#?}");
    }

    fn leaves_nothing(&mut self) {
        self.take("leave");
        assert!(!self.is_attached(), "the program is off the interface");
        let left = "find /sys/fs/bpf /run /usr /lib /etc/systemd /var/lib -xdev -name '*pooltime*' \
                    ! -path '/var/lib/dpkg/*' ! -path '/run/systemd/*'";
        assert_eq!(self.machine.says(left).trim(), "/var/lib/pooltime-xdp");
        self.machine.says("test -e /etc/pooltime-xdp.toml");
        self.take("purge");
        assert_eq!(self.machine.says(&left.replace("/etc/systemd", "/etc")).trim(), "");
    }

    /// Takes the document's next step, which must be this one and succeed, and returns what its commands say.
    fn take(&mut self, name: &str) -> String {
        let output = self.run(name);
        let said = format!("{}{}", output.stdout, output.stderr);
        output.expect_success();
        said
    }

    /// Takes the document's next step, which must be this one.
    fn run(&mut self, name: &str) -> Output {
        let step = self.next(name);
        let commands = format!("cd; {}", step.commands);
        let output = match step.host {
            Host::Server => self.machine.shell(&commands),
            Host::Another => self.elsewhere(&step.commands),
            Host::Build => panic!("{name} is not for a host"),
        };
        println!("--- {name}\n{}{}", output.stdout, output.stderr);
        output
    }

    fn next(&mut self, name: &str) -> Step {
        let step = self.steps.next().unwrap_or_else(|| panic!("the document has no step {name}"));
        assert_eq!(step.name, name, "the document's next step");
        step
    }

    /// On another host, in a directory to which the tarball was copied.
    fn elsewhere(&self, commands: &str) -> Output {
        let directory = self.lab.directory("elsewhere");
        let tarball = &Packages::get().tarball;
        fs::copy(tarball, directory.join(tarball.file_name().unwrap())).unwrap();
        let tools =
            tool("ntpdate").and_then(|path| Some(path.parent()?.display().to_string())).unwrap_or_default();
        let path = format!("{tools}:{}", std::env::var("PATH").unwrap());
        let mut command: Command = self.lab.command("client", "timeout");
        command.args(["60", "sh", "-eu", "-c", commands]).current_dir(directory).env("PATH", path);
        Output::of(&mut command)
    }

    fn main_process(&self) -> String {
        self.machine.says("systemctl show --value --property MainPID pooltime-xdp").trim().into()
    }

    /// The program on the server's interface.
    fn program(&self) -> Option<u64> {
        xdp(self.lab, "lan0")
    }

    fn is_attached(&self) -> bool {
        self.program().is_some()
    }
}
