//! Upstreams that lie: one of four is not believed, whether the others are heard or not.

use super::*;

const TWO_HOURS_S: f64 = 7200.0;
/// Longer than a daemon may wait for the others before it goes by one, together with [`BURST`].
const LONG: Duration = Duration::from_secs(20);

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn one_of_four_is_not_believed() {
    let mut plays: Vec<NamedPlay> = Vec::new();
    for (place, error_s) in [(0, TWO_HOURS_S), (3, -TWO_HOURS_S), (1, 0.2)] {
        let name = |what: &str| format!("number {place}, {error_s} s off, {what}");
        plays.push((name("alone"), Box::new(move || alone(place, error_s))));
        plays.push((name("beside the others"), Box::new(move || beside_others(place, error_s))));
        plays.push((name("alone at first"), Box::new(move || alone_at_first(place, error_s))));
    }
    side_by_side(plays);
}

/// Four, of which this one lies.
fn conducts(liar: usize, error_s: f64, others: &Conduct) -> Vec<Conduct> {
    let mut conducts = vec![others.clone(); 4];
    conducts[liar] = Conduct { error_s, ..Conduct::exact() };
    conducts
}

fn silent() -> Conduct {
    Conduct { reply: Reply::Silence, ..Conduct::exact() }
}

fn alone(liar: usize, error_s: f64) {
    let lab = Lab::up(&[]);
    let (_running, addresses) = upstreams(&lab, conducts(liar, error_s, &silent()));
    let play = Play::begin(&lab, &config("", SHORT_POLLS, &addresses));
    sleep(BURST + LONG);
    play.end(|verdict| verdict.expect(verdict.first_synchronised().is_none(), "no synchronised answer"));
}

fn beside_others(liar: usize, error_s: f64) {
    let lab = Lab::up(&[]);
    let (_running, addresses) = upstreams(&lab, conducts(liar, error_s, &Conduct::exact()));
    let play = Play::begin(&lab, &config("", SHORT_POLLS, &addresses));
    sleep(BURST);
    play.phase("all have been heard", LONG);
    play.end(|verdict| expect_near(&verdict.since("all have been heard")));
}

/// The others are heard after a while, as after a network's failure.
fn alone_at_first(liar: usize, error_s: f64) {
    let lab = Lab::up(&[]);
    let scripts = conducts(liar, error_s, &silent()).into_iter().map(|conduct| {
        let reply = Reply::Time;
        Script::new(conduct).after(BURST, move |conduct| conduct.reply = reply)
    });
    let (_running, addresses) = upstreams(&lab, scripts);
    let play = Play::begin(&lab, &config("", SHORT_POLLS, &addresses));
    sleep(BURST + 2 * POLL);
    play.phase("all have been heard", POLL);
    play.end(|verdict| expect_near(&verdict.since("all have been heard")));
}
