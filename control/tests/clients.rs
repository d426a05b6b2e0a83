//! Clients as they are installed everywhere get the right time, and get it from the NIC path.

mod lab;

use lab::{CONFIG, Lab, Tally};
use responder::verdict::{Family, Verdict};

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn our_own_query_is_answered_in_the_nic_path() {
    let lab = Lab::up(&[]);
    let server = lab.server(CONFIG, &[]);
    lab.pooltime("client", &["query", "10.77.0.1", "fd77::1"]).expect_success();
    let counted = Tally::of_program(&server.status());
    let answered = Verdict::Answered;
    assert_eq!(counted, Tally::of([(answered, Family::Ipv4, 4, 1), (answered, Family::Ipv6, 4, 1)]));
}
