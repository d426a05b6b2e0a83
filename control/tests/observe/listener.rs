//! Whatever is wrong with the listener or its clients, NTP is served.

use std::net::TcpListener;

use nix::sys::signal::Signal;

use crate::lab::{Lab, wait_for};
use crate::web::get;
use crate::{CONFIG, LISTEN, LOCAL, ask};

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn a_port_in_use_is_named_and_ntp_is_served_all_the_same_unless_it_is_required() {
    let lab = Lab::up(&[]);
    let holder = lab.inside("server", || TcpListener::bind(LISTEN).unwrap());
    let config = format!("{CONFIG}{LOCAL}");
    {
        let server = lab.server(&config, &[]);
        ask(&lab, "10.77.0.1", 4, 3);
        let failure = server.status().http[0].failure.clone().unwrap();
        let named = format!("process {}", std::process::id());
        assert!(failure.contains(LISTEN) && failure.contains(&named), "{failure}");
        assert!(server.log().contains(&failure), "{}", server.log());
        let shown = server.command(&["status"]).expect_success();
        assert!(shown.contains(&failure), "{shown}");
        drop(holder);
        wait_for("another try", || server.status().http[0].failure.is_none().then_some(()));
        assert_eq!(get(&lab, "server", LISTEN, "/healthz", "").code, 200);
    }
    let _holder = lab.inside("server", || TcpListener::bind(LISTEN).unwrap());
    let required = lab.file("required.toml", &format!("{config}[metrics]\nrequired = true\n"));
    let refused = lab.pooltime("server", &["run", "--config", required.to_str().unwrap()]).expect_code(69);
    assert!(refused.contains(LISTEN) && refused.contains("listen = ["), "{refused}");
    assert!(!lab.exec("server", &["ip", "link", "show", "lan0"]).expect_success().contains("xdp"));
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn an_empty_list_listens_nowhere_and_others_are_listened_on() {
    let lab = Lab::up(&[]);
    {
        let server = lab.server(&format!("{CONFIG}{LOCAL}[metrics]\nlisten = []\n"), &[]);
        assert!(server.status().http.is_empty());
        let sockets = lab.exec("server", &["cat", "/proc/self/net/tcp"]).expect_success();
        assert_eq!(sockets.lines().count(), 1, "{sockets}");
    }
    let config = format!("{CONFIG}{LOCAL}[metrics]\nlisten = [\"10.77.0.1:80\", \"[fd77::1]:9200\"]\n");
    let server = lab.server(&config, &[]);
    for address in ["10.77.0.1:80", "[fd77::1]:9200"] {
        assert_eq!(get(&lab, "client", address, "/healthz", "").code, 200);
        assert_eq!(get(&lab, "client", address, "/nothing", "").code, 404);
    }
    server.signal(Signal::SIGHUP);
    ask(&lab, "10.77.0.1", 4, 1);
}
