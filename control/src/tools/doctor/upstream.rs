//! The upstreams: whether each one answers, and whether the path to it lets longer packets through.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use protocol::Strictness;
use responder::message::LENGTH;

use super::finding::Finding;
use crate::config::{ClockSource, Config, DEFAULT_PATH, UpstreamConfig};
use crate::instance::Instance;
use crate::net::own_addresses::OwnAddresses;
use crate::net::query::{Failure, converse, exchange, new_request};
use crate::safe_text::shell_word;
use crate::service_manager::{self, Verb};

/// Deadline for resolving the name and for all answers.
const PATIENCE: Duration = Duration::from_secs(8);
/// Timeout per answer.
const TIMEOUT: Duration = Duration::from_secs(2);
/// The type of an extension field that means nothing: a checksum complement of zero (RFC 7821), which servers
/// skip. The field has the minimum length and is too long for a MAC.
const PADDING_KIND: u16 = 0x2005;
const PADDING_BYTES: u16 = 28;

/// The outcome of asking an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Reached {
    /// Its name could not be resolved, for this reason.
    NoAddress(String),
    /// It is this host itself or cannot be a server, for this reason.
    Unusable(String),
    /// It takes its time from this host.
    Loop(SocketAddr),
    /// It did not answer, for this reason.
    Silent(SocketAddr, String),
    /// It sent this kiss of death.
    Kiss(SocketAddr, String),
    /// It answered. `long` tells whether it also answered a longer request.
    Answered { synchronised: bool, long: bool },
}

/// Commands that findings suggest.
struct Commands {
    /// Opens the configuration and then puts it in force.
    edit: String,
}

/// Asks all configured upstreams at the same time. This host's own addresses are never asked.
pub(super) fn examine(
    config: &Config,
    path: Option<&Path>,
    own: &OwnAddresses,
    instance: &Instance,
) -> Vec<Finding> {
    if config.clock.source == ClockSource::System {
        return vec![
            Finding::note("upstream-none", "this server has no upstreams of its own: it serves the system clock")
                .why("another time daemon has to keep that clock: `chronyc sources` or `ntpq -p` show its upstreams")
                .advice("with `source = \"upstream\"` in `[clock]` and `[[upstream]]` this server needs no other time daemon"),
        ];
    }
    let own = own.serving(&config.serve);
    let (sender, receiver) = mpsc::channel();
    for (number, upstream) in config.upstream.iter().enumerate() {
        let (sender, upstream, own) = (sender.clone(), upstream.clone(), own.clone());
        // Resolving a name cannot be cancelled; the thread ends with the process.
        std::thread::spawn(move || sender.send((number, reach(&upstream, &own))));
    }
    let deadline = Instant::now() + PATIENCE;
    let late = || Reached::NoAddress(format!("looking up its name takes more than {} s", PATIENCE.as_secs()));
    let mut reached: Vec<_> =
        config.upstream.iter().map(|upstream| (upstream.address.clone(), late())).collect();
    for _ in 0..reached.len() {
        match receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok((number, result)) => reached[number].1 = result,
            Err(_) => break,
        }
    }
    let path = shell_word(&path.unwrap_or(DEFAULT_PATH.as_ref()).to_string_lossy());
    judge(
        &reached,
        &Commands { edit: format!("editor {path} && {}", service_manager::command(instance, Verb::Reload)) },
    )
}

fn reach(upstream: &UpstreamConfig, own: &OwnAddresses) -> Reached {
    if let Some(unusable) = own.unusable_name(&upstream.address) {
        return Reached::Unusable(unusable.reason().into());
    }
    let addresses = match (upstream.address.as_str(), upstream.port).to_socket_addrs() {
        Ok(addresses) => addresses.collect::<Vec<_>>(),
        Err(error) => return Reached::NoAddress(error.to_string()),
    };
    let address = match own.first_usable(&addresses) {
        Ok(Some(address)) => address,
        Ok(None) => return Reached::NoAddress("it has no address".into()),
        Err(reason) => return Reached::Unusable(format!("does not lead to another host: {reason}")),
    };
    match exchange(address, TIMEOUT) {
        Ok(reading) if reading.server.is_loop(own.reference_ids()) => Reached::Loop(address),
        Ok(reading) => Reached::Answered {
            synchronised: reading.server.is_synchronised(),
            long: answers_long_requests(address),
        },
        Err(Failure::Kiss(code)) => Reached::Kiss(address, code),
        Err(failure) => Reached::Silent(address, failure.to_string()),
    }
}

