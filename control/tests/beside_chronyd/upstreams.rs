//! The upstreams: real chronyds, each behind a path of the relay.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use control::net::query::exchange;
use testlab::wire::PORT;
use testlab::{Lab, wait_for};

use crate::relay::{Leg, Relay, Route};

const COUNT: u8 = 4;
/// There and back: none is symmetric, and the longer the more is lost.
pub(crate) const PATHS: [(Leg, Leg); COUNT as usize] = [
    (leg(2.0, 0.1, 0.0), leg(2.2, 0.1, 0.0)),
    (leg(6.0, 0.3, 0.01), leg(5.5, 0.3, 0.01)),
    (leg(12.0, 0.6, 0.02), leg(13.0, 0.6, 0.02)),
    (leg(22.0, 2.0, 0.05), leg(20.0, 2.0, 0.05)),
];

const fn leg(least_ms: f64, mean_queue_ms: f64, loss: f64) -> Leg {
    Leg { least_ms, mean_queue_ms, loss }
}

/// On the client's host, until this is dropped.
pub(crate) struct Upstreams {
    pub(crate) relays: Vec<Relay>,
    _daemons: Vec<Chronyd>,
}

impl Upstreams {
    pub(crate) fn up(lab: &Lab, chronyd: &Path) -> Self {
        let daemons = (0..COUNT).map(|index| upstream(lab, chronyd, index)).collect();
        let answers = |index| {
            let address = SocketAddr::new(upstream_address(index), PORT);
            exchange(address, Duration::from_millis(100))
                .is_ok_and(|reading| reading.server.is_synchronised())
        };
        lab.inside("client", || {
            wait_for("the upstreams", || (0..COUNT).all(answers).then_some(()));
        });
        Self { relays: relays(lab), _daemons: daemons }
    }

    /// Where clients ask.
    pub(crate) fn addresses() -> impl Iterator<Item = IpAddr> {
        (0..COUNT).map(relay_address)
    }
}

fn upstream(lab: &Lab, chronyd: &Path, index: u8) -> Chronyd {
    let settings = format!("local stratum 1\nbindaddress {}\nport {PORT}\n", upstream_address(index));
    Chronyd::start(lab, chronyd, "client", &format!("upstream{index}"), &settings)
}

fn relays(lab: &Lab) -> Vec<Relay> {
    for index in 0..COUNT {
        lab.ip("client", &format!("address add {}/24 dev lan0", relay_address(index)));
    }
    lab.inside("client", || {
        let relay = |(index, (there, back)): (u8, (Leg, Leg))| {
            let route = Route {
                listen: SocketAddr::new(relay_address(index), PORT),
                upstream: SocketAddr::new(upstream_address(index), PORT),
                there,
                back,
            };
            Relay::start(route, index.into())
        };
        (0..COUNT).zip(PATHS).map(relay).collect()
    })
}

fn upstream_address(index: u8) -> IpAddr {
    [127, 0, 0, 11 + index].into()
}

fn relay_address(index: u8) -> IpAddr {
    [10, 77, 0, 21 + index].into()
}

/// A chronyd, which ends when this is dropped.
pub(crate) struct Chronyd(Child);

impl Drop for Chronyd {
    fn drop(&mut self) {
        let _ended_already = self.0.kill();
        let _ended = self.0.wait();
    }
}

impl Chronyd {
    /// Never touches the clock (`-x`), and listens nowhere but on its NTP port.
    pub(crate) fn start(lab: &Lab, chronyd: &Path, host: &str, name: &str, settings: &str) -> Self {
        let pid_file = lab.file(&format!("{name}.pid"), "");
        let settings =
            format!("{settings}allow all\ncmdport 0\nbindcmdaddress /\npidfile {}\n", pid_file.display());
        let config = lab.file(&format!("{name}.conf"), &settings);
        let mut command = lab.command(host, chronyd.to_str().unwrap());
        command.args(["-x", "-n", "-u", "root", "-f"]).arg(config);
        Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }
}
