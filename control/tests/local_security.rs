//! What an unprivileged user of the host may try: root is not told to type what that user chose, the daemon starts and
//! cannot be held up, and its pins, its lock and its pages stay its own.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::Value;
use testlab::upstreams::address;
use testlab::{CONFIG, Lab, not_run, pooltime_xdp, tool, wait_for};

// Of sysexits.h.
const EX_UNAVAILABLE: i32 = 69;
const EX_NOPERM: i32 = 77;

const NOBODY: u32 = 65534;

/// A process that ends with this, with all that it has started.
struct Process(Child);

impl Process {
    fn start(command: &mut Command) -> Self {
        Self(command.process_group(0).spawn().unwrap())
    }

    fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        killpg(Pid::from_raw(self.id().cast_signed()), Signal::SIGKILL).unwrap();
        self.0.wait().unwrap();
    }
}

/// A program under any name that does nothing for a minute.
fn idle(lab: &Lab, name: &str) -> PathBuf {
    let directory = lab.directory("idle");
    fs::set_permissions(directory.parent().unwrap(), fs::Permissions::from_mode(0o755)).unwrap();
    let path = directory.join(name);
    fs::copy(tool("sleep").expect("sleep is everywhere"), &path).unwrap();
    path
}

/// A control group that is removed with this, and the groups above it that were not there before.
struct Group {
    path: PathBuf,
    /// From the innermost.
    made: Vec<PathBuf>,
}

