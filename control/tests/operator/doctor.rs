//! `doctor`, in the laboratory: each fault is found, and what it says to type makes it go away.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use testlab::foreign::put_foreign_program;
use testlab::upstreams::{UPSTREAMS, Upstreams, address, give_addresses};
use testlab::{Lab, Output, Server, not_run, pooltime_xdp, tool, wait_for};

use crate::pooltime;

/// However much is wrong: names are looked up for 8 s at most, an answer is waited for 2 s.
const BOUND: Duration = Duration::from_secs(25);

/// What `doctor` found on the host `server`.
struct Examined {
    code: i32,
    findings: Vec<Value>,
}

impl Examined {
    fn of(output: &Output) -> Self {
        let report: Value = serde_json::from_str(&output.stdout).unwrap_or_else(|_| panic!("{output:#?}"));
        let findings = report["findings"].as_array().unwrap().clone();
        Self { code: output.code().unwrap(), findings }
    }

    /// The findings of this kind that are not well.
    fn amiss(&self, id: &str) -> Vec<&Value> {
        self.findings.iter().filter(|found| found["id"] == id && found["severity"] != "ok").collect()
    }

    #[track_caller]
    fn only(&self, id: &str, severity: &str) -> &Value {
        let amiss = self.amiss(id);
        assert!(amiss.len() == 1 && amiss[0]["severity"] == severity, "{id}: {:#?}", self.findings);
        amiss[0]
    }

    #[track_caller]
    fn is_well(&self, id: &str) {
        let well = self.findings.iter().any(|found| found["id"] == id && found["severity"] == "ok");
        assert!(well, "{id}: {:#?}", self.findings);
    }
}

/// A configuration that asks the lab's upstreams. The machine's list of leap seconds may have expired.
fn config() -> String {
    let upstreams = (0..UPSTREAMS).map(|number| format!("[[upstream]]\naddress = \"{}\"\n", address(number)));
    format!(
        "interfaces = [\"lan0\"]\n[clock]\nsource = \"upstream\"\nsteer = false\nleap_seconds_list = \"none\"\n[metrics]\nlisten = []\n{}",
        upstreams.collect::<String>()
    )
}

fn examine(lab: &Lab, config: &str, arguments: &[&str]) -> Examined {
    let config = lab.file("examined.toml", config);
    let start = Instant::now();
    let output = lab.pooltime(
        "server",
        &[&["doctor", "--json", "--config", config.to_str().unwrap()], arguments].concat(),
    );
    assert!(start.elapsed() < BOUND, "{output:#?}");
    Examined::of(&output)
}

/// Does what a finding says is to be typed.
#[track_caller]
fn type_fix(lab: &Lab, found: &Value) {
    let fix = found["fix"].as_str().unwrap_or_else(|| panic!("no command: {found:#}"));
    lab.exec("server", &["sh", "-c", fix]).expect_success();
}

