//! The server beside a keeper of the clock that it has to ask in another way than by NTP: chronyd as a client alone,
//! as Debian installs it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use control::status::Status;
use control::timekeeping::keeper::ask::{chronyd_at, chronyd_of_socket};
use control::timekeeping::keeper::chronyd::{PORT, Tracking};
use testlab::upstreams::{Upstreams, address, give_addresses};
use testlab::{Lab, not_run, tool, wait_for};

const CONFIG: &str = "interfaces = [\"lan0\"]\n[metrics]\nlisten = []\n[clock]\nsource = \"system\"\n";

/// chronyd on the host `server`, which follows an upstream on the client, answers no NTP requests and leaves the clock
/// alone.
struct Keeper<'lab> {
    lab: &'lab Lab,
    process: Child,
    socket: PathBuf,
}

impl<'lab> Keeper<'lab> {
    fn start(lab: &'lab Lab, chronyd: &Path, upstream: &str) -> Self {
        let pid_file = format!("pidfile {}", lab.file("keeper.pid", "").display());
        let directory = lab.directory("chrony");
        // chronyd makes no socket where anybody can get at it.
        std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o750)).unwrap();
        let socket = directory.join("chronyd.sock");
        let server = format!("server {upstream} minpoll 0 maxpoll 0 iburst");
        let bind = format!("bindcmdaddress {}", socket.display());
        let mut command = lab.command("server", chronyd.to_str().unwrap());
        command.args(["-x", "-d", "-u", "root", "port 0", &server, &pid_file, &bind]);
        command.args(["bindcmdaddress 127.0.0.1", "bindcmdaddress ::1"]);
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Self { lab, process, socket }
    }

    fn tracking(&self) -> Option<Tracking> {
        self.lab.inside("server", || chronyd_at(([127, 0, 0, 1], PORT).into()).ok())
    }

    fn end(&mut self) {
        let _ended_already = self.process.kill();
        let _ended = self.process.wait();
    }
}

impl Drop for Keeper<'_> {
    fn drop(&mut self) {
        self.end();
    }
}

/// What `chronyc -c tracking` says, column by column.
fn chronyc(lab: &Lab, chronyc: &Path) -> Vec<String> {
    let command = [chronyc.to_str().unwrap(), "-c", "-n", "-h", "127.0.0.1", "tracking"];
    let said = lab.exec("server", &command).expect_success();
    said.trim().split(',').map(ToOwned::to_owned).collect()
}

fn number(columns: &[String], index: usize) -> f64 {
    columns[index].parse().unwrap()
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn a_chronyd_that_is_only_a_client_is_mirrored_by_its_command_socket() {
    let (Some(chronyd), Some(chronyc_path)) = (tool("chronyd"), tool("chronyc")) else {
        return not_run("chronyd or chronyc is not there");
    };
    let lab = Lab::up(&[]);
    give_addresses(&lab, 4);
    let _upstreams = Upstreams::start(&lab, &chronyd);
    let mut keeper = Keeper::start(&lab, &chronyd, &address(0));
    // Ours is there first, so that it sees the keeper become synchronised, and it has port 123.
    let server = lab.server(CONFIG, &[]);
    let clock = || -> Status { server.status() };
    let status = wait_for("the server to be synchronised", || {
        Some(clock()).filter(|status| status.clock.synchronised)
    });
    assert_eq!(
        (status.clock.stratum, status.clock.reference.as_str()),
        (2, address(0).as_str()),
        "{:#?}",
        status.clock
    );

    // What is read between two words of chronyc lies between them, unless chronyd has corrected the clock meanwhile.
    wait_for("a moment without an update", || {
        let before = chronyc(&lab, &chronyc_path);
        let read = keeper.tracking()?;
        let after = chronyc(&lab, &chronyc_path);
        if before[3] != after[3] {
            return None;
        }
        assert_eq!(format!("{:08X}", read.reference_id), before[0]);
        assert_eq!((read.stratum.to_string(), read.leap), (before[2].clone(), 0));
        for (index, value) in [
            (4, read.correction_s),
            (5, read.last_offset_s),
            (6, read.rms_offset_s),
            (7, read.frequency_ppm),
            (8, read.residual_ppm),
            (9, read.skew_ppm),
            (10, read.root_delay_s),
            (11, read.root_dispersion_s),
            (12, read.interval_s),
        ] {
            let (before, after) = (number(&before, index), number(&after, index));
            let rounding = if (7..=9).contains(&index) {
                0.000_51
            } else if index == 12 {
                0.051
            } else {
                2e-9
            };
            let (least, most) = (before.min(after) - rounding, before.max(after) + rounding);
            assert!(
                (least..=most).contains(&value),
                "column {index}: {value} is not within {least} and {most}"
            );
        }
        Some(())
    });

    // What is served is what chronyd says, or said some seconds ago, and no less.
    wait_for("served values beside chronyd's own", || {
        let before = chronyc(&lab, &chronyc_path);
        let now = clock().clock;
        assert!(now.synchronised && now.stratum == 2, "{now:#?}");
        let delay_s = number(&before, 10);
        let correction_s = number(&before, 4).abs();
        let dispersion_s = number(&before, 11) + correction_s;
        // 15 us is a unit of the format; 8 s of growth at 15 ppm, and at 500 ppm of a clock that nobody slews.
        let is_delay = (now.root_delay_s - delay_s).abs() < 200e-6;
        let is_dispersion = (now.root_dispersion_s - dispersion_s).abs() < 5e-3;
        (is_delay && is_dispersion).then_some(())
    });

    // The socket says the same as the port.
    let of_socket = lab.inside("server", || chronyd_of_socket(&keeper.socket)).unwrap();
    assert_eq!((of_socket.reference_id, of_socket.stratum), (keeper.tracking().unwrap().reference_id, 2));

    keeper.end();
    wait_for("the server to be unsynchronised", || Some(clock()).filter(|status| !status.clock.synchronised));
    assert!(server.log().contains("the clock's keeper does not answer any more"), "{}", server.log());
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn a_chronyd_that_follows_this_host_is_not_believed() {
    let Some(chronyd) = tool("chronyd") else {
        return not_run("chronyd is not there");
    };
    let lab = Lab::up(&[]);
    give_addresses(&lab, 4);
    let _upstreams = Upstreams::start(&lab, &chronyd);
    let keeper = Keeper::start(&lab, &chronyd, &address(0));
    wait_for("chronyd to be synchronised", || keeper.tracking().filter(|tracking| tracking.leap == 0));
    // The address that chronyd follows becomes one that this server answers for.
    let config = format!("serve = [\"{}\"]\n{CONFIG}", address(0));
    let server = lab.server(&config, &[]);
    let clock = server.status().clock;
    assert!(!clock.synchronised, "{clock:#?}");
    assert!(clock.reason.as_ref().is_some_and(|reason| reason.contains("follows itself")), "{clock:#?}");
}
