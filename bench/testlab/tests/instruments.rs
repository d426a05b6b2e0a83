//! The oracle and the fake upstreams are tested themselves, on loopback and without root.

use std::net::SocketAddr;
use std::thread::sleep;
use std::time::Duration;

use testlab::fake_upstream::{Conduct, FakeUpstream, Following, Reply, Script};
use testlab::oracle::{Oracle, Verdict};
use testlab::wait_for;

const RATE: u32 = 200;
/// Longer than an answer takes on a busy machine.
const WHILE: Duration = Duration::from_millis(500);

fn loopback() -> SocketAddr {
    let free = std::net::UdpSocket::bind(("127.0.0.1", 0)).unwrap();
    free.local_addr().unwrap()
}

/// What the oracle says of an upstream on loopback while the test does something.
fn judged(script: impl Into<Script>, meanwhile: impl FnOnce(&FakeUpstream, &Oracle)) -> Verdict {
    let upstream = FakeUpstream::start_here(loopback(), script);
    let oracle = Oracle::here(&[upstream.socket_address()], RATE);
    meanwhile(&upstream, &oracle);
    let verdict = oracle.stop();
    println!("{verdict}");
    verdict
}

fn for_a_while(_: &FakeUpstream, _: &Oracle) {
    sleep(WHILE);
}

#[test]
fn a_server_that_is_right_is_found_right() {
    for conduct in [
        Conduct::exact(),
        Conduct::coarse(0.05, 0.1),
        Conduct::coarse(-0.05, 0.1),
        // Half of a root delay counts.
        Conduct { root_delay_s: 0.2, ..Conduct::coarse(0.09, 0.0) },
        // A path's asymmetry is not the server's fault.
        Conduct { back: Duration::from_millis(30), ..Conduct::exact() },
        Conduct { there: Duration::from_millis(30), ..Conduct::exact() },
    ] {
        let verdict = judged(conduct, for_a_while);
        verdict.assert_never_wrong();
        assert!(verdict.right() > 5 && verdict.strange == 0, "{verdict}");
        assert_eq!(verdict.right(), verdict.answers.len());
        assert_eq!((verdict.unsynchronised(), verdict.lost(), verdict.changes().len()), (0, 0, 1));
    }
}

#[test]
fn a_server_that_is_wrong_by_more_than_it_claims_is_found_wrong() {
    for (conduct, stratum) in [
        (Conduct::coarse(0.05, 0.02), 2),
        (Conduct::coarse(-0.05, 0.02), 2),
        (Conduct { root_delay_s: 0.08, ..Conduct::coarse(0.05, 0.0) }, 2),
        (Conduct { error_s: 7200.0, ..Conduct::exact() }, 1),
    ] {
        let off_s = conduct.error_s;
        let verdict = judged(conduct, for_a_while);
        // A machine that is busy for 30 ms makes the oracle unsure.
        assert!(verdict.wrong() > 5 && verdict.right() < verdict.wrong() / 5, "{verdict}");
        let worst = verdict.worst()[0];
        assert!(
            (worst.offset_s - off_s).abs() <= worst.uncertainty_s && worst.stratum == stratum,
            "{worst:?}"
        );
        let failure = std::panic::catch_unwind(|| verdict.assert_never_wrong()).unwrap_err();
        let told = failure.downcast_ref::<String>().unwrap();
        assert!(told.contains("ms off and claimed") && told.contains("wrong"), "{told}");
    }
    let nothing = std::panic::catch_unwind(|| Verdict::default().assert_never_wrong());
    assert!(nothing.is_err(), "no answer is no success");
}

#[test]
fn an_unsynchronised_server_is_neither_right_nor_wrong() {
    let changes: [fn(&mut Conduct); 3] =
        [Conduct::lose_synchronisation, |conduct| conduct.leap = 3, |conduct| conduct.stratum = 16];
    for change in changes {
        let mut conduct = Conduct::coarse(3.0, 0.01);
        change(&mut conduct);
        let verdict = judged(conduct, for_a_while);
        assert!(verdict.unsynchronised() > 5 && verdict.first_synchronised().is_none(), "{verdict}");
        assert_eq!((verdict.right(), verdict.wrong(), verdict.lost()), (0, 0, 0));
    }
    let kissing = judged(Conduct { reply: Reply::Kiss(*b"RATE"), ..Conduct::exact() }, for_a_while);
    assert!(kissing.kissed() > 5 && kissing.answers.is_empty(), "{kissing}");
}

