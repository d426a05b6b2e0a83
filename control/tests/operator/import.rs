//! `import`, on files as they come with other daemons, and on what is no such file.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use testlab::{Output, not_run};

use crate::{EX_CONFIG, EX_NOINPUT, pooltime};

/// The guide's file: five servers, and what keeps others from managing the server.
const GUIDE: &str = "driftfile /var/lib/ntp/drift\n\
    server ntp_server_hostname_1 iburst\nserver ntp_server_hostname_2 iburst\nserver ntp_server_hostname_3 iburst\n\
    server ntp_server_hostname_4 iburst\nserver ntp_server_hostname_5 iburst\n\
    restrict default nomodify notrap nopeer noquery kod limited\nrestrict 127.0.0.1\nrestrict ::1\n";

/// A file of the test's own.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str, content: &[u8]) -> Self {
        // Tests run at the same time.
        static FILES: AtomicU32 = AtomicU32::new(0);
        let number = FILES.fetch_add(1, Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("pooltime-import-{}-{number}-{name}", std::process::id()));
        fs::write(&path, content).unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _gone = fs::remove_file(&self.0);
    }
}

/// What is imported passes `config check`.
fn imported(file: &str) -> Output {
    let output = pooltime(&["import", "--interface", "eth0", file]);
    let made = Scratch::new("made.toml", output.stdout.as_bytes());
    pooltime(&["config", "check", made.path()]).expect_success();
    output
}

#[test]
fn the_guides_file_becomes_a_configuration_with_its_five_servers() {
    let file = Scratch::new("guide", GUIDE.as_bytes());
    let output = imported(file.path());
    assert_eq!(output.stdout.matches("[[upstream]]").count(), 5, "{output:#?}");
    assert!(output.stderr.contains(&format!("{}:1: driftfile", file.path())), "{output:#?}");
    output.expect_success();
}

#[test]
fn files_as_debian_ships_them_are_imported() {
    let Some(tools) = std::env::var_os("POOLTIME_TOOLS").map(PathBuf::from) else {
        return not_run("POOLTIME_TOOLS is not set");
    };
    for name in ["ntpsec/etc/ntpsec/ntp.conf", "chrony/usr/share/chrony/chrony.conf"] {
        let path = tools.join("unpacked").join(name);
        let output = imported(path.to_str().unwrap());
        assert!(output.stdout.contains("source = \"system\""), "{output:#?}");
        assert!(output.stderr.contains("pool.ntp.org iburst: refused"), "{output:#?}");
        output.expect_success();
    }
}

#[test]
fn what_is_no_configuration_is_refused_by_its_name() {
    let binary = Scratch::new("binary", &[0xff, 0xfe, 0, 1]);
    let huge = Scratch::new("huge", &vec![b'#'; (1 << 20) + 1]);
    for (path, code, complaint) in [
        (binary.path(), EX_CONFIG, "is not UTF-8 text"),
        (huge.path(), EX_CONFIG, "above 1048576 bytes"),
        ("/proc/self", EX_CONFIG, "not a regular file"),
        ("/nowhere/ntp.conf", EX_NOINPUT, "No such file"),
    ] {
        let said = pooltime(&["import", path]).expect_code(code);
        assert!(said.contains(path) && said.contains(complaint), "{said}");
    }
}
