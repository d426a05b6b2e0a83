//! What the command line says, in words and in exit codes, when it is not given what it needs.

use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use control::status::Status;
use testlab::{CONFIG, Lab, Output, not_run, pooltime_xdp, tool, wait_for};

// Of sysexits.h.
const EX_USAGE: i32 = 64;
const EX_NOINPUT: i32 = 66;
const EX_UNAVAILABLE: i32 = 69;
const EX_NOPERM: i32 = 77;
const EX_CONFIG: i32 = 78;

/// A user who has no rights and owns no files.
const NOBODY: u32 = 65534;

#[test]
fn help_and_version_are_no_errors_and_wrong_arguments_are() {
    for argument in ["--help", "--version"] {
        assert!(!pooltime(&[argument]).expect_success().is_empty());
    }
    for arguments in [
        &[][..],
        &["attach"],
        &["serve"],
        &["status", "--yaml"],
        &["attach", "lo", "--mode", "fast"],
        &["query", "--timeout", "0", "127.0.0.1"],
        &["upstream", "probe"],
        &["upstream", "probe", "--count", "9", "127.0.0.1"],
        &["upstream", "probe", "a name"],
    ] {
        assert!(!pooltime(arguments).expect_code(EX_USAGE).is_empty());
    }
    let refused =
        Output::of(Command::new(pooltime_xdp()).args(["--instance", "../x", "status"])).expect_code(EX_USAGE);
    assert!(refused.contains("`../x` cannot name an instance") && refused.contains("letters"), "{refused}");
}

#[test]
fn no_line_is_wider_than_80_columns() {
    // The names of all commands, each with those before it.
    let mut commands = vec![Vec::new()];
    let mut definitions = vec![(Vec::new(), control::cli::definition())];
    while let Some((path, definition)) = definitions.pop() {
        for one in definition.get_subcommands() {
            let path: Vec<String> = [&path[..], &[one.get_name().to_owned()]].concat();
            commands.push(path.clone());
            definitions.push((path, one.clone()));
        }
    }
    assert!(commands.len() > 20, "{commands:?}");
    for command in &commands {
        for help in ["-h", "--help"] {
            let arguments: Vec<_> = command.iter().map(String::as_str).chain([help]).collect();
            is_narrow(&arguments, &pooltime(&arguments).expect_success());
        }
    }
    // A terminal, for what is folded only there.
    let Some(script) = tool("script") else {
        return not_run("script, which makes a terminal, is not there");
    };
    let files = Files::new("narrow");
    let wrong =
        files.file("wrong.toml", "[clock]\nsource = \"upstream\"\n[[upstream]]\naddress = \"127.0.0.1\"\n");
    for arguments in [&["status"][..], &["config", "check", &wrong], &["detach", "lan0"], &["doctor", "lo"]] {
        let command = [&[pooltime_xdp()], arguments].concat().join(" ");
        let output =
            Command::new(&script).args(["-qec", &command, "/dev/null"]).env("NO_COLOR", "1").output();
        let said = String::from_utf8_lossy(&output.unwrap().stdout).replace('\r', "");
        assert!(!said.trim().is_empty() && !said.contains('\x1b'), "{arguments:?}: {said:?}");
        is_narrow(arguments, &said);
    }
}

#[track_caller]
fn is_narrow(arguments: &[&str], text: &str) {
    for line in text.lines() {
        // What has no space to be folded at, such as a path, is not broken, nor is a command to be copied.
        let is_whole = line.split_whitespace().any(|word| word.chars().count() > 60);
        let is_command = line.starts_with("         type  ");
        assert!(line.chars().count() <= 80 || is_whole || is_command, "{arguments:?}: {line:?}");
    }
}

#[test]
fn programs_can_tell_the_version_of_a_format_and_a_build() {
    let version = pooltime(&["--version"]).expect_success();
    assert!(version.contains(std::env::consts::ARCH) && version.contains('('), "{version}");
}