impl Group {
    /// Creates a group in the hierarchy of systemd, or in the only one, if there is one.
    fn create(path: &str) -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let mut mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let root =
            mounts.find(|mount| mount[2] == "cgroup2" || mount[3].contains("name=systemd"))?[1].to_owned();
        let path = Path::new(&root).join(path);
        let made = path.ancestors().take_while(|group| !group.exists()).map(Path::to_owned).collect();
        fs::create_dir_all(&path).ok()?;
        Some(Self { path, made })
    }

    fn add(&self, process: &Process) {
        fs::write(self.path.join("cgroup.procs"), process.id().to_string()).unwrap();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for group in &self.made {
            // A process that has just ended may still be in it for a moment.
            wait_for("the group to be empty", || fs::remove_dir(group).ok());
        }
    }
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn nothing_that_a_process_chose_is_in_a_command_for_root() {
    const GROUPS: [&str; 3] = [
        "system.slice/a;touch owned;.service",
        "user.slice/user-65534.slice/user@65534.service/ntp.service",
        "system.slice/delegating.service/ntp.service",
    ];
    let lab = Lab::up(&[]);
    let config =
        lab.file("examined.toml", "[clock]\nsource = \"upstream\"\n[[upstream]]\naddress = \"192.0.2.1\"\n");
    let program = idle(&lab, "ntp\n\x1b[2Jroot#");
    let doctor = |format: &[&str]| {
        let command = ["doctor", "--config", config.to_str().unwrap(), "lan0"];
        lab.pooltime("server", &[&command[..], format].concat())
    };
    for path in GROUPS {
        let socket = lab.inside("server", || std::net::UdpSocket::bind("0.0.0.0:123").unwrap());
        let Some(group) = Group::create(path) else { return not_run("there are no control groups") };
        let holder = {
            let mut command = Command::new(&program);
            command.arg("60").uid(NOBODY).gid(NOBODY).stdin(Stdio::from(OwnedFd::from(socket)));
            Process::start(&mut command)
        };
        group.add(&holder);

        let report: Value = serde_json::from_str(&doctor(&["--json"]).stdout).unwrap();
        let findings = report["findings"].as_array().unwrap();
        let fix = findings
            .iter()
            .find_map(|found| found["id"].as_str().filter(|id| *id == "port-123").and(found["fix"].as_str()));
        assert_eq!(fix, Some(&*format!("kill {}", holder.id())), "{path}: {findings:#?}");
        let text = doctor(&[]).stdout;
        let named = format!(r"held by ntp\n\u{{1b}}[2Jroot# (process {})", holder.id());
        assert!(text.contains(&named) && !text.contains('\x1b'), "{text}");
        drop(holder);
    }
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn the_name_of_an_interface_is_one_word_of_a_command() {
    let lab = Lab::up(&[]);
    lab.exec("server", &["ip", "link", "add", "x;id>&2;'", "type", "veth"]).expect_success();
    let output = lab.pooltime("server", &["doctor", "--json", "x;id>&2;'"]);
    let report: Value = serde_json::from_str(&output.stdout).unwrap();
    let mut typed = 0;
    for fix in report["findings"].as_array().unwrap().iter().filter_map(|found| found["fix"].as_str()) {
        if fix.contains("x;id") {
            let said = lab.exec("server", &["sh", "-c", fix]);
            assert!(!said.stderr.contains("uid="), "{fix}: {said:#?}");
            typed += 1;
        }
    }
    assert!(typed > 0, "{report:#}");
    lab.exec("server", &["ip", "link", "show", "up", "dev", "x;id>&2;'"]).expect_success();
}

/// The daemon may not steer the machine's clock here: where it finds nobody else who does, it says so.
#[test]
#[ignore = "needs root: scripts/test runs it"]
fn a_process_that_may_not_steer_the_clock_keeps_the_daemon_from_nothing_whatever_its_name() {
    let lab = Lab::up(&[]);
    let config = format!(
        "interfaces = [\"lan0\"]\n[clock]\nsource = \"upstream\"\nsteer = true\n[[upstream]]\naddress = \"{}\"\n",
        address(0)
    );
    let config = lab.file("server.toml", &config);
    let start = || {
        let bounded = ["setpriv", "--bounding-set", "-sys_time", pooltime_xdp(), "--instance", lab.name()];
        lab.exec("server", &[&bounded[..], &["run", "--config", config.to_str().unwrap()]].concat())
    };
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let attacks: [(&str, &[&str]); 5] = [
        ("a set-user-ID program, which a user may link by any name,", &nobody),
        ("a user's process", &nobody),
        ("root without the capability", &["setpriv", "--bounding-set", "-sys_time"]),
        ("root of a user namespace", &["unshare", "--user", "--map-root-user"]),
        (
            "root of a container without the capability",
            &[
                "unshare",
                "--pid",
                "--mount",
                "--fork",
                "--kill-child",
                "setpriv",
                "--bounding-set",
                "-sys_time",
            ],
        ),
    ];
    for name in ["ntpd", "chronyd"] {
        let program = idle(&lab, name);
        let run = |wrapper: &[&str]| {
            let words = [wrapper, &[program.to_str().unwrap(), "60"]].concat();
            let process = Process::start(Command::new(words[0]).args(&words[1..]));
            wait_for("the process to have its name", || is_running(name).then_some(()));
            process
        };
        for (who, wrapper) in attacks {
            let set_user_id = if who.starts_with("a set-user-ID") { 0o4755 } else { 0o755 };
            fs::set_permissions(&program, fs::Permissions::from_mode(set_user_id)).unwrap();
            let _attacker = run(wrapper);
            let output = start();
            if output.stderr.contains("already") && !output.stderr.contains(&format!("{name} (process")) {
                return not_run("a time daemon steers this machine's clock");
            }
            let said = output.expect_code(EX_NOPERM);
            assert!(said.contains("CAP_SYS_TIME"), "{who} called {name}: {said}");
        }
        // As these daemons run: without root, but with the capability.
        let keeping: [&[&str]; 3] = [
            &["setpriv"],
            &["setpriv", "--reuid=65534", "--inh-caps=-all,+sys_time", "--ambient-caps=+sys_time"],
            &["unshare", "--pid", "--mount", "--fork", "--kill-child"],
        ];
        for wrapper in keeping {
            let _rival = run(wrapper);
            let said = start().expect_code(EX_UNAVAILABLE);
            assert!(said.contains(&format!("{name} (process")), "{wrapper:?}: {said}");
        }
    }
}

fn is_running(name: &str) -> bool {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let mut names = processes.filter_map(|process| fs::read_to_string(process.path().join("comm")).ok());
    names.any(|found| found.trim_end() == name)
}

/// Runs shell commands on the host `server`, in a mount namespace of their own with a bpffs as the kernel mounts it.
/// `"$@"` is the program.
fn on_open_bpffs(lab: &Lab, commands: &str, arguments: &[&str]) -> testlab::Output {
    let pins = format!("pins=/sys/fs/bpf/pooltime-xdp@{}", lab.name());
    let script = format!("mount -t bpf bpf /sys/fs/bpf || exit 1; {pins}; {commands}");
    let unshared = ["unshare", "--mount", "--propagation", "private", "sh", "-c", &script, "sh"];
    let program = [pooltime_xdp(), "--instance", lab.name()];
    lab.exec("server", &[&unshared[..], &program, arguments].concat())
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn pins_that_others_than_root_may_change_are_not_used() {
    const NOBODY: &str = "setpriv --reuid=65534 --regid=65534 --clear-groups";
    let lab = Lab::up(&[]);
    let prepared = [
        (format!("{NOBODY} mkdir $pins"), "belongs to user 65534"),
        (format!("{NOBODY} ln -s /sys/fs/bpf $pins"), "is not a directory"),
        ("mkdir -m 0777 $pins".into(), "is writable for others than root (mode 0777)"),
        ("mkdir -m 0770 $pins".into(), "is writable for others than root (mode 0770)"),
        ("mkdir -m 0700 $pins && chmod 0777 /sys/fs/bpf".into(), "/sys/fs/bpf is writable for others"),
        ("mkdir -m 0700 $pins && chown 65534 /sys/fs/bpf".into(), "/sys/fs/bpf belongs to user 65534"),
    ];
    for (prepare, reason) in &prepared {
        for arguments in [&["attach", "lan0"][..], &["detach"], &["status"]] {
            let said =
                on_open_bpffs(&lab, &format!("{prepare} && exec \"$@\""), arguments).expect_code(EX_NOPERM);
            assert!(
                said.contains(reason) && said.contains("cannot be trusted"),
                "{prepare}, {arguments:?}: {said}"
            );
        }
    }
    // The way out that is told.
    let (prepare, _) = &prepared[0];
    let freed = format!("{prepare} && rm -r $pins && exec timeout -s INT 1 \"$@\"");
    let output = on_open_bpffs(&lab, &freed, &["attach", "lan0"]);
    assert!(output.stderr.contains("lan0: attached"), "{output:#?}");
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn nobody_detaches_the_program_from_a_bpffs_that_everybody_may_write_to() {
    const NOBODY: &str = "setpriv --reuid=65534 --regid=65534 --clear-groups";
    let lab = Lab::up(&[]);
    let attacks = ["rm -rf $pins", "mv $pins /sys/fs/bpf/x", "rm -f $pins/link-*", "ls $pins"];
    let attack =
        attacks.map(|attack| format!("{NOBODY} sh -c \"pins=$pins; {attack}\" && echo broken")).join("; ");
    let script = format!(
        "\"$@\" & daemon=$!; \
         for try in $(seq 100); do ls $pins/link-* 2> /dev/null && break; sleep 0.1; done; \
         {attack}; ls $pins; kill -INT $daemon; wait $daemon"
    );
    let output = on_open_bpffs(&lab, &script, &["attach", "lan0"]);
    assert!(output.stdout.contains("link-") && !output.stdout.contains("broken"), "{output:#?}");
    output.expect_success();
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn a_bpffs_that_the_daemon_mounts_is_root_s_alone() {
    let lab = Lab::up(&[]);
    let script = "umount -l /sys/fs/bpf 2> /dev/null; \"$@\"; stat -c '%a %u' /sys/fs/bpf";
    let attach = [pooltime_xdp(), "--instance", lab.name(), "attach", "lan0"];
    let bounded = ["timeout", "-s", "INT", "1"];
    let unshared = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"];
    let output = lab.exec("server", &[&unshared[..], &bounded, &attach].concat());
    assert!(output.stderr.contains("mounted bpffs") && output.stdout.ends_with("700 0\n"), "{output:#?}");
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn members_of_the_socket_s_group_may_look_and_change_nothing() {
    let lab = Lab::up(&[]);
    let server = lab.server(CONFIG, &[]);
    let program = lab.file("pooltime-xdp", "");
    fs::copy(pooltime_xdp(), &program).unwrap();
    fs::set_permissions(program.parent().unwrap(), fs::Permissions::from_mode(0o755)).unwrap();
    let socket = server.paths().socket();
    let group = fs::metadata(&socket).unwrap().gid().to_string();
    let member = |command: &[&str]| {
        let user = ["setpriv", "--reuid=65534", &format!("--regid={group}"), "--clear-groups"];
        let program = [program.to_str().unwrap(), "--instance", lab.name()];
        lab.exec("server", &[&user[..], &program, command].concat())
    };
    for looks in [&["status"][..], &["health"], &["top", "--once"], &["peers"], &["access", "list"]] {
        member(looks).expect_success();
    }
    for changes in
        [&["deny", "192.0.2.1"][..], &["access", "remove", "192.0.2.1"], &["attach", "lan0"], &["detach"]]
    {
        let said = member(changes).expect_code(EX_NOPERM);
        assert!(said.contains("only root changes the server, and this is user 65534"), "{changes:?}: {said}");
    }
    assert!(server.status().interfaces.iter().any(|interface| interface.mode.is_some()));
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn the_lock_is_for_root_to_open() {
    let lab = Lab::up(&[]);
    let path = {
        let server = lab.server(CONFIG, &[]);
        let path = server.paths().runtime_directory().join("lock");
        let lock = fs::metadata(&path).unwrap();
        assert_eq!((lock.mode() & 0o777, lock.uid()), (0o600, 0));
        path
    };
    // One that an earlier version has left.
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    File::create(&path).unwrap().set_permissions(fs::Permissions::from_mode(0o644)).unwrap();
    let _server = lab.server(CONFIG, &[]);
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
}

/// The effective capabilities of each thread of a process, by the thread's name. Those of the event loop's helpers count
/// once.
fn capabilities(process: u32) -> BTreeMap<String, u64> {
    let threads = fs::read_dir(format!("/proc/{process}/task")).unwrap().flatten();
    let status = threads.filter_map(|thread| fs::read_to_string(thread.path().join("status")).ok());
    let field = |status: &str, name: &str| {
        status.lines().find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned())).unwrap()
    };
    let of_thread = |status: String| {
        let [permitted, effective] =
            ["CapPrm:", "CapEff:"].map(|set| u64::from_str_radix(&field(&status, set), 16).unwrap());
        assert_eq!(permitted, effective, "{status}");
        assert_eq!(field(&status, "CapInh:"), "0".repeat(16), "{status}");
        assert_eq!(field(&status, "NoNewPrivs:"), "1", "{status}");
        assert_eq!(field(&status, "Seccomp:"), "2", "{status}");
        (field(&status, "Name:"), effective)
    };
    status.map(of_thread).collect()
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn each_thread_keeps_the_capabilities_that_it_needs_and_the_server_does_all_that_it_did() {
    const NET_ADMIN: u64 = 1 << 12;
    const DAC_OVERRIDE: u64 = 1 << 1;
    const DAC_READ_SEARCH: u64 = 1 << 2;
    const SYS_ADMIN: u64 = 1 << 21;
    const SYS_TIME: u64 = 1 << 25;
    const PERFMON: u64 = 1 << 38;
    const BPF: u64 = 1 << 39;
    let lab = Lab::up(&["--router"]);
    let config = format!(
        "interfaces = [\"lan0\"]\n[clock]\nsource = \"upstream\"\nsteer = false\n\
         [[upstream]]\naddress = \"{}\"\n[[upstream]]\naddress = \"no-such-name.invalid\"\n",
        address(0)
    );
    let mut server = lab.server(&config, &[]);
    let of_loop = wait_for("the loop to give the clock up", || {
        let kept = capabilities(server.pid());
        let main = kept.get("pooltime-xdp").copied().filter(|kept| kept & SYS_TIME == 0)?;
        let expected = [
            ("access-lists", BPF | DAC_READ_SEARCH),
            ("interfaces", BPF | PERFMON | NET_ADMIN | SYS_ADMIN),
            ("observe", 0),
            ("observer", BPF),
            ("step-watch", 0),
            ("userspace-path", 0),
        ];
        for (thread, expected) in expected {
            assert_eq!(kept.get(thread), Some(&expected), "{thread}: {kept:x?}");
        }
        let others = kept
            .iter()
            .filter(|(name, _)| *name != "pooltime-xdp" && !expected.iter().any(|(known, _)| known == name));
        for (name, kept) in others {
            // Names that are looked up, and a thread that watches for pauses of virtual machines.
            assert_eq!(kept & !DAC_OVERRIDE, 0, "{name}");
        }
        Some(main)
    });
    assert_eq!(of_loop, BPF);

    // Names are looked up, lists and addresses change, an interface comes and goes, and so does its program.
    wait_for("the look-up", || server.log().contains("no-such-name.invalid").then_some(()));
    server.command(&["attach", "lan2"]).expect_success();
    server.command(&["deny", "192.0.2.0/24"]).expect_success();
    lab.exec("server", &["ip", "address", "add", "10.77.0.9/24", "dev", "lan0"]).expect_success();
    wait_for("the new address", || {
        server.status().interfaces[0].addresses.contains(&"10.77.0.9".to_owned()).then_some(())
    });
    lab.pooltime("client", &["query", "10.77.0.9"]);
    let denied = lab.file("denied", "198.51.100.0/24\n");
    lab.file("server.toml", &format!("{config}[access]\nfiles = [{denied:?}]\n"));
    server.signal(Signal::SIGHUP);
    wait_for("the reload", || server.log().contains("configuration reloaded").then_some(()));
    assert!(server.command(&["access", "list"]).expect_success().contains("198.51.100.0/24"));
    server.command(&["detach", "lan2"]).expect_success();
    assert!(server.stop().success(), "{}", server.log());
    for complaint in
        ["Operation not permitted", "Permission denied", "keeps capabilities", "cannot be filtered"]
    {
        assert!(!server.log().contains(complaint), "{}", server.log());
    }
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn the_pool_s_commands_speak_to_the_network_as_nobody() {
    let lab = Lab::up(&[]);
    let page = lab.inside("server", || std::net::TcpListener::bind("127.0.0.1:8000").unwrap());
    let mut command = lab.command("server", pooltime_xdp());
    command.args(["pool", "score", "192.0.2.1", "--base", "http://127.0.0.1:8000"]).stderr(Stdio::piped());
    let process = Process::start(&mut command);
    // It has connected, and waits for the answer.
    let (connection, _) = page.accept().unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let fields: Vec<_> = status.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).collect();
    let field = |name: &str| fields.iter().find(|words| words[0] == name).unwrap()[1..].join(" ");
    for ids in ["Uid:", "Gid:"] {
        assert_eq!(field(ids), "65534 65534 65534 65534", "{status}");
    }
    assert_eq!(field("Groups:"), "", "{status}");
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
        assert_eq!(field(set), "0".repeat(16), "{status}");
    }
    assert_eq!((field("NoNewPrivs:"), field("Seccomp:")), ("1".into(), "2".into()), "{status}");
    drop(connection);
}