#[test]
fn phases_changes_and_losses_are_told_apart() {
    let verdict = judged(Conduct::exact(), |upstream, oracle| {
        sleep(WHILE);
        upstream.vanish();
        oracle.phase("silent");
        sleep(WHILE);
        oracle.phase("back");
        upstream.change(|conduct| *conduct = Conduct { drift: 0.1, ..Conduct::coarse(0.2, 0.001) });
        sleep(2 * WHILE);
        wait_for("answers from afar, and losses", || {
            (oracle.latest()?.offset_s > 0.2 && oracle.so_far().lost() > 0).then_some(())
        });
    });
    let (silent, back) = (verdict.during("silent"), verdict.since("back"));
    // What was under way when the phase began or ended may have been answered, more of it on a busy machine.
    assert!(silent.lost() > 5 && silent.answers.len() <= silent.lost() / 4, "{silent}");
    assert_eq!((back.strata(), verdict.strata()), (vec![2], vec![1, 2]));
    assert_eq!(verdict.changes().len(), 2, "{verdict}");
    let first = verdict.between(Duration::ZERO, WHILE / 2);
    assert!(back.wrong() > 5 && first.wrong() == 0, "{verdict}");
    assert!(back.names(0xc000_0201) && !first.names(0xc000_0201));
    let worst = back.worst()[0];
    let drifted_s = 0.1 * worst.at.saturating_sub(verdict.beginning("back")).as_secs_f64();
    assert!(
        drifted_s > 0.05 && (worst.offset_s - 0.2 - drifted_s).abs() < 0.05,
        "it drifts by 0.1 s/s: {worst}"
    );
}

#[test]
fn a_script_goes_by_the_clock_and_claims_grow() {
    let script = Script::new(Conduct { dispersion_growth: 0.1, ..Conduct::exact() })
        .after(2 * WHILE, |conduct| conduct.stratum = 3)
        .after(WHILE, |conduct| *conduct = Conduct { dispersion_growth: 0.0, stratum: 2, ..conduct.clone() })
        .after(3 * WHILE, |conduct| conduct.root_dispersion_s = 0.01);
    let verdict = judged(script, |_, _| sleep(4 * WHILE));
    let strata: Vec<_> = verdict.changes().iter().map(|change| change.stratum).collect();
    assert_eq!(strata, [1, 2, 3], "{verdict}");
    let grown_s = verdict.between(WHILE * 3 / 2, WHILE * 5 / 2).answers[0].root_dispersion_s;
    assert!((grown_s - 0.05).abs() < 0.001, "by 0.1 s/s for half a second: {grown_s}");
    assert!(verdict.between(Duration::ZERO, WHILE * 5 / 2).shrinking().is_none());
    let (before, after) = verdict.shrinking().expect("the claim shrinks in the end");
    assert!(before.bound_s() > 0.04 && after.bound_s() < 0.02, "{before} {after}");
}

#[test]
fn one_that_follows_another_serves_its_time_and_says_so() {
    let source = FakeUpstream::start_here(loopback(), Conduct::coarse(0.1, 0.15));
    let verdict = judged(Conduct::exact(), |upstream, oracle| {
        let server = source.socket_address();
        let interval = Duration::from_millis(50);
        upstream.follow(Following { server, interval, notices_loops: true });
        sleep(WHILE);
        oracle.phase("follows");
        sleep(WHILE);
    });
    let follows = verdict.since("follows");
    follows.assert_never_wrong();
    let last = follows.answers.last().unwrap();
    assert!((last.offset_s - 0.1).abs() < 0.02 && last.bound_s() >= 0.15, "{follows}");
    assert_eq!((follows.strata(), last.reference_id), (vec![3], 0x7f00_0001));
    assert!(source.requests() > 5);
}
