//! What is told of a fault: a line for people now, and a row of the table in RELIABILITY.md.

use std::fs;
use std::path::Path;

use crate::fault::{Fault, Outcome};

/// Prints what came of a fault, and writes its row.
pub(crate) fn tell(fault: &Fault, outcome: &Outcome, failures: &[String]) {
    let account = &outcome.account;
    let lost = outcome.lost(fault.promise);
    let unsynchronised = account.unsynchronised();
    let seconds = |time: std::time::Duration| format!("{:.1}", time.as_secs_f64());
    let recovered = outcome.recovered.as_ref().map_or_else(|_| "never".into(), |time| seconds(*time));
    let kept = if failures.is_empty() { "kept" } else { "BROKEN" };
    println!(
        "{}: {} asked at {} per second, {lost} lost ({} more by the lab), {} wrong, {unsynchronised} unsynchronised, \
         well again {recovered} s after its end: {kept}",
        fault.name,
        account.sent,
        account.rates().0,
        account.lost() - lost,
        outcome.wrong(),
    );
    for failure in failures {
        println!("  {failure}");
    }
    write(
        fault.name,
        &format!(
            "| {} | {} | {} | {} | {lost} | {} | {unsynchronised} | {recovered} | {kept} |",
            fault.name,
            fault.what,
            fault.promise,
            account.sent,
            outcome.wrong(),
        ),
    );
}

/// The same for one whose play has panicked: something of what it waits for did not happen.
pub(crate) fn tell_panic(fault: &Fault) {
    println!("{}: BROKEN: it panicked", fault.name);
    write(fault.name, &format!("| {} | {} | {} |||||| BROKEN |", fault.name, fault.what, fault.promise));
}

/// The same for one that this machine cannot play.
pub(crate) fn tell_why_not(fault: &Fault, why: &str) {
    println!("{}: not played: {why}", fault.name);
    write(
        fault.name,
        &format!("| {} | {} | {} | not played: {why} |||||| ", fault.name, fault.what, fault.promise),
    );
}

/// Prints what came of a fault of another server, and writes its row.
pub(crate) fn tell_of_other(server: &str, fault: &str, outcome: &Outcome) {
    let account = &outcome.account;
    let recovered = outcome.recovered.as_ref();
    let recovered = recovered.map_or_else(|_| "never".into(), |time| format!("{:.1}", time.as_secs_f64()));
    // What the lab itself has lost, too.
    let (sent, lost, wrong) = (account.sent, account.lost(), outcome.wrong());
    let unsynchronised = account.unsynchronised();
    println!(
        "{server}: {fault}: {sent} asked, {lost} lost, {wrong} wrong ({:?}), {unsynchronised} unsynchronised, well again \
         {recovered} s after its end",
        account.worst
    );
    write(
        &format!("{fault}.{server}"),
        &format!("| {fault} | {server} | {sent} | {lost} | {wrong} | {unsynchronised} | {recovered} |"),
    );
}

/// The same for one that could not be played.
pub(crate) fn tell_why_not_of_other(server: &str, fault: &str, why: &str) {
    println!("{server}: {fault}: not played: {why}");
    write(&format!("{fault}.{server}"), &format!("| {fault} | {server} | not played |||||"));
}

fn write(name: &str, row: &str) {
    if let Some(directory) = std::env::var_os("POOLTIME_FAULTS_RESULTS") {
        fs::write(Path::new(&directory).join(name), format!("{}\n", row.trim_end())).unwrap();
    }
}
