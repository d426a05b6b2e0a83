//! Access lists as long as they may be: whatever is done to them, the clock is published as if they were empty.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use responder::layout::LIST_ENTRIES;
use testlab::line_age::watching;
use testlab::{CONFIG, Lab, Output, Server, pooltime_xdp};

/// As many entries of either family as a list may have, in `first.0.0.0/8` and `first:0:0::/16`.
fn full_list(first: u8) -> String {
    let mut text = String::new();
    for number in 0..u32::try_from(LIST_ENTRIES).unwrap() {
        let (high, low) = (number >> 12, number & 0xfff);
        writeln!(text, "{first}.{}.{}.{}", high, low >> 4, (low & 15) << 4).unwrap();
        writeln!(text, "24{first:02}:{high:x}:{low:x}::/48").unwrap();
    }
    text
}

/// Reloads a configuration with another rate, and waits until that is in force: the log tells of the same thing only once
/// in a while.
fn reload(lab: &Lab, server: &Server<'_>, rate: u32, access: &str) {
    lab.file("server.toml", &format!("{CONFIG}[limits]\nrate = {rate}\n{access}"));
    let start = Instant::now();
    server.signal(Signal::SIGHUP);
    while server.status().limits.unwrap().rate != rate {
        assert!(!server.log().contains("not reloaded"), "{}", server.log());
        assert!(start.elapsed() < Duration::from_mins(1), "the reload does not end");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn a_million_prefixes_of_each_family_never_hold_up_the_clock() {
    let lab = Lab::up(&[]);
    let list = lab.file("list", &full_list(11));
    let server = lab.server(CONFIG, &[]);
    let entries = || server.status().limits.unwrap().access_entries;
    watching(&server, |watch| {
        let access = format!("[access]\nfiles = [{list:?}]\n");
        watch.during("a full list is loaded", |server| reload(&lab, server, 20, &access));
        assert_eq!(entries(), 2 * LIST_ENTRIES);

        watch.during("`limit` for one of them", |server| {
            server.command(&["limit", "11.0.0.16"]).expect_success();
        });
        watch.during("`access remove`", |server| {
            server.command(&["access", "remove", "11.0.0.16"]).expect_success();
        });
        watch.during("an entry that ends by itself", |server| {
            server.command(&["limit", "2411:0:7::/48", "--for", "1s"]).expect_success();
            std::thread::sleep(Duration::from_millis(1500));
        });
        watch.during("`deny` for one more than there is room for", |server| {
            let said = server.command(&["deny", "12.0.0.1"]).expect_code(71);
            assert!(said.contains("12.0.0.1/32"), "{said}");
        });
        assert_eq!(entries(), 2 * LIST_ENTRIES);

        lab.file("list", &full_list(12));
        watch.during("every entry becomes another, and a command waits for that", |server| {
            std::thread::scope(|scope| {
                let start = Instant::now();
                scope.spawn(|| reload(&lab, server, 21, &access));
                std::thread::sleep(Duration::from_millis(500));
                // On a slow machine this takes longer than `Server::command` waits.
                let mut limit = lab.command("server", pooltime_xdp());
                limit.args(["--instance", lab.name(), "limit", "12.0.0.16"]);
                Output::of(&mut limit).expect_success();
                let took = start.elapsed();
                assert_eq!(server.status().limits.unwrap().rate, 21, "it was not behind the reload");
                println!("`limit` behind the reload: {took:.2?}");
            });
        });
        assert_eq!(entries(), 2 * LIST_ENTRIES);
        let listed = server.command(&["access", "list"]).expect_success();
        let limited = listed.lines().next().unwrap();
        assert!(limited.contains("12.0.0.16/32") && limited.contains("by command"), "{limited}");

        watch.during("`access remove` for the one that a command made", |server| {
            server.command(&["access", "remove", "12.0.0.16"]).expect_success();
        });

        watch.during("all entries go", |server| reload(&lab, server, 22, ""));
        assert_eq!(entries(), 0);
        watch.during("`deny` for the only one", |server| {
            server.command(&["deny", "12.0.0.1"]).expect_success();
        });
        assert_eq!(entries(), 1);
    });
}