/// Whether a longer request is answered. If neither it nor the next plain one is answered, that proves
/// nothing: the packet was lost, or the server answers one request at a time. The result is then that it is
/// answered.
fn answers_long_requests(address: SocketAddr) -> bool {
    let Ok(request) = new_request() else { return true };
    let mut long = request.to_bytes().to_vec();
    long.extend(PADDING_KIND.to_be_bytes());
    long.extend(PADDING_BYTES.to_be_bytes());
    long.resize(LENGTH + usize::from(PADDING_BYTES), 0);
    // The answer may have extension fields as well.
    let answered = converse(address, &long, TIMEOUT, |packet, _| request.read(packet, Strictness::HEADER));
    answered.is_ok() || exchange(address, TIMEOUT).is_err()
}

fn judge(reached: &[(String, Reached)], commands: &Commands) -> Vec<Finding> {
    let mut findings: Vec<_> =
        reached.iter().filter_map(|(name, reached)| trouble(name, reached, commands)).collect();
    let answered = reached.len() - findings.len();
    match (answered, reached.len()) {
        (_, 0) => {
            // The findings about the configuration report this.
        }
        (0, _) => findings.push(
            Finding::problem("upstream-reach", "no upstream answers")
                .why("without them there is no time to serve; most often outbound port 123 is blocked, here or at the provider")
                .advice("fix the findings about the firewall and the routes; if there are none, ask the provider about UDP port 123"),
        ),
        (answered, all) => findings.push(Finding::ok("upstream-reach", format!("{answered} of {all} upstreams answer"))),
    }
    let long = |wanted: bool| {
        reached
            .iter()
            .filter(move |(_, reached)| matches!(reached, Reached::Answered { long, .. } if *long == wanted))
    };
    let filtered: Vec<_> = long(false).map(|(name, _)| name.as_str()).collect();
    if !filtered.is_empty() && long(true).count() == 0 {
        findings.push(
            Finding::note(
                "long-packets",
                format!("requests of {LENGTH} bytes are answered, longer ones are not: {}", filtered.join(", ")),
            )
            .why(
                "some networks drop longer NTP packets to prevent amplification: answers to ordinary clients pass, but \
                 those to clients with extension fields or keys may not",
            )
            .advice("ask the provider; nothing on this host can change it"),
        );
    } else if long(true).count() > 0 {
        findings.push(Finding::ok("long-packets", "packets longer than 48 bytes also pass"));
    }
    findings
}