/// A server that has been synchronised by its upstreams and has answered.
fn on_a_good_server(test: impl FnOnce(&Lab, Server<'_>)) {
    let Some(chronyd) = tool("chronyd") else { return not_run("chronyd is not there") };
    let lab = Lab::up(&[]);
    give_addresses(&lab, UPSTREAMS);
    let _upstreams = Upstreams::start(&lab, &chronyd);
    let server = lab.server(&config(), &[]);
    synchronised(&server);
    lab.pooltime("client", &["query", "10.77.0.1"]).expect_success();
    test(&lab, server);
}

fn synchronised(server: &Server<'_>) {
    wait_for("the server to be synchronised", || server.status().clock.synchronised.then_some(()));
}

/// Runs a command on the host `server`.
fn sh(lab: &Lab, script: &str) {
    lab.exec("server", &["sh", "-c", script]).expect_success();
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn on_a_server_that_is_well_nothing_is_amiss_but_what_its_operator_changes() {
    on_a_good_server(|lab, _server| {
        let doctor = || examine(lab, &config(), &[]);
        let sh = |script: &str| sh(lab, script);
        let healthy = doctor();
        assert_eq!(healthy.code, 0, "{:#?}", healthy.findings);
        for id in [
            "config",
            "xdp-mode",
            "upstream-reach",
            "following",
            "long-packets",
            "served-clock",
            "port-123",
            "inbound",
            "firewall",
        ] {
            healthy.is_well(id);
        }

        let changed = format!("{}[limits]\nrate = 99\n", config());
        lab.file("server.toml", &changed);
        type_fix(lab, examine(lab, &changed, &[]).only("config-other", "warning"));
        wait_for("the reload", || examine(lab, &changed, &[]).amiss("config-other").is_empty().then_some(()));
        lab.file("server.toml", &config());
        type_fix(lab, doctor().only("config-other", "warning"));

        sh(
            "nft 'add table inet filter; add chain inet filter input { type filter hook input priority 0; policy drop; }; \
             add rule inet filter input iif lo accept; add rule inet filter input ct state established accept'",
        );
        let closed = doctor();
        assert_eq!(closed.code, 2);
        for (id, severity) in [("firewall-requests", "warning"), ("firewall-neighbours", "problem")] {
            type_fix(lab, closed.only(id, severity));
        }
        doctor().is_well("firewall");

        sh("nft 'add chain inet filter output { type filter hook output priority 0; }; \
             add rule inet filter output udp dport 123 counter drop'");
        let silenced = doctor();
        assert_eq!(silenced.code, 2);
        silenced.only("upstream-reach", "problem");
        let rule = silenced.only("firewall-upstream-requests", "problem");
        assert!(rule["what"].as_str().unwrap().contains("inet filter output"), "{rule:#}");
        type_fix(lab, rule);
        let open = doctor();
        open.is_well("firewall");
        open.is_well("upstream-reach");

        // As some networks do: the rule is not understood, but what it does is.
        sh("nft insert rule inet filter output udp length gt 56 drop");
        let filtered = doctor();
        filtered.is_well("upstream-reach");
        filtered.only("long-packets", "note");
        assert!(!filtered.amiss("firewall-upstream-requests").is_empty());
        sh("nft flush chain inet filter output");
        doctor().is_well("long-packets");

        // A limit for each source drops some requests, and not all of them.
        sh(
            "nft 'add set inet filter flood { type ipv4_addr; size 65535; flags dynamic, timeout; timeout 1m; }; \
             insert rule inet filter input udp dport 123 update @flood { ip saddr limit rate over 100/second } drop'",
        );
        let limited = doctor();
        let rule = limited.only("firewall-requests", "note");
        assert!(rule["what"].as_str().unwrap().contains("may drop"), "{rule:#}");
        sh("nft delete table inet filter");

        // XDP answers before the hook of an interface, and before the way to a container.
        sh("nft 'add table netdev edge; \
             add chain netdev edge in { type filter hook ingress device lan0 priority 0; }; \
             add rule netdev edge in udp dport 123 drop'");
        let before = doctor();
        // Not every version of nft says of which interface a chain is.
        let found = before.amiss("firewall-requests");
        assert!(found.iter().any(|rule| rule["fix"].to_string().contains("netdev edge in")), "{found:#?}");
        assert!(before.only("firewall", "note")["why"].as_str().unwrap().contains("ingress hook"));
        sh("nft delete table netdev edge");
        sh(
            "nft 'add table ip nat; add chain ip nat prerouting { type nat hook prerouting priority -100; }; \
             add rule ip nat prerouting udp dport 123 dnat to 172.17.0.2'",
        );
        let sent = doctor();
        let rule = sent.only("firewall-redirect", "warning");
        assert!(rule["what"].as_str().unwrap().contains("ip nat prerouting"), "{rule:#}");
        let answered = lab.pooltime("client", &["query", "10.77.0.1"]);
        assert!(answered.status.success(), "XDP answers all the same: {answered:?}");
        sh("nft delete table ip nat");
    });
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn each_fault_of_a_server_is_found_and_goes_away_by_what_doctor_says() {
    on_a_good_server(|lab, mut server| {
        let doctor = || examine(lab, &config(), &[]);
        let sh = |script: &str| sh(lab, script);
        for (fault, id, severity) in [
            (
                "ip address change 10.77.0.1/24 dev lan0 valid_lft 600 preferred_lft 600",
                "address-lease",
                "warning",
            ),
            ("ip link set dev lan0 down", "interface-down", "problem"),
            ("ethtool -K lan0 rxvlan on", "vlan-tags", "problem"),
        ] {
            // The daemon mends the last one itself, at its next look.
            if id == "vlan-tags" {
                server.kill_9();
            }
            sh(fault);
            type_fix(lab, doctor().only(id, severity));
            assert_eq!(doctor().amiss(id), Vec::<&Value>::new());
        }
        let gone = doctor();
        let start = gone.only("daemon-gone", "problem")["fix"].as_str().unwrap();
        assert!(start.contains(lab.name()), "{start}");
        server.restart();
        synchronised(&server);
        assert!(doctor().amiss("daemon-gone").is_empty());

        // An interface that goes down loses its addresses of IPv6. Without those one of the upstreams is out of reach.
        lab.ip("server", "address add fd77::1/64 dev lan0 nodad");
        let all_answer =
            || wait_for("all upstreams", || doctor().amiss("upstream-silent").is_empty().then_some(()));
        all_answer();
        sh("sysctl -w net.ipv6.conf.all.disable_ipv6=1");
        let ipv4_alone = doctor();
        ipv4_alone.only("upstream-silent", "warning");
        type_fix(lab, ipv4_alone.only("ipv6", "note"));
        let again = doctor();
        assert!(again.only("ipv6", "note")["what"].as_str().unwrap().contains("no IPv6 address"));
        lab.ip("server", "address add fd77::1/64 dev lan0 nodad");
        all_answer();

        // Gone with its address: those that are left would take its requests.
        lab.ip("client", &format!("address del {}/24 dev lan0", address(1)));
        let one_less = doctor();
        let silent = one_less.only("upstream-silent", "warning")["what"].as_str().unwrap().to_owned();
        assert!(silent.contains(&address(1)) && one_less.code == 1, "{silent}");
        lab.ip("client", &format!("address add {}/24 dev lan0", address(1)));
        all_answer();
    });
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn after_a_restart_the_line_of_the_daemon_before_is_served_and_nobody_is_told_to_restart_again() {
    on_a_good_server(|lab, mut server| {
        // The upstreams of the new daemon do not answer, so it has nothing better for some time.
        sh(
            lab,
            "nft 'add table inet silence; add chain inet silence output { type filter hook output priority 0; }; \
                 add rule inet silence output udp dport 123 drop'",
        );
        server.kill_9();
        server.restart();
        let inherited = wait_for("a line that looks old", || {
            let clock = server.status().clock;
            (clock.age_s > 3.0).then_some(clock)
        });
        assert!(inherited.inherited && inherited.synchronised, "{inherited:#?}");
        let health = server.command(&["health"]).expect_success();
        assert!(health.contains("line of the daemon before") && !health.contains("hangs"), "{health}");
        let examined = examine(lab, &config(), &[]);
        assert_eq!(examined.amiss("daemon-hangs"), Vec::<&Value>::new());
        // It may be over by now.
        assert!(examined.amiss("served-inherited").iter().all(|found| found["fix"].is_null()));
        sh(lab, "nft delete table inet silence");
        wait_for("the upstreams to agree", || {
            let clock = server.status().clock;
            (clock.synchronised && !clock.inherited).then_some(())
        });
    });
}

/// Both can begin while the server runs, when nobody checks the file.
#[test]
#[ignore = "needs root: scripts/test runs it"]
fn a_list_that_has_expired_and_lists_that_deny_everybody_are_warnings_while_the_server_runs() {
    let lab = Lab::up(&[]);
    let list = lab.file("leap-seconds.list", "#@ 3928521600\n3692217600 37\n");
    let config = config().replace("\"none\"", &format!("{list:?}"));
    let config = format!("{config}[access]\ndeny = [\"0.0.0.0/0\"]\n");
    let server = lab.server(&config, &[]);
    let health = || lab.pooltime("server", &["health"]).stdout;

    let said = health();
    assert!(said.contains("leap-seconds.list expired") && said.contains("deny every IPv4 client"), "{said}");
    assert!(!said.contains("deny every IPv6 client"), "{said}");
    assert_eq!(server.status().warnings.len(), 2);
    let examined = examine(&lab, &config, &[]);
    examined.only("leap-seconds", "warning");
    examined.only("access-nobody", "warning");

    lab.pooltime("server", &["deny", "::/0"]).expect_success();
    assert!(health().contains("deny every IPv6 client"));
    lab.pooltime("server", &["allow", "10.77.0.0/16"]).expect_success();
    let said = health();
    assert!(!said.contains("deny every IPv4 client") && said.contains("deny every IPv6 client"), "{said}");
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn what_is_in_the_way_of_a_first_start_is_found_before_it() {
    let Some(chronyd) = tool("chronyd") else { return not_run("chronyd is not there") };
    let lab = Lab::up(&[]);
    let config = config();
    let doctor = || examine(&lab, &config, &[]);

    let id = put_foreign_program(&lab, "lan0", "xdpgeneric");
    lab.ip("server", "link set dev lan0 mtu 3000");
    let pid_file = format!("pidfile {}", lab.file("chronyd.pid", "").display());
    let mut holder = lab.command("server", chronyd.to_str().unwrap());
    holder.args(["-x", "-d", "-u", "root", "cmdport 0", "bindcmdaddress /", "allow", "local", &pid_file]);
    let mut holder = holder.stderr(std::process::Stdio::null()).spawn().unwrap();
    let held = wait_for("chronyd to take the port", || {
        let found = doctor();
        (found.amiss("port-123").len() == 2).then_some(found)
    });

    assert_eq!(held.code, 2);
    held.only("not-serving", "warning");
    let foreign = held.only("xdp-foreign", "problem");
    assert!(
        foreign["what"].as_str().unwrap().contains(&format!("`pass` (id {id}, generic mode)")),
        "{foreign:#}"
    );
    type_fix(&lab, foreign);
    type_fix(&lab, held.only("native-settings", "warning"));
    let chronyd = held.amiss("port-123")[0];
    assert!(
        chronyd["what"].as_str().unwrap().contains(&format!("chronyd (process {}", holder.id())),
        "{chronyd:#}"
    );
    type_fix(&lab, chronyd);
    holder.wait().unwrap();
    let mended = doctor();
    for id in ["xdp-foreign", "native-settings", "port-123"] {
        assert!(mended.amiss(id).is_empty(), "{id}: {:#?}", mended.findings);
    }

    let without = examine(&lab, "[clock]\nsource = \"upstream\"\n", &["lan0"]);
    without.only("config-upstreams", "problem");
    let wrong = examine(&lab, "[clock]\nhorizon = 3\n", &["lan0", "lan7"]);
    assert!(wrong.only("config", "problem")["what"].as_str().unwrap().contains("line 2"));
    assert!(wrong.only("interface-missing", "problem")["advice"].as_str().unwrap().contains("lo, lan0"));
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn a_query_from_another_host_shows_that_the_way_in_is_open() {
    let lab = Lab::up(&[]);
    let _server = lab.server(testlab::CONFIG, &[]);
    let from = |wait: &str| examine(&lab, testlab::CONFIG, &["--from", "10.77.0.2", "--wait", wait]);
    from("1").only("inbound-from", "problem");
    let found = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| from("15"));
        while !waiting.is_finished() {
            lab.pooltime("client", &["query", "10.77.0.1"]).expect_success();
            std::thread::sleep(Duration::from_millis(200));
        }
        waiting.join().unwrap()
    });
    found.is_well("inbound-from");
    found.only("local-stratum", "warning");

    // Somebody else's requests show nothing of the peer's.
    let of_others = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| examine(&lab, testlab::CONFIG, &["--from", "10.77.0.9", "--wait", "2"]));
        while !waiting.is_finished() {
            lab.pooltime("client", &["query", "10.77.0.1"]).expect_success();
            std::thread::sleep(Duration::from_millis(200));
        }
        waiting.join().unwrap()
    });
    let said = of_others.only("inbound-from", "warning")["what"].as_str().unwrap();
    assert!(said.contains("none of them came from 10.77.0.9"), "{said}");

    // From another network namespace, and with a file that is not the daemon's.
    let config = lab.file("examined.toml", "[limits]\nrate = 99\n");
    let arguments = ["doctor", "--json", "--config", config.to_str().unwrap()];
    let elsewhere = Examined::of(&lab.pooltime("client", &arguments));
    let fix = elsewhere.only("other-network", "warning")["fix"].as_str().unwrap();
    assert!(fix.contains("nsenter --net=/proc/"), "{fix}");
    elsewhere.only("config-elsewhere", "note");
    for id in ["config-other", "interface-missing", "port-123", "xdp-mode", "interface-address"] {
        assert_eq!(elsewhere.amiss(id), Vec::<&Value>::new());
    }

    // Somebody without rights is told what was not looked at, and why.
    let program = std::env::temp_dir().join(format!("pooltime-doctor-{}", std::process::id()));
    std::fs::copy(pooltime_xdp(), &program).unwrap();
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", program.to_str().unwrap()];
    let output =
        lab.exec("server", &[&nobody[..], &["--instance", lab.name(), "doctor", "--json", "lan0"]].concat());
    std::fs::remove_file(program).unwrap();
    let unseen = Examined::of(&output);
    for id in ["not-root", "xdp-foreign", "port-123", "firewall"] {
        let found = unseen.amiss(id);
        assert!(found[0]["what"].as_str().unwrap().starts_with("not looked at: "), "{id}: {found:#?}");
    }
}

#[test]
fn without_a_server_and_without_rights_it_says_what_it_sees_and_changes_nothing() {
    let output = pooltime(&["doctor", "lo", "--json"]);
    let found = Examined::of(&output);
    assert!(found.findings.iter().any(|finding| finding["id"] == "kernel"), "{output:#?}");
    for finding in &found.findings {
        for key in ["id", "severity", "what", "why", "fix", "advice"] {
            assert!(finding.get(key).is_some(), "no {key} in {finding:#}");
        }
    }
    let text = Output::of(Command::new(pooltime_xdp()).args(["doctor", "lo"])).stdout;
    assert!(text.ends_with("well\n") && text.contains("\nok       Linux "), "{text}");
}