#[test]
fn a_wrong_configuration_is_refused_with_file_line_key_and_the_nearest_key() {
    let files = Files::new("config");
    let right = files.file("right.toml", CONFIG);
    assert!(pooltime(&["config", "check", &right]).expect_success().contains(": OK"));

    let misspelt = files.file("misspelt.toml", "interfaces = [\"lan0\"]\n\n[clock]\nhorizon = 5000\n");
    let broken = files.file("broken.toml", "interfaces = [\"lan0\"\n[clock]\n");
    let absurd = files.file("absurd.toml", "[clock]\nhorizon_ms = 1\n");
    let wrong_type = files.file("wrong-type.toml", "serve = [\"not an address\"]\n");
    let cases = [
        (&misspelt, &["line 4", "`horizon`", "did you mean `horizon_ms`?"][..]),
        (&broken, &["line 2"]),
        (&absurd, &["clock.horizon_ms", "1000 to 3600000"]),
        (&wrong_type, &["line 1", "IP address"]),
    ];
    for (file, expected) in cases {
        for command in
            [&["config", "check", file][..], &["run", "--config", file], &["attach", "lo", "--config", file]]
        {
            let said = pooltime(command).expect_code(EX_CONFIG);
            assert!(
                said.contains(file.as_str()) && expected.iter().all(|part| said.contains(part)),
                "{said}"
            );
        }
    }

    let missing = files.path("missing.toml");
    let said = pooltime(&["run", "--config", &missing]).expect_code(EX_NOINPUT);
    assert!(said.contains(&missing) && said.contains("No such file"), "{said}");
}

#[test]
fn files_beside_the_configuration_are_read_after_it_and_shown_with_their_lines() {
    let files = Files::new("beside");
    let main = files.file("server.toml", "[clock]\nhorizon_ms = 3000\nstratum = 3\n");
    fs::create_dir(files.path("server.toml.d")).unwrap();
    let site = files.file("server.toml.d/site.toml", "\nclock.horizon_ms = 4000\n");
    let checked = pooltime(&["config", "check", &main]).expect_success();
    assert_eq!(checked, format!("{main}: OK\n{site}: OK\n"));
    let shown = pooltime(&["config", "show", &main]).expect_success();
    for line in [format!("horizon_ms = 4000  # {site}:2\n"), format!("stratum = 3  # {main}:3\n")] {
        assert!(shown.contains(&line), "{line}is not in:\n{shown}");
    }
    let json = pooltime(&["config", "show", "--json", &main]).expect_success();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["format"], &json["config"]["clock"]["horizon_ms"]), (&1.into(), &4000.into()));
    assert_eq!(json["origins"]["clock.horizon_ms"]["file"], *site);
    files.file("server.toml.d/wrong.toml", "\nclock.horizon = 4000\n");
    for command in [["config", "check", &main], ["config", "show", &main], ["run", "--config", &main]] {
        let said = pooltime(&command).expect_code(EX_CONFIG);
        assert!(said.contains("server.toml.d/wrong.toml: line 2: unknown key `horizon`"), "{said}");
    }
}

/// In the lab, whose hosts have no default route: elsewhere the machine's own interface would be taken.
#[test]
#[ignore = "needs root: scripts/test runs it"]
fn without_a_configured_interface_and_a_default_route_nothing_is_attached() {
    let lab = Lab::up(&[]);
    let empty = lab.file("empty.toml", "");
    let said = lab.pooltime("server", &["run", "--config", empty.to_str().unwrap()]);
    let said = said.expect_code(EX_UNAVAILABLE);
    assert!(said.contains("no interface is configured, and there is no default route"), "{said}");
    assert!(said.contains(empty.to_str().unwrap()) && said.contains("attach"), "{said}");

    // Without the default file it is the same, but not for whoever names it. The files beside it are read all the same.
    let run = format!("{} --instance {}", pooltime_xdp(), lab.name());
    let script = format!(
        "mount -t tmpfs none /etc; {run} config check; {run} run; echo $?; {run} run --config /etc/pooltime-xdp.toml; \
         echo $?; mkdir /etc/pooltime-xdp.toml.d; echo stratun=1 >/etc/pooltime-xdp.toml.d/a.toml; {run} run; echo $?"
    );
    let output = Output::of(lab.command("server", "unshare").args(["--mount", "sh", "-c", &script]));
    let (said, checked) = (output.stderr, "/etc/pooltime-xdp.toml: OK, there is none: the defaults hold");
    assert_eq!(output.stdout, format!("{checked}\n{EX_UNAVAILABLE}\n{EX_NOINPUT}\n{EX_CONFIG}\n"));
    assert!(said.contains("no interface is configured, and there is no default route"), "{said}");
    assert!(said.contains("/etc/pooltime-xdp.toml.d/a.toml: line 1: unknown key"), "{said}");
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn health_waits_for_a_daemon_that_starts_later() {
    let lab = Lab::up(&[]);
    let health = |patience| lab.pooltime("server", &["health", "--wait", patience]);
    let started = Instant::now();
    assert!(health("2s").expect_code(EX_UNAVAILABLE).contains("nothing is attached"));
    assert!(started.elapsed() >= Duration::from_secs(2));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| health("30s"));
        std::thread::sleep(Duration::from_secs(1));
        let _server = lab.server(CONFIG, &[]);
        let said = waiting.join().unwrap().expect_success();
        assert!(said.contains("healthy"), "{said}");
    });
}

