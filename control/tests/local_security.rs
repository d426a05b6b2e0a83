//! What an unprivileged user of the host may try: root is not told to type what that user chose, the daemon starts and
//! cannot be held up, and its pins, its lock and its pages stay its own.

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
use testlab::{CONFIG, Lab, not_run, pooltime_xdp, tool};

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

/// A control group that is removed with this.
struct Group(PathBuf);

impl Group {
    /// Creates a group in the hierarchy of systemd, or in the only one, if there is one.
    fn create(path: &str) -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let mut mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let root =
            mounts.find(|mount| mount[2] == "cgroup2" || mount[3].contains("name=systemd"))?[1].to_owned();
        let group = Path::new(&root).join(path);
        fs::create_dir_all(&group).ok()?;
        Some(Self(group))
    }

    fn add(&self, process: &Process) {
        fs::write(self.0.join("cgroup.procs"), process.id().to_string()).unwrap();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Those above it may be systemd's.
        let _in_use = fs::remove_dir(&self.0);
        let _in_use = self.0.parent().map(fs::remove_dir);
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
        let holder = {
            let mut command = Command::new(&program);
            command.arg("60").uid(NOBODY).gid(NOBODY).stdin(Stdio::from(OwnedFd::from(socket)));
            Process::start(&mut command)
        };
        let Some(group) = Group::create(path) else { return not_run("there are no control groups") };
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
            testlab::wait_for("the process to have its name", || is_running(name).then_some(()));
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
