//! What a machine or its operator may do to a server: it says so clearly, and serves on what it can.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use control::net::xdp_mode::Mode;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode as FileMode;
use testlab::{CONFIG, Lab, Output, Server, not_run, pooltime_xdp, wait_for};

use crate::{EX_CONFIG, EX_NOINPUT, pooltime};

/// Bytes that are no configuration, each with what is said of them.
fn bad_files() -> [(&'static str, Vec<u8>, &'static str); 4] {
    [
        ("huge", vec![b'#'; (1 << 20) + 1], "above 1048576 bytes"),
        ("binary", (0..=255).collect(), "not UTF-8 text"),
        ("zeros", vec![0; 64], "line 1"),
        ("cut off", b"interfaces = [\"lan0\"]\n[clock]\nstratum = ".to_vec(), "line 3"),
    ]
}

#[test]
fn what_is_no_configuration_is_refused_by_its_name_and_never_waited_for() {
    let directory = std::env::temp_dir().join(format!("pooltime-hardship-{}", std::process::id()));
    fs::create_dir(&directory).unwrap();
    let path = directory.join("server.toml");
    for (name, bytes, complaint) in bad_files() {
        fs::write(&path, bytes).unwrap();
        let said = pooltime(&["run", "--config", path.to_str().unwrap()]).expect_code(EX_CONFIG);
        assert!(said.contains("server.toml") && said.contains(complaint), "{name}: {said}");
    }
    fs::remove_file(&path).unwrap();
    // Reading would wait for a writer.
    nix::unistd::mkfifo(&path, FileMode::S_IRUSR | FileMode::S_IWUSR).unwrap();
    for other in [path.to_str().unwrap(), directory.to_str().unwrap(), "/dev/zero"] {
        let said = pooltime(&["run", "--config", other]).expect_code(EX_CONFIG);
        assert!(said.contains(other) && said.contains("not a regular file"), "{said}");
    }
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("/nowhere/server.toml", &path).unwrap();
    let said = pooltime(&["run", "--config", path.to_str().unwrap()]).expect_code(EX_NOINPUT);
    assert!(said.contains("No such file"), "{said}");
    fs::remove_dir_all(directory).unwrap();
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn a_configuration_that_may_not_be_read_is_named_with_the_reason() {
    let directory = std::env::temp_dir().join(format!("pooltime-unreadable-{}", std::process::id()));
    fs::create_dir(&directory).unwrap();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
    let (program, config) = (directory.join("pooltime-xdp"), directory.join("server.toml"));
    fs::copy(pooltime_xdp(), &program).unwrap();
    fs::write(&config, CONFIG).unwrap();
    fs::set_permissions(&config, fs::Permissions::from_mode(0o600)).unwrap();
    let mut nobody = Command::new("setpriv");
    nobody.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(program);
    let said = Output::of(nobody.args(["config", "check"]).arg(&config)).expect_code(EX_NOINPUT);
    fs::remove_dir_all(directory).unwrap();
    assert!(said.contains("server.toml: Permission denied"), "{said}");
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn a_reload_of_what_is_no_configuration_leaves_the_old_one_in_force() {
    let lab = Lab::up(&[]);
    let server = lab.server(CONFIG, &[]);
    let path = lab.file("server.toml", CONFIG);
    for (_, bytes, complaint) in bad_files() {
        // At once, so that no reload reads a half of it.
        let whole = path.with_extension("new");
        fs::write(&whole, bytes).unwrap();
        fs::rename(&whole, &path).unwrap();
        server.signal(Signal::SIGHUP);
        wait_for("the complaint", || server.log().contains(complaint).then_some(()));
    }
    fs::remove_file(&path).unwrap();
    server.signal(Signal::SIGHUP);
    wait_for("the complaint", || server.log().contains("No such file").then_some(()));
    assert!(server.log().contains("not reloaded, the old one stays in force"), "{}", server.log());
    lab.pooltime("client", &["query", "10.77.0.1", "fd77::1"]).expect_success();
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn the_default_file_and_those_beside_it_may_come_and_go_and_a_reload_goes_by_what_is_there() {
    let lab = Lab::up(&[]);
    let (etc, script) = (lab.directory("etc"), lab.directory("bin").join("pooltime-xdp"));
    // The machine's own file is not for tests.
    let text = format!(
        "#!/bin/sh\nexec unshare --mount sh -c 'mount --bind {} /etc && exec {} \"$@\"' sh \"$@\"\n",
        etc.display(),
        pooltime_xdp()
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let mut server = Server::start(&lab, "server", lab.name(), &["attach", "lan0"]);
    server.stop();
    server.restart_as(&script);
    let rate_is = |server: &Server<'_>, rate| {
        wait_for("the rate", || (server.status().limits?.rate == rate).then_some(()));
    };
    rate_is(&server, 16);
    fs::create_dir(etc.join("pooltime-xdp.toml.d")).unwrap();
    let (file, beside) = (etc.join("pooltime-xdp.toml"), etc.join("pooltime-xdp.toml.d/a.toml"));
    for (path, written, rate) in [
        (&beside, Some(6), 6),
        (&beside, None, 16),
        (&file, Some(5), 5),
        (&beside, Some(6), 6),
        (&beside, None, 5),
        (&file, None, 16),
    ] {
        match written {
            Some(rate) => fs::write(path, format!("limits.rate = {rate}\n")).unwrap(),
            None => fs::remove_file(path).unwrap(),
        }
        server.signal(Signal::SIGHUP);
        rate_is(&server, rate);
    }
    assert!(server.log().contains("/etc/pooltime-xdp.toml does not exist: the defaults hold"));
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn a_read_only_file_system_is_named_with_the_way_out_and_nothing_is_half_done() {
    let lab = Lab::up(&[]);
    let config = lab.file("server.toml", CONFIG);
    let run = format!("{} --instance {} run --config {}", pooltime_xdp(), lab.name(), config.display());
    let read_only = |place: &str, command: &str| {
        let script =
            format!("mount --bind {place} {place} && mount -o remount,ro,bind {place} && exec {command}");
        lab.exec("server", &["unshare", "--mount", "sh", "-c", &script])
    };
    for (place, setting) in [("/sys/fs/bpf", "ReadWritePaths=/sys/fs/bpf"), ("/run", "RuntimeDirectory=")] {
        let said = read_only(place, &run).expect_code(74);
        for part in [place, "Read-only file system", "remount,rw", setting] {
            assert!(said.contains(part), "no `{part}` in: {said}");
        }
        let link = lab.exec("server", &["ip", "link", "show", "dev", "lan0"]).expect_success();
        assert!(!link.contains("xdp"), "{link}");
    }

    // What is learnt of the oscillator cannot be kept; everything else can be done.
    let upstream = "[clock]\nsource = \"upstream\"\nsteer = false\n[[upstream]]\naddress = \"10.77.0.2\"\n[metrics]\nlisten = []\n";
    let config = lab.file("upstream.toml", &format!("interfaces = [\"lan0\"]\n{upstream}"));
    let run = format!(
        "timeout -s INT 2 {} --instance {} attach lan0 --config {}",
        pooltime_xdp(),
        lab.name(),
        config.display()
    );
    let output = read_only("/var/lib", &run);
    assert!(output.stderr.contains("forgotten at the end: cannot create /var/lib/"), "{output:#?}");
    assert!(
        output.stderr.contains("StateDirectory=") && output.stderr.contains("lan0: attached"),
        "{output:#?}"
    );
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn a_host_without_ipv6_is_served_over_ipv4() {
    let lab = Lab::up(&[]);
    lab.exec("server", &["sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1"]).expect_success();
    let config = format!("{CONFIG}[metrics]\nlisten = [\"127.0.0.1:9200\", \"[::1]:9200\"]\n");
    let server = lab.server(&config, &[]);
    lab.pooltime("client", &["query", "10.77.0.1"]).expect_success();
    let status = server.status();
    assert_eq!(status.interfaces[0].addresses, ["10.77.0.1"]);
    assert!(server.log().contains("[::1]:9200: the host has no such address"), "{}", server.log());
    drop(server);

    // A kernel without the family.
    let shim = lab.file("shim.c", SHIM);
    let library = shim.with_extension("so");
    let compiled = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&shim).status();
    if !compiled.is_ok_and(|status| status.success()) {
        return not_run("there is no C compiler for a kernel without IPv6");
    }
    let path = lab.file("shimmed.toml", &config);
    let script = lab.file(
        "shimmed.sh",
        &format!("#!/bin/sh\nLD_PRELOAD={} exec {} \"$@\"\n", library.display(), pooltime_xdp()),
    );
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let mut server = Server::start(&lab, "server", lab.name(), &["run", "--config", path.to_str().unwrap()]);
    assert!(server.stop().success());
    server.restart_as(&script);
    lab.pooltime("client", &["query", "10.77.0.1"]).expect_success();
    let status = server.status();
    assert_eq!(status.userspace_path[0].failure, None);
    assert_eq!(
        status.userspace_path[1].failure.as_deref(),
        Some("the kernel does not support this address family")
    );
    assert_eq!(status.interfaces[0].mode, Some(Mode::Native));
}

/// Says that there is no IPv6.
const SHIM: &str = "#define _GNU_SOURCE\n#include <errno.h>\n#include <sys/socket.h>\n#include <sys/syscall.h>\n\
    #include <unistd.h>\n\
    int socket(int domain, int type, int protocol) {\n\
        if (domain == AF_INET6) { errno = EAFNOSUPPORT; return -1; }\n\
        return syscall(SYS_socket, domain, type, protocol);\n\
    }\n";

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn an_interface_is_followed_through_a_rename_and_served_again_when_it_comes_back() {
    let lab = Lab::up(&["--router"]);
    let mut server = lab.server(CONFIG, &["--mode", "generic"]);
    let shown = |server: &Server<'_>| -> Vec<_> {
        let interfaces = server.status().interfaces;
        interfaces.into_iter().map(|interface| (interface.name, interface.mode.is_some())).collect()
    };
    let becomes = |server: &Server<'_>, expected: &[(&str, bool)]| {
        let expected: Vec<_> = expected.iter().map(|(name, there)| ((*name).to_owned(), *there)).collect();
        wait_for(&format!("{expected:?}"), || (shown(server) == expected).then_some(()));
    };
    let asked = || lab.pooltime("client", &["query", "10.77.0.1"]).expect_success();
    let rename = |from: &str, to: &str| {
        for command in [format!("set {from} down"), format!("set {from} name {to}"), format!("set {to} up")] {
            lab.ip("server", &format!("link {command}"));
        }
    };
    rename("lan0", "wan0");
    becomes(&server, &[("wan0", true)]);
    asked();

    // A service that starts after the rename serves what it finds, and says what it misses.
    server.kill_9();
    server.restart();
    assert!(
        server.log().contains("there is no interface `lan0`: it is attached when it comes"),
        "{}",
        server.log()
    );
    becomes(&server, &[("wan0", true), ("lan0", false)]);
    asked();

    // The last one goes: the daemon waits for it, whoever asks for its status meanwhile.
    lab.ip("server", "link delete wan0");
    becomes(&server, &[("lan0", false), ("wan0", false)]);
    assert_eq!(shown(&server).len(), 2);
    assert!(server.command(&["health"]).code() == Some(69));
    let namespace = format!("{}-client", lab.name());
    lab.ip("server", &format!("link add lan0 type veth peer name lan0 netns {namespace}"));
    for (host, number) in [("server", 1), ("client", 2)] {
        lab.ip(host, "link set lan0 up");
        lab.ip(host, &format!("address add 10.77.0.{number}/24 dev lan0"));
    }
    becomes(&server, &[("lan0", true), ("wan0", false)]);
    wait_for("the address to be served", || {
        lab.pooltime("client", &["query", "10.77.0.1"]).status.success().then_some(())
    });
    assert_eq!(server.status().interfaces[0].mode, Some(Mode::Generic));
    assert!(!server.log().contains("ERROR"), "{}", server.log());

    server.command(&["detach"]).expect_success();
    assert!(server.wait().success());
}
