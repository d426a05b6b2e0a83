//! NTS: keys over TCP at port 4460, then requests with cookies at port 123, all of it chronyd's.

use std::path::{Path, PathBuf};
use std::process::Command;

use responder::verdict::Verdict;
use testlab::{Lab, Output, Tally, not_run, tool};

use crate::chronyd::{Chronyd, Client, Tools};
use crate::{ALLOW, SERVER, network, ours};

/// Makes a key and a certificate of its own for the server's address.
fn certificate(lab: &Lab, openssl: &Path) -> (PathBuf, PathBuf) {
    let (key, certificate) = (lab.file("nts.key", ""), lab.file("nts.pem", ""));
    let mut command = Command::new(openssl);
    command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
    command.args(["-days", "2", "-subj", "/CN=server", "-addext", &format!("subjectAltName=IP:{SERVER}")]);
    command.arg("-keyout").arg(&key).arg("-out").arg(&certificate);
    Output::of(&mut command).expect_success();
    (key, certificate)
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn nts_passes_to_chronyd_and_is_answered_by_it() {
    let (Some(tools), Some(openssl)) = (Tools::find(), tool("openssl")) else {
        return not_run("chronyd, chronyc or openssl is not there");
    };
    let lab = Lab::up(&[]);
    let _upstreams = network(&lab, &tools);
    let (key, certificate) = certificate(&lab, &openssl);
    let nts =
        format!("ntsserverkey {}\nntsservercert {}\nntsprocesses 0\n", key.display(), certificate.display());
    let chronyd = Chronyd::start(&lab, &tools, &format!("{ALLOW}{nts}"));
    let server = ours(&lab);
    let (before, known) = (Tally::of_program(&server.status()), chronyd.statistics());

    // It takes only answers that it can verify with keys of the exchange.
    let client = Client::of(&lab, &tools).with(&format!("ntstrustedcerts {}\n", certificate.display()));
    let said = client.ask(&format!("server {SERVER} nts iburst maxsamples 1"));
    assert!(said.is_synchronised, "{said:?}");
    let counted = Tally::of_program(&server.status()) - before;
    let now = chronyd.statistics();
    assert!(
        counted.packets(Verdict::PassLong) >= 1 && counted.packets(Verdict::Answered) == 0,
        "{counted:?}"
    );
    assert_eq!(now.key_exchanges, known.key_exchanges + 1);
    assert_eq!(now.authenticated - known.authenticated, counted.packets(Verdict::PassLong));
}