fn trouble(name: &str, reached: &Reached, commands: &Commands) -> Option<Finding> {
    const WITHOUT: &str = "the fewer upstreams answer, the harder it is to notice a wrong one";
    Some(match reached {
        Reached::NoAddress(why) => {
            Finding::warning("upstream-name", format!("upstream {name}: {why}")).why(WITHOUT).advice(format!(
                "`getent ahosts {name}` should print an address; /etc/resolv.conf lists the name servers"
            ))
        }
        Reached::Unusable(why) => Finding::problem("upstream-own", format!("upstream {name} {why}"))
            .why("a server must not follow itself, so this upstream is never queried and its vote is lost")
            .fix(commands.edit.clone())
            .advice("replace it with another server: `pooltime-xdp upstream probe NAME...` ranks candidates"),
        Reached::Loop(address) => Finding::warning(
            "upstream-loop",
            format!("upstream {name} ({}) takes its time from this host", address.ip()),
        )
        .why("its answers are refused, because two servers that follow each other both drift away")
        .fix(commands.edit.clone())
        .advice("replace it with another server: `pooltime-xdp upstream probe NAME...` ranks candidates"),
        Reached::Silent(address @ SocketAddr::V6(_), why) if *why != Failure::Timeout(None).to_string() => {
            Finding::warning("upstream-silent", format!("upstream {name} ({}): {why}", address.ip()))
                .why(WITHOUT)
                .advice("if this host has no IPv6 connectivity, choose an upstream that has an IPv4 address")
        }
        Reached::Silent(address, why) => {
            Finding::warning("upstream-silent", format!("upstream {name} ({}): {why}", address.ip()))
                .why(WITHOUT)
                .advice(
                    "if it stays silent, replace it: `pooltime-xdp upstream probe NAME...` ranks candidates",
                )
        }
        Reached::Kiss(address, code) => Finding::warning(
            "upstream-kiss",
            format!("upstream {name} ({}) refuses this host: {code}", address.ip()),
        )
        .why(WITHOUT)
        .advice("respect its access policy and choose another one"),
        Reached::Answered { synchronised: false, .. } => {
            Finding::warning("upstream-unsynchronised", format!("upstream {name} is not synchronised"))
                .why(WITHOUT)
                .advice("it may have been restarted; if this lasts, choose another one")
        }
        Reached::Answered { .. } => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::own_addresses::tests::own;
    use crate::tools::doctor::finding::Severity::{Note, Ok, Problem, Warning};
    use crate::tools::doctor::finding::{ids, only};

    fn judge(reached: &[(String, Reached)]) -> Vec<Finding> {
        super::judge(
            reached,
            &Commands { edit: "editor /etc/x.toml && systemctl reload pooltime-xdp".into() },
        )
    }

    #[test]
    fn this_host_itself_is_never_asked_and_is_a_problem_with_its_reason_and_a_command() {
        let own = own(&["192.0.2.1"]);
        let config = |address: &str| {
            let text = format!("[[upstream]]\naddress = \"{address}\"\n");
            Config::parse(&text).unwrap().upstream.remove(0)
        };
        let reached = reach(&config("192.0.2.1"), &own);
        assert_eq!(reached, Reached::Unusable("is an address of this host itself".into()));
        let findings = judge(&[
            ("192.0.2.1".into(), reached),
            ("ntp2.example.net".into(), Reached::Loop("192.0.2.2:123".parse().unwrap())),
            answered(true),
        ]);
        let found = only(&findings, "upstream-own");
        assert_eq!(found.severity, Problem);
        assert_eq!(found.what, "upstream 192.0.2.1 is an address of this host itself");
        assert!(found.fix.as_ref().unwrap().starts_with("editor /etc/x.toml"), "{found:?}");
        let found = only(&findings, "upstream-loop");
        assert_eq!(found.severity, Warning);
        assert!(found.what.contains("takes its time from this host") && found.fix.is_some(), "{found:?}");
        assert!(only(&findings, "upstream-reach").what.starts_with("1 of 3"));
    }

    fn answered(long: bool) -> (String, Reached) {
        ("ntp1.example.net".into(), Reached::Answered { synchronised: true, long })
    }

    fn silent() -> (String, Reached) {
        ("ntp2.example.net".into(), Reached::Silent("192.0.2.2:123".parse().unwrap(), "no answer".into()))
    }

    #[test]
    fn upstreams_that_answer_are_counted_and_each_of_the_others_is_named() {
        assert_eq!(
            ids(&judge(&[answered(true), answered(true)])),
            [("upstream-reach", Ok), ("long-packets", Ok)]
        );
        let findings = judge(&[
            answered(true),
            silent(),
            ("gone.example.net".into(), Reached::NoAddress("no such name".into())),
            ("cross.example.net".into(), Reached::Kiss("192.0.2.3:123".parse().unwrap(), "DENY".into())),
            ("late.example.net".into(), Reached::Answered { synchronised: false, long: true }),
        ]);
        for id in ["upstream-silent", "upstream-name", "upstream-kiss", "upstream-unsynchronised"] {
            assert_eq!(only(&findings, id).severity, Warning);
        }
        assert!(only(&findings, "upstream-silent").what.contains("ntp2.example.net (192.0.2.2): no answer"));
        assert!(only(&findings, "upstream-reach").what.starts_with("1 of 5"));
    }

    #[test]
    fn no_answer_at_all_is_a_problem_of_its_own() {
        assert_eq!(only(&judge(&[silent()]), "upstream-reach").severity, Problem);
        assert_eq!(judge(&[]), []);
    }

    #[test]
    fn longer_packets_are_filtered_only_if_none_of_them_passes() {
        assert_eq!(only(&judge(&[answered(false), answered(false)]), "long-packets").severity, Note);
        assert_eq!(only(&judge(&[answered(false), answered(true)]), "long-packets").severity, Ok);
        assert!(!ids(&judge(&[silent()])).iter().any(|(id, _)| *id == "long-packets"));
    }
}
