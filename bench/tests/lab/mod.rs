//! Two network namespaces and a veth pair between them, and nothing of the host's network.

use std::fs::File;
use std::process::{Command, Output};
use std::thread;

use nix::sched::{CloneFlags, setns};

pub(crate) const BENCH: &str = env!("CARGO_BIN_EXE_pooltime-bench");

/// The generators that need root.
pub(crate) const LINK_GENERATORS: [&str; 3] = ["packet", "xdp", "live"];

/// A server and a client on a link of their own; gone when it goes out of scope, whatever happens.
pub(crate) struct Lab {
    pub(crate) server: String,
    pub(crate) client: String,
}

impl Lab {
    pub(crate) fn up(name: &str) -> Self {
        let [server, client] = ["s", "c"].map(|end| format!("bench{}-{name}-{end}", std::process::id()));
        for namespace in [&server, &client] {
            ip(&["netns", "add", namespace]);
            // Addresses are usable at once.
            on(namespace, "sh", &["-c", "echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad"]);
        }
        ip(&[
            "-n", &server, "link", "add", "link0", "type", "veth", "peer", "name", "link0", "netns", &client,
        ]);
        for (namespace, end) in [(&server, 1), (&client, 2)] {
            ip(&["-n", namespace, "address", "add", &format!("10.99.0.{end}/24"), "dev", "link0"]);
            ip(&["-n", namespace, "address", "add", &format!("fd99::{end}/64"), "dev", "link0", "nodad"]);
            ip(&["-n", namespace, "link", "set", "link0", "up"]);
            // So that an end takes frames without an XDP program of its own.
            on(namespace, "ethtool", &["-K", "link0", "gro", "on"]);
        }
        Self { server, client }
    }

    /// Calls a function on a thread that ends: the namespace is the thread's.
    pub(crate) fn inside<T: Send + 'static>(namespace: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
        let namespace = File::open(format!("/run/netns/{namespace}")).unwrap();
        let inside = || {
            setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        };
        thread::spawn(inside).join().unwrap()
    }

    /// Runs the bench on the client.
    pub(crate) fn bench(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// The bench on the client, not started yet.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.client)).arg(BENCH).args(arguments);
        command
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for namespace in [&self.server, &self.client] {
            let _gone = Command::new("ip").args(["netns", "delete", namespace]).status();
        }
    }
}

/// Runs `ip`, which must not fail; what it prints.
pub(crate) fn ip(arguments: &[&str]) -> String {
    run("ip", arguments)
}

/// Runs a program in a namespace, likewise.
pub(crate) fn on(namespace: &str, program: &str, arguments: &[&str]) -> String {
    let namespace = format!("--net=/run/netns/{namespace}");
    run("nsenter", &[&[namespace.as_str(), program], arguments].concat())
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