#[test]
fn who_may_not_is_told_which_privilege_is_missing() {
    let files = Files::new("nobody");
    let config = files.file("server.toml", "interfaces = [\"lo\"]\n");
    for command in [&["attach", "lo", "--config", &config][..], &["run", "--config", &config], &["detach"]] {
        let said = files.as_nobody(command).expect_code(EX_NOPERM);
        assert!(
            said.contains("missing privilege: CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN") && said.contains("sudo"),
            "{said}"
        );
    }
}

#[test]
fn status_without_a_daemon_says_how_to_start_one() {
    let files = Files::new("status");
    for output in [pooltime(&["status"]), files.as_nobody(&["status", "--json"])] {
        let said = output.expect_code(EX_UNAVAILABLE);
        assert!(said.contains("nothing is attached") && said.contains("attach IFACE` starts it"), "{said}");
    }
}

#[test]
fn query_tells_a_dead_server_from_a_silent_one_and_needs_no_rights() {
    let files = Files::new("query");
    // Bound and never read from: whatever comes, no answer goes.
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let silent_port = silent.local_addr().unwrap().port().to_string();
    // Nobody listens on the first port, and it is nobody's ephemeral one.
    for (port, complaint) in [(silent_port, "no answer"), ("1".into(), "refused")] {
        let arguments = ["query", "--timeout", "1", "--port", &port, "127.0.0.1"];
        let output = files.as_nobody(&arguments);
        assert!(
            output.stdout.contains("server 127.0.0.1: ") && output.stdout.contains(complaint),
            "{output:#?}"
        );
        let said = output.expect_code(EX_UNAVAILABLE);
        assert!(said.contains("no synchronised server answered"), "{said}");

        let output = files.as_nobody(&[&arguments[..], &["--json"]].concat());
        let answers: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
        assert_eq!(answers["answers"][0]["address"], "127.0.0.1", "{answers}");
        assert!(answers["answers"][0]["error"].as_str().unwrap().contains(complaint), "{answers}");
    }
    let said = pooltime(&["query", "-6", "127.0.0.1"]).expect_code(EX_NOINPUT);
    assert!(said.contains("`127.0.0.1` has no address in that family"), "{said}");
}

