//! Tests of the rules on a fake kernel.

use super::super::fake::Fake;
use super::*;

const AUTO: ModeRequest = ModeRequest::Auto;

/// Returns a set that is attached to these interfaces.
fn attached(kernel: &Fake, names: &[&str]) -> InterfaceSet<Fake> {
    let mut set = InterfaceSet::new(kernel.clone(), Names::default(), AUTO);
    set.attach_named(&owned(names), AUTO, false).unwrap();
    kernel.take_log();
    set
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

fn names(attached: &[(u32, &str)], lost: &[&str]) -> Names {
    let attached = attached.iter().map(|(index, name)| (*index, (*name).to_owned()));
    Names { attached: attached.collect(), lost: owned(lost) }
}

#[test]
fn addresses_are_served_before_the_program_is_attached() {
    let kernel = Fake::with(&["lan0", "lan1"]);
    let mut set = attached(&kernel, &["lan0"]);
    let messages = set.attach_named(&owned(&["lan1"]), AUTO, false).unwrap();
    assert_eq!(messages, ["lan1: attached in native mode"]);
    assert_eq!(kernel.take_log(), ["serve 1 2", "attach 2 lan1"]);
    assert_eq!(set.names(), names(&[(1, "lan0"), (2, "lan1")], &[]));
}

#[test]
fn an_interface_that_goes_away_is_attached_again_in_the_same_mode_when_it_comes_back() {
    let kernel = Fake::with(&["lan0", "lan1"]);
    let mut set = attached(&kernel, &["lan0"]);
    set.attach_named(&owned(&["lan1"]), ModeRequest::Generic, false).unwrap();
    kernel.take_log();

    kernel.remove(2);
    set.follow().unwrap();
    assert_eq!(set.names(), names(&[(1, "lan0")], &["lan1"]));
    assert_eq!(kernel.take_log(), ["detach 2", "serve 1"]);

    kernel.add(9, "lan1");
    set.follow().unwrap();
    assert_eq!(set.names(), names(&[(1, "lan0"), (9, "lan1")], &[]));
    assert_eq!(kernel.take_log(), ["serve 1", "serve 1 9", "attach 9 lan1"]);
    assert_eq!(kernel.interface(9).xdp.unwrap().mode, Mode::Generic);
    set.follow().unwrap();
    assert_eq!(kernel.take_log(), ["serve 1 9"], "it is attached once");
}

#[test]
fn an_interface_that_is_missing_at_the_start_is_attached_when_it_exists() {
    let kernel = Fake::with(&["lan0"]);
    let mut set = InterfaceSet::new(kernel.clone(), names(&[], &["lan7"]), AUTO);
    set.follow().unwrap();
    assert_eq!(set.names(), names(&[], &["lan7"]));
    kernel.add(7, "lan7");
    set.follow().unwrap();
    assert_eq!(set.names(), names(&[(7, "lan7")], &[]));
}

#[test]
fn an_interface_that_refuses_the_program_when_it_comes_back_is_tried_once_and_its_successor_again() {
    let kernel = Fake::with(&["lan0", "lan1"]);
    let mut set = attached(&kernel, &["lan0", "lan1"]);
    kernel.remove(2);
    set.follow().unwrap();
    kernel.add(8, "lan1");
    kernel.state().refusing.push(8);
    kernel.take_log();
    for _ in 0..3 {
        set.follow().unwrap();
    }
    let attempts = |log: Vec<String>| log.iter().filter(|line| line.starts_with("attach")).count();
    assert_eq!(attempts(kernel.take_log()), 1);
    assert_eq!(set.names(), names(&[(1, "lan0")], &["lan1"]));

    kernel.remove(8);
    set.follow().unwrap();
    kernel.add(9, "lan1");
    set.follow().unwrap();
    assert_eq!(set.names(), names(&[(1, "lan0"), (9, "lan1")], &[]));
}

#[test]
fn a_renamed_interface_stays_attached_under_its_new_name() {
    let kernel = Fake::with(&["lan0", "lan1"]);
    let mut set = attached(&kernel, &["lan0", "lan1"]);
    kernel.remove(2);
    set.follow().unwrap();
    // It even takes the name of one that is missing.
    kernel.rename(1, "lan1");
    kernel.take_log();
    set.follow().unwrap();
    assert_eq!(set.names(), names(&[(1, "lan1")], &[]));
    assert_eq!(kernel.take_log(), ["serve 1"]);
    assert!(set.detach(&owned(&["lan0"])).is_err());
    assert_eq!(set.detach(&owned(&["lan1"])).unwrap(), ["lan1: detached"]);
    assert!(set.names().is_empty());
}

#[test]
fn a_detach_with_an_unknown_name_changes_nothing_and_says_what_is_attached() {
    let kernel = Fake::with(&["lan0", "lan1", "lan2"]);
    let mut set = attached(&kernel, &["lan0", "lan1", "lan2"]);
    kernel.remove(3);
    set.follow().unwrap();
    kernel.take_log();
    let before = set.names();
    let error = set.detach(&owned(&["lan0", "lan2", "lan7"])).unwrap_err();
    assert_eq!(error.to_string(), "not attached to `lan7`\n  attached to: lan0, lan1");
    assert_eq!((set.names(), kernel.take_log()), (before, Vec::new()));
}

#[test]
fn a_missing_interface_that_is_detached_is_no_longer_waited_for() {
    let kernel = Fake::with(&["lan0", "lan1"]);
    let mut set = attached(&kernel, &["lan0", "lan1"]);
    kernel.remove(2);
    set.follow().unwrap();
    let messages = set.detach(&owned(&["lan1"])).unwrap();
    assert_eq!(messages, ["lan1: was gone, and is not waited for any more"]);
    kernel.add(9, "lan1");
    set.follow().unwrap();
    assert_eq!(set.names(), names(&[(1, "lan0")], &[]));
    assert_eq!(set.detach(&[]).unwrap(), ["lan0: detached"], "no name means all");
    assert!(set.names().is_empty());
}

#[test]
fn all_interfaces_are_attached_or_none_and_what_was_done_before_a_refusal_is_undone() {
    let kernel = Fake::with(&["lan0", "lan1", "lan2", "lan3"]);
    let mut set = attached(&kernel, &["lan0", "lan1"]);
    kernel.remove(2);
    set.follow().unwrap();
    kernel.add(9, "lan1");
    kernel.state().refusing.extend([4, 9]);
    set.follow().unwrap();
    kernel.state().refusing.retain(|index| *index == 4);
    kernel.occupy(3);
    kernel.take_log();

    let wanted = owned(&["lan0", "lan1", "lan2", "lan3"]);
    let error = set.attach_named(&wanted, AUTO, true).unwrap_err();
    assert_eq!(error.what, "lan3 refused");
    assert_eq!(
        kernel.take_log(),
        [
            "serve 1 1 9 3 4",
            "attach 1 lan0",
            "attach 9 lan1",
            "displace 3",
            "attach 3 lan2",
            "attach 4 lan3",
            "detach 9",
            "detach 3",
            "put back 3",
            "serve 1",
        ]
    );
    assert_eq!(set.names(), names(&[(1, "lan0")], &["lan1"]), "it is still waited for");
    assert_eq!(kernel.interface(3).xdp.unwrap().program_id, 7);
}

#[test]
fn somebody_else_s_program_is_named_and_nothing_is_attached_unless_it_may_be_replaced() {
    let kernel = Fake::with(&["lan0", "lan1"]);
    kernel.occupy(2);
    let mut set = InterfaceSet::new(kernel.clone(), Names::default(), AUTO);
    let both = owned(&["lan0", "lan1"]);
    let error = set.attach_named(&both, AUTO, false).unwrap_err();
    assert!(error.what.contains("`theirs`, id 7, in native mode"), "{error}");
    assert_eq!(kernel.take_log(), Vec::<String>::new());
    set.attach_named(&both, AUTO, true).unwrap();
    assert_eq!(kernel.take_log(), ["serve 1 2", "attach 1 lan0", "displace 2", "attach 2 lan1"]);
}

#[test]
fn an_unknown_interface_is_refused_and_one_that_is_named_twice_is_attached_once() {
    let kernel = Fake::with(&["lan0"]);
    let mut set = InterfaceSet::new(kernel.clone(), Names::default(), AUTO);
    let error = set.attach_named(&owned(&["lan0", "lan7"]), AUTO, false).unwrap_err();
    assert_eq!(error.to_string(), "there is no interface `lan7`\n  there are: lan0");
    assert_eq!(kernel.take_log(), Vec::<String>::new());
    set.attach_named(&owned(&["lan0", "lan0"]), AUTO, false).unwrap();
    assert_eq!(kernel.take_log(), ["serve 1", "attach 1 lan0"]);
}

#[test]
fn an_interface_that_cannot_be_cleared_away_does_not_keep_the_others_from_being_followed() {
    let kernel = Fake::with(&["lan0", "lan1", "lan2"]);
    let mut set = attached(&kernel, &["lan0", "lan1", "lan2"]);
    kernel.state().holding.push(1);
    kernel.remove(1);
    kernel.remove(2);
    kernel.rename(3, "wan0");
    set.follow().unwrap();
    assert_eq!(kernel.take_log(), ["detach 1", "detach 2", "serve 3"]);
    assert_eq!(set.names(), names(&[(3, "wan0")], &["lan0", "lan1"]));
}

#[test]
fn what_an_earlier_daemon_left_attached_is_taken_over() {
    let kernel = Fake::with(&["lan0"]);
    drop(attached(&kernel, &["lan0"]));
    let mut set = InterfaceSet::new(kernel.clone(), names(&[(1, "lan0")], &[]), AUTO);
    let messages = set.attach(vec![kernel.interface(1)], AUTO, false).unwrap();
    assert_eq!(messages, ["lan0: took over the attached program (native mode)"]);
    assert_eq!(set.names(), names(&[(1, "lan0")], &[]));
}
