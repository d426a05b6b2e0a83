//! A daemon takes over from one whose maps have another layout, and no answer is lost: not if either is killed at any
//! moment, either.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use aya::maps::{Array, Map, MapData};
use control::instance::Instance;
use control::net::xdp_mode::Mode;
use control::serving::xdp::Datapath;
use responder::verdict::Verdict;
use responder::{ClockState, layout};
use testlab::drops::Drops;
use testlab::foreign::xdp;
use testlab::load::{Account, load};
use testlab::rebuild::other_layout;
use testlab::{CONFIG, Lab, Server, Tally, not_run, pooltime_xdp};

// Of sysexits.h.
const EX_UNAVAILABLE: i32 = 69;
/// Requests per second.
const RATE: u64 = 5_000;
/// A single host that asks this often would be limited.
const UNLIMITED: &str = "[access]\nunlimited = [\"10.77.0.0/24\", \"fd77::/64\"]\n";

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn of_a_state_of_another_layout_the_clock_the_counters_and_the_limiter_go_on() {
    let lab = Lab::up(&[]);
    let mut server = lab.server(&format!("{CONFIG}{UNLIMITED}"), &[]);
    let (pins, entries) = (server.paths().pin_directory(), table_entries(&server));
    let (key, maps) = (key(&server), ids(&pins));
    let before = Tally::of_program(&server.status());
    let drops = Drops::of(&lab);
    let (account, ()) = load(&lab, RATE, || {
        sleep(Duration::from_millis(500));
        assert!(server.stop().success(), "{}", server.log());
        write_a_later_version(&pins);
        let refused = server.command(&["status"]).expect_code(EX_UNAVAILABLE);
        assert!(refused.contains("layout version") && refused.contains("start the daemon"), "{refused}");
        // Of a take-over that was cut off before the state was replaced, and of one before the rest was cleared away.
        let other = Instance::new(Some(&format!("{}-other", lab.name()))).unwrap();
        drop(Datapath::open_or_create(&other, entries).unwrap());
        let others = other.pin_directory();
        fs::rename(others.join(layout::STATE), pins.join("PT_STATE-next")).unwrap();
        fs::rename(others.join(layout::COUNTERS), pins.join("PT_COUNTERS-77")).unwrap();
        fs::rename(others.join(layout::TRIES), pins.join("PT_LATER")).unwrap();
        control::serving::xdp::remove_pins(&others).unwrap();
        server.restart();
        sleep(Duration::from_millis(500));
    });
    let log = server.log();
    assert_unharmed(&account, &Drops::of(&lab).since(&drops), &log);
    let counted = Tally::of_program(&server.status()) - before;
    assert_eq!(counted.packets(Verdict::Answered), account.sent, "{counted:?}");
    let (ours, later) = (layout::VERSION, layout::VERSION + 1);
    let told =
        format!("took over from layout {later}: this build has layout {ours}; carried over: the clock line");
    assert!(log.contains(&told), "{log}");
    assert!(log.contains("begun anew: nothing"), "{log}");
    let now = ids(&pins);
    assert_eq!(now.len(), maps.len(), "{now:?}");
    for ((name, was), (same, is)) in maps.iter().zip(&now) {
        assert_eq!((name, was == is), (same, name != layout::STATE), "{maps:?}, {now:?}");
    }
    assert_eq!(self::key(&server), key, "what the limiter knows is known by it");
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn a_daemon_that_was_killed_after_it_replaced_the_state_is_followed_by_one_that_goes_on() {
    let lab = Lab::up(&[]);
    let mut server = lab.server(&format!("{CONFIG}{UNLIMITED}"), &[]);
    let (paths, entries) = (server.paths(), table_entries(&server));
    let before = Tally::of_program(&server.status());
    let drops = Drops::of(&lab);
    let (account, ()) = load(&lab, RATE, || {
        for _ in 0..3 {
            sleep(Duration::from_millis(300));
            server.kill_9();
            let program = xdp(&lab, "lan0");
            write_a_later_version(&paths.pin_directory());
            // All that a daemon does before the loop begins, and no more.
            drop(Datapath::open_or_create(&paths, entries).unwrap());
            assert_eq!(xdp(&lab, "lan0"), program);
            server.restart();
            assert_ne!(xdp(&lab, "lan0"), program);
        }
        sleep(Duration::from_millis(300));
    });
    assert_unharmed(&account, &Drops::of(&lab).since(&drops), &server.log());
    let counted = Tally::of_program(&server.status()) - before;
    assert_eq!(counted.packets(Verdict::Answered), account.sent, "{counted:?}");
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn the_program_of_the_earlier_layout_gets_the_clock_until_it_is_replaced() {
    let lab = Lab::up(&[]);
    let mut server = lab.server(CONFIG, &[]);
    let (paths, entries) = (server.paths(), table_entries(&server));
    assert!(server.stop().success(), "{}", server.log());
    write_a_later_version(&paths.pin_directory());
    // What the program that is attached goes by.
    let earlier = MapData::from_pin(paths.pin_directory().join(layout::STATE)).unwrap();
    let earlier = Array::<_, [u8; size_of::<layout::State>()]>::try_from(Map::Array(earlier)).unwrap();
    let state = || layout::Head::of_any(&earlier.get(&0, 0).unwrap()).unwrap();
    let (first, places) = (state().line(), state().interfaces);

    let mut datapath = Datapath::open_or_create(&paths, entries).unwrap();
    assert_eq!(datapath.clock().to_words(), first);
    let line = |sequence| ClockState { sequence, ..ClockState::from_words(first) };
    for sequence in [1000, 1001, 1002] {
        datapath.publish_clock(&line(sequence)).unwrap();
        assert_eq!(datapath.clock(), line(sequence));
        assert_eq!(state().line(), line(sequence).to_words());
        sleep(Duration::from_millis(layout::FLIP_INTERVAL_MS));
    }
    assert_eq!(
        (state().interfaces, state().version()),
        (places, layout::VERSION + 1),
        "nothing else changes"
    );
    datapath.end_take_over();
    datapath.publish_clock(&line(1003)).unwrap();
    assert_eq!((datapath.clock(), state().line()), (line(1003), line(1002).to_words()));

    // Without its directory a server goes on.
    server.command(&["detach"]).expect_success();
    assert!(!paths.pin_directory().exists());
    let policy = *datapath.policy();
    datapath.publish_policy(&policy).unwrap();
    datapath.remember_key();
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn a_client_that_is_denied_is_not_answered_while_the_state_or_the_lists_begin_anew() {
    let lab = Lab::up(&[]);
    let denied = UNLIMITED.replace("unlimited", "deny");
    let mut server = lab.server(&format!("{CONFIG}{denied}"), &[]);
    let pins = server.paths().pin_directory();
    let lists = [layout::BLOCKS_IPV4, layout::LIST_IPV4, layout::LIST_IPV6];
    let before = ids(&pins);
    let (account, ()) = load(&lab, RATE, || {
        for begins_anew in ["the state", "the lists", "both"] {
            sleep(Duration::from_millis(200));
            server.kill_9();
            if begins_anew != "the lists" {
                write_a_later_version(&pins);
            }
            if begins_anew != "the state" {
                // As if they were of another format.
                for list in lists {
                    fs::rename(pins.join(list), pins.join(format!("{list}-77"))).unwrap();
                }
            }
            server.restart();
        }
        sleep(Duration::from_millis(200));
    });
    let (counted, log) = (Tally::of_program(&server.status()), server.log());
    assert_eq!(account.answered, 0, "{counted:?}");
    let refused = counted.packets(Verdict::DropDenied);
    assert!(account.sent > 0 && refused + refused / 10 >= account.sent, "{refused} of {}", account.sent);
    let told = "took over from a build with maps of other formats: PT_BLOCKS_IPV4-77, PT_LIST_IPV4-77, PT_LIST_IPV6-77;";
    assert!(log.contains(told), "{log}");
    let now = ids(&pins);
    for ((name, was), (same, is)) in before.iter().zip(&now) {
        let begun_anew = name == layout::STATE || lists.contains(&name.as_str());
        assert_eq!((name, was != is), (same, begun_anew), "{before:?}, {now:?}");
    }
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn no_answer_is_lost_between_builds_with_different_layouts_though_the_daemons_are_killed() {
    let other = match other_layout() {
        Ok(other) => other,
        Err(why) => return not_run(&why),
    };
    let lab = Lab::up(&["--router"]);
    let mut server = lab.server(&format!("{CONFIG}{UNLIMITED}"), &["--mode", "native"]);
    let pins = server.paths().pin_directory();
    let (key, maps) = (key(&server), ids(&pins));
    let drops = Drops::of(&lab);
    let (account, ()) = load(&lab, RATE, || {
        // Orderly, there and back. What is attached in between is not in the configuration.
        for program in [other.as_path(), Path::new(pooltime_xdp())] {
            sleep(Duration::from_millis(500));
            assert!(server.stop().success(), "{}", server.log());
            server.restart_as(program);
            server.command(&["attach", "lan2"]).expect_success();
        }
        // In the middle of each take-over, at moments that cover a start.
        let started = Instant::now();
        server.kill_9();
        server.restart();
        let start = started.elapsed();
        for number in 0..KILLS {
            server.kill_9();
            let program = if number % 2 == 0 { other.as_path() } else { Path::new(pooltime_xdp()) };
            start_and_kill(&lab, program, start * number / KILLS);
            // Of the one build or the other.
            server.restart_as(if number % 4 < 2 { Path::new(pooltime_xdp()) } else { other.as_path() });
        }
        server.kill_9();
        server.restart_as(Path::new(pooltime_xdp()));
        sleep(Duration::from_millis(300));
    });
    let attached = server.status().interfaces.into_iter().map(|interface| (interface.name, interface.mode));
    let native = |name: &str| (name.to_owned(), Some(Mode::Native));
    assert_eq!(attached.collect::<Vec<_>>(), [native("lan0"), native("lan2")]);
    lab.pooltime("client2", &["query", "10.79.0.1"]).expect_success();
    let log = server.log();
    assert_unharmed(&account, &Drops::of(&lab).since(&drops), &log);
    let (ours, others) = (layout::VERSION, 1000 + layout::VERSION);
    for (from, to) in [(ours, others), (others, ours)] {
        let told = format!("took over from layout {from}: this build has layout {to};");
        assert!(log.contains(&told), "{log}");
    }
    assert!(log.contains("begun anew: counters\n"), "{log}");
    let now = ids(&pins);
    let kept = |maps: &[(String, u32)]| {
        let new = [layout::STATE, layout::COUNTERS];
        maps.iter().filter(|(name, _)| !new.contains(&name.as_str())).cloned().collect::<Vec<_>>()
    };
    assert_eq!(kept(&now), kept(&maps));
    assert_eq!(now.len(), maps.len(), "{now:?}");
    assert_eq!(self::key(&server), key, "what the limiter knows is known by it");
}

/// Daemons that are killed while they start.
const KILLS: u32 = 24;

/// Starts a daemon and kills it after this time.
fn start_and_kill(lab: &Lab, program: &Path, after: Duration) {
    let config = lab.file("killed.toml", &format!("{CONFIG}{UNLIMITED}"));
    let mut command = lab.command("server", program.to_str().unwrap());
    command.args(["--instance", lab.name(), "run", "--config", config.to_str().unwrap()]);
    let mut daemon = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    sleep(after);
    daemon.kill().unwrap();
    daemon.wait().unwrap();
}

/// Every request was answered, and every answer was synchronised.
#[track_caller]
fn assert_unharmed(account: &Account, drops: &Drops, log: &str) {
    println!("{} requests, {} answered, {} lost by the lab", account.sent, account.answered, drops.total());
    let lost = account.lost().saturating_sub(drops.total());
    assert!(account.answered > 0 && lost == 0, "{lost} lost, {:?}: {log}", account.lost_between());
    assert_eq!((account.duplicates, account.strange, account.wrong), (0, 0, 0));
    let synchronised: Vec<_> = account.changes().into_iter().map(|(synchronised, _)| synchronised).collect();
    assert_eq!(synchronised, [true], "{} were not synchronised: {log}", account.unsynchronised());
}

/// The maps' numbers in the kernel, by the names of their pins.
fn ids(pins: &Path) -> Vec<(String, u32)> {
    let names = fs::read_dir(pins).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name.starts_with("PT_")).collect();
    names.sort();
    let id = |name: String| {
        let id = MapData::from_pin(pins.join(&name)).unwrap().info().unwrap().id();
        (name, id)
    };
    names.into_iter().map(id).collect()
}

fn key(server: &Server<'_>) -> [u64; 3] {
    Datapath::open(&server.paths()).unwrap().unwrap().policy().key
}

fn table_entries(server: &Server<'_>) -> u32 {
    Datapath::open(&server.paths()).unwrap().unwrap().table_entries()
}

/// Makes the state one of a later build.
fn write_a_later_version(pins: &Path) {
    let map = MapData::from_pin(pins.join(layout::STATE)).unwrap();
    let mut map = Array::<_, [u8; size_of::<layout::State>()]>::try_from(Map::Array(map)).unwrap();
    let mut state = map.get(&0, 0).unwrap();
    state[..8].copy_from_slice(&(layout::MAGIC + 1).to_ne_bytes());
    map.set(0, state, 0).unwrap();
}