#[test]
fn upstream_probe_says_why_no_candidate_is_taken() {
    let pool = "0.debian.pool.ntp.org";
    let refused = pooltime(&["upstream", "probe", pool, "--json"]);
    let ranking: serde_json::Value = serde_json::from_str(&refused.stdout).unwrap();
    let candidate = &ranking["candidates"][0];
    assert_eq!((&candidate["name"], &candidate["verdict"]), (&pool.into(), &"unfit".into()), "{ranking}");
    assert!(candidate["reason"].as_str().unwrap().contains("pool names"), "{ranking}");
    assert!(refused.expect_code(EX_UNAVAILABLE).contains("no candidate is suitable"));

    let missing = pooltime(&["upstream", "probe", "--file", "/nowhere/names"]).expect_code(EX_NOINPUT);
    assert!(missing.contains("/nowhere/names"), "{missing}");
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn root_without_the_capabilities_is_told_which() {
    let lab = Lab::up(&[]);
    for (dropped, missing) in [("-bpf,-sys_admin", "CAP_BPF"), ("-net_admin", "CAP_NET_ADMIN")] {
        let bounded = [
            "setpriv",
            "--bounding-set",
            dropped,
            pooltime_xdp(),
            "--instance",
            lab.name(),
            "attach",
            "lan0",
        ];
        let said = lab.exec("server", &bounded).expect_code(EX_NOPERM);
        assert!(said.contains(&format!("missing privilege: {missing}\n")), "{said}");
    }
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn status_of_another_user_is_refused_and_not_mistaken_for_nothing() {
    let lab = Lab::up(&[]);
    let files = Files::new("user");
    let mut server = lab.server(CONFIG, &[]);
    let status = ["--instance", lab.name(), "status"];
    let said = files.as_nobody(&status).expect_code(EX_NOPERM);
    assert!(said.contains("control.sock is root's") && said.contains("sudo"), "{said}");

    // The pins of one that has stopped, and a bpffs that only root can look into.
    assert!(server.stop().success(), "{}", server.log());
    for mount in ["true", "mount -t bpf -o mode=700 bpf /sys/fs/bpf"] {
        let script = format!("{mount} && exec \"$@\"");
        let unshared = ["unshare", "--mount", "sh", "-c", &script, "sh"];
        let nobody = files.nobody(&status);
        let said = lab.exec("server", &[&unshared[..], &words(&nobody)].concat()).expect_code(EX_NOPERM);
        assert!(said.contains("missing privilege"), "{said}");
    }
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn a_bpffs_that_is_not_mounted_is_mounted() {
    let lab = Lab::up(&[]);
    let script = attach_for(&lab, "umount -l /sys/fs/bpf", "0");
    let output = lab.exec("server", &["unshare", "--mount", "sh", &script]);
    assert!(output.stderr.contains("mounted bpffs on /sys/fs/bpf"), "{output:#?}");
    assert!(output.stderr.contains("mount namespace of its own"), "{output:#?}");
    assert!(output.stderr.contains("lan0: attached in native mode"), "{output:#?}");
    output.expect_success();
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn a_time_namespace_with_an_offset_is_refused() {
    let lab = Lab::up(&[]);
    let attach = [pooltime_xdp(), "--instance", lab.name(), "attach", "lan0"];
    let shifted = ["unshare", "--time", "--fork", "--monotonic=-500"];
    let said = lab.exec("server", &[&shifted[..], &attach].concat()).expect_code(EX_UNAVAILABLE);
    assert!(said.contains("time namespace") && said.contains("-500 s off"), "{said}");
    assert!(said.contains("host's time namespace"), "{said}");
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn the_daemon_is_small_and_says_how_small() {
    const LIMIT_BYTES: u64 = 32 << 20;
    let lab = Lab::up(&[]);
    let server = lab.server(CONFIG, &[]);
    lab.pooltime("client", &["query", "10.77.0.1", "fd77::1"]).expect_success();
    let status = server.status();
    let resident_bytes = status.daemon.unwrap().resident_bytes;
    assert!((1..LIMIT_BYTES).contains(&resident_bytes), "{resident_bytes} bytes");
    assert!(status.maps.bytes > 0);
    assert_eq!(status.maps.bytes, status.maps.by_name.values().sum::<u64>());
    let text = server.command(&["status"]).expect_success();
    assert!(text.contains("MiB resident") && text.contains("KiB of kernel memory"), "{text}");
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn status_is_the_same_for_people_and_for_programs() {
    let lab = Lab::up(&[]);
    let server = lab.server(CONFIG, &[]);
    lab.pooltime("client", &["query", "10.77.0.1"]).expect_success();
    let json = server.command(&["status", "--json"]).expect_success();
    let status: Status = serde_json::from_str(&json).unwrap();
    let text = server.command(&["status"]).expect_success();
    for part in [
        &format!("process {}", server.pid())[..],
        "synchronised, stratum 4",
        "lan0 (native) 10.77.0.1 fd77::1",
        "1  answered ipv4 v4",
        "ipv6 answered by this daemon's socket",
    ] {
        assert!(text.contains(part), "no `{part}` in:\n{text}");
    }
    let counter = &status.interfaces[0].counters[0];
    assert_eq!((counter.verdict.as_str(), counter.packets, counter.bytes), ("answered", 1, 90));
    assert_eq!(status.interfaces[0].addresses, ["10.77.0.1", "fd77::1", "fe80::ff:fe77:1"]);
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn attach_on_a_terminal_shows_a_line_that_is_alive() {
    let Some(script) = tool("script") else {
        return not_run("script, which makes a terminal, is not there");
    };
    let lab = Lab::up(&[]);
    let attach = format!("sh {}", attach_for(&lab, ":", "2.5"));
    let said = lab.exec("server", &[script.to_str().unwrap(), "-qec", &attach, "/dev/null"]).expect_success();
    let lines = said.matches("\rlan0 native | synchronised, stratum 4, ").count();
    assert!(lines >= 2 && said.contains(" | 0 answers/s, 0 answered, 0 dropped | "), "{said}");
    assert!(said.contains("Ctrl-C detaches"), "{said}");
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn a_daemon_that_dies_is_noticed_at_the_horizon() {
    let lab = Lab::up(&[]);
    let mut server = lab.server(&CONFIG.replace("[clock]", "[clock]\nhorizon_ms = 1000"), &[]);
    server.kill_9();
    wait_for("answers that are not synchronised", || {
        let asked = lab.pooltime("client", &["query", "10.77.0.1"]);
        (asked.code() == Some(EX_UNAVAILABLE) && asked.stdout.contains("stratum 0")).then_some(())
    });
    let said = server.command(&["status"]).expect_success();
    assert!(said.contains("NOT SYNCHRONISED") && said.contains("daemon is dead or hangs"), "{said}");
    server.restart();
    lab.pooltime("client", &["query", "10.77.0.1"]).expect_success();
}

/// A shell script that prepares by a command, attaches in the foreground, and ends that after some seconds.
fn attach_for(lab: &Lab, prepare: &str, seconds: &str) -> String {
    let config = lab.file("server.toml", CONFIG);
    let command = format!("{} --instance {}", pooltime_xdp(), lab.name());
    let script = format!(
        "{prepare} || exit\n\
         {command} attach lan0 --config {} &\n\
         until {command} status 2>/dev/null | grep -q process; do sleep 0.1; done\n\
         sleep {seconds}; kill $!; wait $!\n",
        config.display()
    );
    lab.file("attach.sh", &script).to_str().unwrap().to_owned()
}

/// Runs the command for an instance of nobody's.
fn pooltime(arguments: &[&str]) -> Output {
    let instance = format!("command-line-{}", std::process::id());
    Output::of(Command::new(pooltime_xdp()).args(["--instance", &instance]).args(arguments))
}

/// A directory that any user can read.
struct Files(PathBuf);

impl Files {
    fn new(name: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("pooltime-{name}-{}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        let open = fs::Permissions::from_mode(0o755);
        fs::set_permissions(&directory, open.clone()).unwrap();
        let files = Self(directory);
        // Where it was built, another user may not be let in.
        fs::copy(pooltime_xdp(), files.path("pooltime-xdp")).unwrap();
        fs::set_permissions(files.path("pooltime-xdp"), open).unwrap();
        files
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        path
    }

    /// The command line that runs the program as somebody without rights: whoever runs the tests, if that is
    /// not root.
    fn nobody(&self, arguments: &[&str]) -> Vec<String> {
        let nobody = [format!("--reuid={NOBODY}"), format!("--regid={NOBODY}"), "--clear-groups".into()];
        let mut command = Vec::new();
        if nix::unistd::geteuid().is_root() {
            command.push("setpriv".to_owned());
            command.extend(nobody);
        }
        command.push(self.path("pooltime-xdp"));
        command.extend(arguments.iter().map(ToString::to_string));
        command
    }

    fn as_nobody(&self, arguments: &[&str]) -> Output {
        let command = self.nobody(arguments);
        Output::of(Command::new(&command[0]).args(&command[1..]))
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _not_there = fs::remove_dir_all(&self.0);
    }
}

fn words(command: &[String]) -> Vec<&str> {
    command.iter().map(String::as_str).collect()
}
