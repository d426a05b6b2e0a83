//! Who has the interface and who runs the server: one at a time, handed over or refused by name, and nothing
//! stays behind.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use aya::maps::{Array, Map, MapData};
use control::instance::Instance;
use control::net::xdp_mode::Mode;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use responder::layout;
use responder::verdict::{Family, Verdict};
use testlab::foreign::{put_foreign_program, xdp};
use testlab::{CONFIG, Lab, Server, Tally, pooltime_xdp, wait_for};

// Of sysexits.h.
const EX_UNAVAILABLE: i32 = 69;

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn a_second_daemon_is_refused_with_the_first_one_s_process_and_the_way_out() {
    let lab = Lab::up(&[]);
    let server = lab.server(CONFIG, &[]);
    let config = lab.file("second.toml", CONFIG);
    let refused = server.command(&["run", "--config", config.to_str().unwrap()]).expect_code(EX_UNAVAILABLE);
    assert!(refused.contains(&format!("already running (process {})", server.pid())), "{refused}");
    assert!(refused.contains("detach`") && refused.contains("--instance NAME"), "{refused}");
    assert_eq!(server.status().interfaces.len(), 1);
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn attach_and_detach_ask_the_daemon_that_runs() {
    let lab = Lab::up(&["--router"]);
    let server = lab.server(CONFIG, &[]);
    let said = server.command(&["attach", "lan2"]).expect_success();
    assert_eq!(said, "lan2: attached in native mode\n");
    let attached =
        || server.status().interfaces.into_iter().map(|interface| interface.name).collect::<Vec<_>>();
    assert_eq!(attached(), ["lan0", "lan2"]);
    lab.pooltime("client2", &["query", "10.79.0.1"]).expect_success();
    let counted = Tally::of_program(&server.status());
    assert_eq!(counted, Tally::of([(Verdict::Answered, Family::Ipv4, 4, 1)]));

    let refused = server.command(&["detach", "lan1"]).expect_code(66);
    assert!(refused.contains("not attached to `lan1`") && refused.contains("lan0, lan2"), "{refused}");
    let said = server.command(&["detach", "lan2"]).expect_success();
    assert_eq!(said, "lan2: detached\n");
    assert_eq!((attached(), xdp(&lab, "lan2")), (vec!["lan0".to_owned()], None));
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn what_is_attached_already_is_attached_again_in_the_same_mode_only() {
    let lab = Lab::up(&[]);
    let server = lab.server(CONFIG, &[]);
    let said = server.command(&["attach", "lan0"]).expect_success();
    assert!(said.contains("took over"), "{said}");
    let refused = server.command(&["attach", "lan0", "--mode", "generic"]).expect_code(EX_UNAVAILABLE);
    assert!(
        refused.contains("lan0 is already attached in native mode") && refused.contains("detach it first"),
        "{refused}"
    );
    assert_eq!(server.status().interfaces[0].mode, Some(Mode::Native));
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn somebody_else_s_program_is_named_and_left_alone_unless_told_to_replace_it() {
    for (mode, label) in [("xdpdrv", "native"), ("xdpgeneric", "generic")] {
        let lab = Lab::up(&[]);
        let foreign = put_foreign_program(&lab, "lan0", mode);
        let refused = lab.pooltime("server", &["attach", "lan0"]).expect_code(EX_UNAVAILABLE);
        assert!(refused.contains(&format!("`pass`, id {foreign}, in {label} mode")), "{refused}");
        assert!(refused.contains("--replace"), "{refused}");
        assert_eq!(xdp(&lab, "lan0"), Some(foreign));
        assert_eq!(left_behind(lab.name()), Vec::<PathBuf>::new());

        let config = lab.file("replacing.toml", CONFIG);
        let attach = ["attach", "lan0", "--replace", "--config", config.to_str().unwrap()];
        let server = Server::start(&lab, "server", lab.name(), &attach);
        lab.pooltime("client", &["query", "10.77.0.1"]).expect_success();
        assert_eq!(Tally::of_program(&server.status()).packets(Verdict::Answered), 1);
        assert!(server.log().contains(&format!("taking program {foreign} off lan0")), "{}", server.log());
    }
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn a_replacement_that_fails_leaves_somebody_else_s_program_where_it_was() {
    let lab = Lab::up(&[]);
    lab.ip("server", "link add br0 type bridge");
    // A bridge has no native mode, so what comes after the removal is refused.
    let foreign = put_foreign_program(&lab, "br0", "xdpgeneric");
    let refused = lab
        .pooltime("server", &["attach", "br0", "--mode", "native", "--replace"])
        .expect_code(EX_UNAVAILABLE);
    assert!(refused.contains("br0 refused the program in native mode"), "{refused}");
    assert_eq!(xdp(&lab, "br0"), Some(foreign));
    assert_eq!(left_behind(lab.name()), Vec::<PathBuf>::new());
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn an_interface_that_answers_nobody_is_refused_with_the_reason() {
    let lab = Lab::up(&[]);
    lab.ip("server", "tuntap add dev tun0 mode tun");
    for (name, reason) in [("lo", "the loopback interface"), ("tun0", "no Ethernet header")] {
        for mode in ["auto", "native", "generic"] {
            let refused =
                lab.pooltime("server", &["attach", "lan0", name, "--mode", mode]).expect_code(EX_UNAVAILABLE);
            assert!(refused.contains(reason) && refused.contains("the socket on port 123"), "{refused}");
        }
        assert_eq!((xdp(&lab, name), xdp(&lab, "lan0")), (None, None));
        let doctor = lab.pooltime("server", &["doctor", name]).stdout;
        assert!(
            doctor.contains(&format!("{name} cannot be served on")) && doctor.contains(reason),
            "{doctor}"
        );
    }
    assert_eq!(left_behind(lab.name()), Vec::<PathBuf>::new());
    let server = lab.server(CONFIG, &[]);
    let refused = server.command(&["attach", "lo"]).expect_code(EX_UNAVAILABLE);
    assert!(refused.contains("the loopback interface"), "{refused}");
    lab.pooltime("server", &["query", "127.0.0.1"]).expect_success();
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn interfaces_are_counted_before_any_is_attached() {
    let lab = Lab::up(&[]);
    let names: Vec<_> = (0..9).map(|number| format!("br{number}")).collect();
    for name in &names {
        lab.ip("server", &format!("link add {name} type bridge"));
    }
    let attach = |names: &[String]| -> Vec<String> {
        std::iter::once("attach".to_owned()).chain(names.iter().cloned()).collect()
    };
    let all = attach(&names);
    let refused = lab.pooltime("server", &all.iter().map(String::as_str).collect::<Vec<_>>());
    let refused = refused.expect_code(EX_UNAVAILABLE);
    assert!(
        refused.contains("9 interfaces; a server supports 8") && !refused.contains("attached in"),
        "{refused}"
    );
    assert_eq!(left_behind(lab.name()), Vec::<PathBuf>::new());
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn an_alternative_name_is_as_good_as_the_first() {
    const LONG: &str = "the-interface-to-the-lan-of-the-laboratory";
    let lab = Lab::up(&["--router"]);
    lab.ip("server", &format!("link property add dev lan0 altname {LONG}"));
    lab.ip("server", "link property add dev lan2 altname second-lan-of-the-lab");
    let server = lab.server(&CONFIG.replace("\"lan0\"", &format!("\"lan0\", {LONG:?}")), &[]);
    let attached =
        || server.status().interfaces.into_iter().map(|interface| interface.name).collect::<Vec<_>>();
    assert_eq!(attached(), ["lan0"]);
    server.command(&["attach", "second-lan-of-the-lab"]).expect_success();
    assert_eq!(attached(), ["lan0", "lan2"]);
    let said = server.command(&["detach", "second-lan-of-the-lab"]).expect_success();
    assert_eq!(said, "lan2: detached\n");
    assert_eq!(attached(), ["lan0"]);
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn another_instance_s_program_cannot_be_replaced() {
    let lab = Lab::up(&[]);
    let server = lab.server(CONFIG, &[]);
    let before = xdp(&lab, "lan0");
    let second = format!("{}-second", lab.name());
    let attach = [pooltime_xdp(), "--instance", &second, "attach", "lan0"];
    let refused = lab.exec("server", &attach).expect_code(EX_UNAVAILABLE);
    assert!(refused.contains(&format!("`{}`", layout::PROGRAM)), "{refused}");
    // It is held by a link, and only who has that can take it off.
    let refused = lab.exec("server", &[&attach[..], &["--replace"]].concat()).expect_code(EX_UNAVAILABLE);
    assert!(refused.contains("has to be detached by its owner"), "{refused}");
    assert_eq!(xdp(&lab, "lan0"), before);
    assert_eq!(left_behind(&second), Vec::<PathBuf>::new());
    lab.pooltime("client", &["query", "10.77.0.1"]).expect_success();
    assert_eq!(Tally::of_program(&server.status()).packets(Verdict::Answered), 1);
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn detach_leaves_nothing_behind_whether_the_daemon_lives_or_not() {
    let lab = Lab::up(&[]);
    let mut server = lab.server(CONFIG, &[]);
    server.command(&["detach"]).expect_success();
    assert!(server.wait().success(), "{}", server.log());
    assert_nothing_left(&lab, &server);

    server.restart();
    server.kill_9();
    let said = server.command(&["detach"]).expect_success();
    assert!(said.contains("detached; removed"), "{said}");
    assert_nothing_left(&lab, &server);

    let nothing = server.command(&["detach"]).expect_code(66);
    assert!(nothing.contains("nothing is attached"), "{nothing}");
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn detach_and_attach_wait_for_a_daemon_that_is_starting() {
    let lab = Lab::up(&[]);
    let config = lab.file("server.toml", CONFIG);
    let instance = Instance::new(Some(lab.name())).unwrap();
    let (mut early, mut rounds) = (0, 0);
    for delay_ms in (0..300).step_by(30) {
        let mut daemon = lab.command("server", pooltime_xdp());
        daemon.args(["--instance", lab.name(), "run", "--config", config.to_str().unwrap()]);
        let mut daemon = daemon.stderr(Stdio::null()).spawn().unwrap();
        wait_for("the daemon to hold the instance", || instance.holder().filter(|pid| *pid == daemon.id()));
        sleep(Duration::from_millis(delay_ms));
        early += u32::from(!instance.socket().exists());
        if delay_ms % 60 == 0 {
            let said = lab.pooltime("server", &["attach", "lan0"]).expect_success();
            assert!(said.contains("lan0: "), "{said}");
        }
        let said = lab.pooltime("server", &["detach"]).expect_success();
        assert!(said.contains("lan0: detached"), "after {delay_ms} ms: {said}");
        assert!(daemon.wait().unwrap().success());
        assert_eq!((left_behind(lab.name()), xdp(&lab, "lan0")), (Vec::new(), None), "after {delay_ms} ms");
        rounds += 1;
    }
    println!("{early} of {rounds} times the daemon did not listen yet");
    assert!(early > 0, "no command came while a daemon was starting");
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn ctrl_c_of_attach_leaves_nothing_behind() {
    let lab = Lab::up(&[]);
    let config = lab.file("server.toml", CONFIG);
    let attach = ["attach", "lan0", "--config", config.to_str().unwrap()];
    let mut server = Server::start(&lab, "server", lab.name(), &attach);
    assert_eq!(server.status().interfaces[0].mode, Some(Mode::Native));
    assert!(server.interrupt().success(), "{}", server.log());
    assert_nothing_left(&lab, &server);
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn ctrl_c_leaves_nothing_behind_while_attach_is_starting_either() {
    let lab = Lab::up(&[]);
    let config = lab.file("server.toml", CONFIG);
    for delay_ms in (0..400).step_by(10) {
        let mut attach = lab.command("server", pooltime_xdp());
        attach.args(["--instance", lab.name(), "attach", "lan0", "--config", config.to_str().unwrap()]);
        let mut attach = attach.stderr(Stdio::null()).spawn().unwrap();
        sleep(Duration::from_millis(delay_ms));
        kill(Pid::from_raw(attach.id().cast_signed()), Signal::SIGINT).unwrap();
        attach.wait().unwrap();
        let left = (left_behind(lab.name()), xdp(&lab, "lan0"));
        // For the next round, and so that a failure leaves nothing either.
        lab.pooltime("server", &["detach"]);
        assert_eq!(left, (Vec::new(), None), "after {delay_ms} ms");
    }
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn a_service_that_stops_leaves_the_program_answering_and_a_later_one_takes_over() {
    let lab = Lab::up(&[]);
    let mut server = lab.server(CONFIG, &[]);
    for killed in [false, true] {
        let counted = Tally::of_program(&server.status()).packets(Verdict::Answered);
        let program = xdp(&lab, "lan0").unwrap();
        if killed {
            server.kill_9();
        } else {
            assert!(server.stop().success(), "{}", server.log());
            assert!(server.log().contains("stays attached"), "{}", server.log());
        }
        lab.pooltime("client", &["query", "10.77.0.1"]).expect_success();
        let said = server.command(&["status", "--json"]).expect_success();
        let status: control::status::Status = serde_json::from_str(&said).unwrap();
        assert!(status.daemon.is_none() && status.clock.synchronised, "{said}");
        assert_eq!(status.interfaces[0].mode, Some(Mode::Native));
        assert_eq!(Tally::of_program(&status).packets(Verdict::Answered), counted + 1);

        server.restart();
        assert!(
            server.log().contains("lan0: took over the attached program (native mode)"),
            "{}",
            server.log()
        );
        assert_ne!(xdp(&lab, "lan0").unwrap(), program, "this build's program is in its place");
        lab.pooltime("client", &["query", "10.77.0.1"]).expect_success();
        assert_eq!(Tally::of_program(&server.status()).packets(Verdict::Answered), counted + 2);
    }
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn pins_that_are_not_what_their_names_say_are_refused_with_the_way_out() {
    let lab = Lab::up(&[]);
    let mut server = lab.server(CONFIG, &[]);
    for (make_it_another_s, complaint) in [
        (give_maps_each_other_s_names as fn(&Instance), "another layout"),
        (write_another_kind_of_state, "another layout"),
    ] {
        assert!(server.stop().success(), "{}", server.log());
        let program = xdp(&lab, "lan0");
        make_it_another_s(&server.paths());
        let config = lab.file("again.toml", CONFIG);
        for command in [&["run", "--config", config.to_str().unwrap()][..], &["attach", "lan0"], &["status"]]
        {
            let refused = server.command(command).expect_code(EX_UNAVAILABLE);
            let way_out = format!("pooltime-xdp --instance {} detach`", lab.name());
            assert!(refused.contains(complaint) && refused.contains(&way_out), "{refused}");
            assert_eq!(xdp(&lab, "lan0"), program, "changes nothing");
        }
        server.command(&["detach"]).expect_success();
        assert_nothing_left(&lab, &server);
        server.restart();
    }
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn native_mode_where_the_driver_has_none_is_refused_and_auto_falls_back_and_says_why() {
    let lab = Lab::up(&[]);
    lab.ip("server", "link add br0 type bridge");
    let refused = lab.pooltime("server", &["attach", "br0", "--mode", "native"]).expect_code(EX_UNAVAILABLE);
    assert!(refused.contains("br0 refused the program in native mode"), "{refused}");
    assert!(refused.contains("--mode generic"), "{refused}");
    assert_eq!(xdp(&lab, "br0"), None);
    assert_eq!(left_behind(lab.name()), Vec::<PathBuf>::new());

    let server = lab.server(&CONFIG.replace("lan0", "br0"), &[]);
    let status = server.status();
    assert_eq!(status.interfaces[0].mode, Some(Mode::Generic));
    let fallback = status.interfaces[0].fallback.clone().unwrap();
    // The kernel's words, not its number alone.
    assert!(fallback.contains("\"Underlying driver does not support XDP in native mode\""), "{fallback}");
    assert!(
        server.log().contains("br0: attached in generic mode; native mode was refused"),
        "{}",
        server.log()
    );
    assert!(server.command(&["status"]).expect_success().contains(&fallback));

    // Still known to the next daemon, and while there is none.
    let mut server = server;
    server.kill_9();
    assert!(server.command(&["status"]).expect_success().contains(&fallback));
    server.restart();
    assert_eq!(server.status().interfaces[0].fallback.as_ref(), Some(&fallback));
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn what_keeps_vlan_tags_from_the_program_is_off_while_it_is_attached_and_given_back_however_it_ends() {
    let lab = Lab::up(&[]);
    let nic = |settings: &str| {
        let command = format!("ethtool -K lan0 {settings}");
        lab.exec("server", &command.split(' ').collect::<Vec<_>>()).expect_success();
    };
    let on = || {
        let features = lab.exec("server", &["ethtool", "-k", "lan0"]).expect_success();
        ["rx-vlan-offload", "rx-vlan-stag-hw-parse"].map(|name| features.contains(&format!("{name}: on")))
    };
    assert_eq!(on(), [true, true]);
    let mut server = lab.server(CONFIG, &[]);
    assert_eq!(on(), [false, false]);
    server.kill_9();
    server.restart();
    assert_eq!(on(), [false, false]);
    nic("rxvlan on");
    wait_for("tags to be kept in the frames again", || (!on()[0]).then_some(()));
    assert!(server.stop().success(), "{}", server.log());
    assert_eq!(on(), [false, false], "the program is still there");
    server.command(&["detach"]).expect_success();
    assert_eq!((on(), left_behind(lab.name())), ([true, true], Vec::new()));

    // What was off before stays off, and generic mode needs nothing.
    nic("rxvlan off");
    server.restart();
    assert_eq!(on(), [false, false]);
    server.command(&["detach", "lan0"]).expect_success();
    assert!(server.wait().success(), "{}", server.log());
    assert_eq!(on(), [false, true]);
    let generic = lab.server(CONFIG, &["--mode", "generic"]);
    assert_eq!(generic.status().interfaces[0].mode, Some(Mode::Generic));
    assert_eq!(on(), [false, true]);
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn an_interface_that_is_not_there_is_refused_with_those_that_are_and_none_is_attached() {
    let lab = Lab::up(&[]);
    let refused = lab.pooltime("server", &["attach", "lan0", "lan7"]).expect_code(66);
    assert!(refused.contains("no interface `lan7`") && refused.contains("there are: lo, lan0"), "{refused}");
    assert_eq!(xdp(&lab, "lan0"), None);
    assert_eq!(left_behind(lab.name()), Vec::<PathBuf>::new());
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn an_interface_that_goes_away_is_let_go_of_and_shown_as_lost() {
    let lab = Lab::up(&["--router"]);
    let server = lab.server(&CONFIG.replace("\"lan0\"", "\"lan0\", \"lan2\""), &[]);
    lab.ip("server", "link delete lan2");
    let modes = || server.status().interfaces.into_iter().map(|interface| (interface.name, interface.mode));
    let shown = [("lan0".to_owned(), Some(Mode::Native)), ("lan2".to_owned(), None)];
    wait_for("the interface to be let go of", || modes().eq(shown.clone()).then_some(()));
    assert!(server.log().contains("lan2 is gone"), "{}", server.log());
    lab.pooltime("client", &["query", "10.77.0.1"]).expect_success();
    assert_eq!(Tally::of_program(&server.status()).packets(Verdict::Answered), 1);
}

/// What there is of an instance.
fn left_behind(instance: &str) -> Vec<PathBuf> {
    let paths = Instance::new(Some(instance)).unwrap();
    [paths.pin_directory(), paths.runtime_directory()].into_iter().filter(|path| path.exists()).collect()
}

#[track_caller]
fn assert_nothing_left(lab: &Lab, server: &Server<'_>) {
    assert_eq!((left_behind(lab.name()), xdp(lab, "lan0")), (Vec::new(), None), "{}", server.log());
}

/// Pins are files, and can be renamed: each map gets the name of the next.
fn give_maps_each_other_s_names(instance: &Instance) {
    let directory = instance.pin_directory();
    let files = fs::read_dir(&directory).unwrap().map(Result::unwrap);
    // Not the notes, which are links.
    let names = files
        .filter(|file| file.file_type().unwrap().is_file())
        .map(|file| file.file_name().into_string().unwrap());
    let mut maps: Vec<_> = names.filter(|name| !name.starts_with("link-")).collect();
    maps.sort();
    let aside = directory.join("aside");
    fs::rename(directory.join(&maps[0]), &aside).unwrap();
    for pair in maps.windows(2) {
        fs::rename(directory.join(&pair[1]), directory.join(&pair[0])).unwrap();
    }
    fs::rename(aside, directory.join(maps.last().unwrap())).unwrap();
}

/// A state of another layout would be taken over. This one does not begin as any of this server's does.
fn write_another_kind_of_state(instance: &Instance) {
    let map = MapData::from_pin(instance.pin_directory().join(layout::STATE)).unwrap();
    let mut map = Array::<_, [u8; size_of::<layout::State>()]>::try_from(Map::Array(map)).unwrap();
    let mut state = map.get(&0, 0).unwrap();
    state[..8].copy_from_slice(&(layout::MAGIC ^ 1 << 32).to_ne_bytes());
    map.set(0, state, 0).unwrap();
}
