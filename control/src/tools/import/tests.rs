//! Configurations as operators have them, and what each is converted to.

use super::*;
use crate::config::ClockSource;
use crate::net::own_addresses::tests::own;

/// An input, what the configuration must and must not contain, and what the notes say.
struct Case {
    format: Format,
    file: &'static str,
    has: &'static [&'static str],
    lacks: &'static [&'static str],
    notes: &'static [&'static str],
}

/// The addresses of the host.
fn host() -> OwnAddresses {
    own(&["203.0.113.1", "198.51.100.1", "2001:db8::1", "fe80::1"])
}

/// Checks that the configuration is valid, and that it and the notes are as the case says.
fn check(case: &Case) {
    let (config, notes) = convert(case.file, case.format, &["eth0".into()], &host()).unwrap();
    let parsed = Config::parse_on(&config, &host()).unwrap_or_else(|error| panic!("{error}\n{config}"));
    parsed.clock.discipline().unwrap();
    // The notes are also in the configuration, as comments.
    let active: Vec<_> = config.lines().filter(|line| !line.starts_with('#')).collect();
    let active = active.join("\n");
    for part in case.has {
        assert!(active.contains(part), "no `{part}` in:\n{config}");
    }
    for part in case.lacks {
        assert!(!active.contains(part), "`{part}` in:\n{config}");
    }
    for part in case.notes {
        assert!(notes.iter().any(|note| note.contains(part)), "no note `{part}` in:\n{notes:#?}");
        assert!(config.contains(part), "no comment `{part}` in:\n{config}");
    }
}

#[test]
fn the_guides_file_is_a_server_of_the_pool() {
    check(&Case {
        format: Format::Ntp,
        file: "driftfile /var/lib/ntp/drift\n\
               server ntp1.example.net iburst\nserver ntp2.example.net iburst\nserver ntp3.example.net iburst\n\
               server ntp4.example.net iburst\nserver ntp5.example.net iburst\n\
               restrict default nomodify notrap nopeer noquery kod limited\nrestrict 127.0.0.1\nrestrict ::1\n",
        has: &["source = \"upstream\"", "address = \"ntp1.example.net\"", "address = \"ntp5.example.net\""],
        lacks: &["deny", "allow", "iburst = false"],
        notes: &["1: driftfile /var/lib/ntp/drift: nothing to set"],
    });
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn shapes_of_ntp_conf() {
    let format = Format::Ntp;
    for case in [
        // Names of the pool, as distributions ship them.
        Case {
            format,
            file: "pool 0.debian.pool.ntp.org iburst\nserver 1.centos.pool.ntp.org iburst\nserver pool.ntp.org.\n",
            has: &["source = \"system\""],
            lacks: &["address"],
            notes: &[
                "1: pool 0.debian.pool.ntp.org iburst: refused",
                "2: ",
                "3: server pool.ntp.org.: refused",
            ],
        },
        // Options of servers.
        Case {
            format,
            file: "server a.example prefer minpoll 4 maxpoll 8 key 12 version 3\nserver b.example burst\n",
            has: &["prefer = true", "minpoll = 4", "maxpoll = 8", "iburst = false"],
            lacks: &["key", "version"],
            notes: &["`key` has no equivalent", "`burst` loads"],
        },
        // A server that is closed to everybody but a network given by mask.
        Case {
            format,
            file: "restrict default ignore\nrestrict 10.1.2.3 mask 255.0.0.0 nomodify notrap\n",
            has: &["deny = [\"0.0.0.0/0\", \"::/0\"]", "allow = [\"10.0.0.0/8\"]"],
            lacks: &[],
            notes: &[],
        },
        // One family at a time, and a single host.
        Case {
            format,
            file: "restrict -4 default kod limited\nrestrict -6 default noserve\nrestrict 192.0.2.7 ignore\n\
                   restrict 2001:db8:: mask ffff:ffff:: nomodify\nrestrict -6 ::1\n",
            has: &["deny = [\"192.0.2.7/32\", \"::/0\"]", "allow = [\"2001:db8::/32\"]"],
            lacks: &["0.0.0.0/0"],
            notes: &[],
        },
        // A mask with a hole, a name, and no address at all.
        Case {
            format,
            file: "restrict 10.0.0.0 mask 255.0.255.0\nrestrict friend.example nomodify\nrestrict\n\
                   restrict 10.0.0.0 mask\nserver\n",
            has: &[],
            lacks: &["allow"],
            notes: &[
                "1: ",
                "2: restrict friend.example",
                "3: restrict: it names no address",
                "4: ",
                "names no server",
            ],
        },
        // An isolated network on the local clock.
        Case {
            format,
            file: "server 127.127.1.0\nfudge 127.127.1.0 stratum 10\n",
            has: &["source = \"system\"", "local_stratum = 10"],
            lacks: &["address"],
            notes: &[],
        },
        // The local clock as a last resort next to real servers.
        Case {
            format,
            file: "server a.example\nserver 127.127.1.0\nfudge 127.127.1.0 stratum 12\n",
            has: &["address = \"a.example\""],
            lacks: &["local_stratum"],
            notes: &["2: local stratum 12: a last resort beside other sources"],
        },
        // A GPS receiver.
        Case {
            format,
            file: "server 127.127.20.0 mode 17 minpoll 4 prefer\nfudge 127.127.20.0 flag1 1 time2 0.5\nrefclock pps\n",
            has: &[],
            lacks: &["address"],
            notes: &["1: server 127.127.20.0", "reference clocks are not supported", "3: refclock pps"],
        },
        // Leap seconds, panic, statistics, keys, inclusion.
        Case {
            format,
            file: "leapfile \"/var/db/leap-seconds.list\"\ntinker panic 0\ntos minclock 4 beacon 3\n\
                   statsdir /var/log/ntpsec/\nkeys /etc/ntp/keys\nincludefile /etc/ntp/more\nserver a.example\n",
            has: &["address"],
            lacks: &["panic_s", "leap_seconds_list"],
            notes: &[
                "1: leapfile \"/var/db/leap-seconds.list\": there is no such file on this host",
                "`minclock` has no equivalent",
                "`beacon` has no equivalent",
                "4: statsdir",
                "5: keys",
                "included files are not read",
            ],
        },
        // What has a counterpart of another name; the clock is left alone.
        Case {
            format,
            file: "server \"a.example\"\nserver b.example\ntos minsane 2 maxdist 3 mindist 0.01 orphan 6\n\
                   tinker step 0.4 panic 200 stepout 300\ndisable ntp monitor\n",
            has: &[
                "address = \"a.example\"",
                "min_sources = 2",
                "max_distance_ms = 3000",
                "makestep = { threshold_ms = 400, updates = 4294967295 }",
                "panic_s = 200",
                "steer = false",
            ],
            lacks: &["local_stratum"],
            notes: &[
                "`mindist` has no",
                "3: local stratum 6: a last",
                "`stepout` has no",
                "`monitor`: nothing",
            ],
        },
        Case {
            format,
            file: "server a.example\ndisable ntp\ntinker step 0\nenable ntp\ntos maxdist 99 minsane 77\n",
            has: &["makestep = { threshold_ms = 1000, updates = 0 }"],
            lacks: &["steer", "max_distance_ms", "min_sources"],
            notes: &["not a number from 0.001 to 16", "not a number from 1 to 32"],
        },
        // The stratum of the local clock is found among other words, before and behind its line, and without it
        // there is nothing that it could be the stratum of.
        Case {
            format,
            file: "fudge 127.127.1.0 refid LCL time1 0.0 stratum 12\nserver 127.127.1.0 minpoll 4\n",
            has: &["source = \"system\"", "local_stratum = 12"],
            lacks: &["address"],
            notes: &[],
        },
        Case {
            format,
            file: "fudge 127.127.1.0 stratum 12\nserver 127.0.0.1\n",
            has: &["source = \"system\""],
            lacks: &["local_stratum"],
            notes: &[],
        },
        Case {
            format,
            file: "server 127.127.1.0\nfudge 127.127.1.0 stratum 16\n",
            has: &["source = \"system\""],
            lacks: &["local_stratum"],
            notes: &["1: server 127.127.1.0: the stratum must be 1 to 15"],
        },
        // Bits beyond a mask are ignored, and flags of the same network add up, whatever way it is written.
        Case {
            format,
            file: "restrict default ignore\nrestrict default nomodify\nrestrict 192.0.2.17/24 nomodify\n\
                   restrict 2001:db8::1/32\nrestrict 10.1.2.3 mask 255.0.0.0 ignore\nrestrict 10.0.0.0/8 nomodify\n\
                   restrict 172.16.0.0/12 noserve\nunrestrict 172.16.0.0/12 noserve\nrestrict 1.2.3.4 ignore\n\
                   delrestrict 1.2.3.4\nrestrict ::ffff:198.51.100.0/120 ignore\nserver a.example\n",
            has: &[
                "deny = [\"0.0.0.0/0\", \"10.0.0.0/8\", \"198.51.100.0/24\", \"::/0\"]",
                "allow = [\"172.16.0.0/12\", \"192.0.2.0/24\", \"2001:db8::/32\"]",
            ],
            lacks: &["1.2.3.4"],
            notes: &[],
        },
        Case {
            format,
            file: "restrict 192.0.2.0/24 ignore ntpport\nrestrict 10.0.0.0/33 ignore\nrestrict 10.0.0.1 notrust\n",
            has: &["allow = [\"10.0.0.1/32\"]"],
            lacks: &["deny"],
            notes: &["`ntpport`", "2: restrict 10.0.0.0/33 ignore: not an address", "`notrust`"],
        },
        // A peer, families, odd spacing, comments behind directives, capitals.
        Case {
            format,
            file: "\tPEER  -6  ntp.example   IBURST # our friend\r\n\n  #server c.example\ntinker panic 500\n",
            has: &["address = \"ntp.example\"", "panic_s = 500"],
            lacks: &["c.example", "iburst = false"],
            notes: &["symmetric mode is not supported"],
        },
        // The same server twice, a forgotten word, an invalid number, polls out of range.
        Case {
            format,
            file: "server a.example minpoll x\nserver A.example\nserver b.example iburts\nserver c.example minpoll 2\n\
                   server d.example minpoll 12\nserver e.example maxpoll 5\n",
            has: &["minpoll = 3", "minpoll = 12\nmaxpoll = 12", "minpoll = 5\nmaxpoll = 5"],
            lacks: &["iburts"],
            notes: &[
                "`minpoll` has no number",
                "it is a duplicate",
                "unknown option `iburts`",
                "is not 3 to 17",
            ],
        },
    ] {
        check(&case);
    }
}

#[test]
fn shapes_of_chrony_conf() {
    let format = Format::Chrony;
    for case in [
        // A client's configuration as shipped.
        Case {
            format,
            file: "confdir /etc/chrony/conf.d\npool 2.debian.pool.ntp.org iburst\nsourcedir /run/chrony-dhcp\n\
                   keyfile /etc/chrony/chrony.keys\ndriftfile /var/lib/chrony/chrony.drift\nmakestep 1 3\nrtcsync\n\
                   leapsectz right/UTC\n",
            has: &["source = \"system\""],
            lacks: &["allow", "deny"],
            notes: &["allow: it is missing, so chronyd answers no client", "8: leapsectz right/UTC"],
        },
        // A server that is open to everybody.
        Case {
            format,
            file: "server a.example iburst xleave\nserver b.example iburst nts\nmakestep 0.1 -1\nallow\n\
                   ratelimit interval 1 burst 16 leak 3\nminsources 2\nmaxdistance 1.5\nmaxslewrate 83333.333\n",
            has: &[
                "makestep = { threshold_ms = 100, updates = 4294967295 }",
                "allow = [\"0.0.0.0/0\", \"::/0\"]",
                "rate = 1\n",
                "burst = 16",
                "leak = 3",
                "min_sources = 2",
                "max_distance_ms = 1500",
                "max_slew_ppm = 83333",
            ],
            lacks: &["deny"],
            notes: &["`xleave`", "`nts` is not supported"],
        },
        // Networks, in all the ways that chronyd reads.
        Case {
            format,
            file: "server a.example\nallow 192.168\nallow 10.1.2.3/16\ndeny 10.1.9.0/24\nallow 2001:db8::/32\n",
            has: &[
                "deny = [\"0.0.0.0/0\", \"10.1.9.0/24\", \"::/0\"]",
                "allow = [\"10.1.0.0/16\", \"192.168.0.0/16\", \"2001:db8::/32\"]",
            ],
            lacks: &[],
            notes: &[],
        },
        // The last directive about a whole network decides.
        Case {
            format,
            file: "server a.example\nallow 10.1.0.0/16\ndeny all 10\nallow 1.2.3.4\nallow nobody.example\n",
            has: &["deny = [\"0.0.0.0/0\", \"10.0.0.0/8\", \"::/0\"]", "allow = [\"1.2.3.4/32\"]"],
            lacks: &["10.1.0.0"],
            notes: &["allow nobody.example: not a subnet"],
        },
        // An isolated network; comments of all kinds.
        Case {
            format,
            file: "! one\n; two\n% three\nlocal stratum 8 orphan\nallow 10/8\nmanual\n",
            has: &["local_stratum = 8", "allow = [\"10.0.0.0/8\"]"],
            lacks: &[],
            notes: &["6: manual: no equivalent"],
        },
        // A rate above one per second, hardware, keys.
        Case {
            format,
            file: "server 192.0.2.1 port 1123 key 1 trust\nratelimit interval -4 burst 64 kod 8\nhwtimestamp *\nallow\n\
                   bindaddress 192.0.2.2\nport 0\ncmdallow 10/8\n",
            has: &["port = 1123", "trust = true", "rate = 16", "burst = 64", "leak = 2"],
            lacks: &["192.0.2.2"],
            notes: &[
                "`key` has no equivalent",
                "3: hwtimestamp *",
                "see `interfaces` and `serve`",
                "local socket only",
            ],
        },
        // Invalid numbers.
        Case {
            format,
            file: "server a.example\nmakestep one three\nmakestep 1\nlocal stratum x\nratelimit interval\nallow 1.2.3.4.5\n\
                   allow 300.1\nallow 10.0.0.0/33\nmaxdistance -1\n",
            has: &["address"],
            lacks: &["makestep", "max_distance_ms"],
            notes: &[
                "makestep one three: not a threshold",
                "the stratum must be 1 to 15",
                "`interval` is not valid",
            ],
        },
    ] {
        check(&case);
    }
}

/// What is taken over of a daemon that goes on keeping the clock, and the notes.
fn beside(text: &str, format: Format) -> (String, Vec<String>) {
    let (config, notes) = fill(Plan::beside(&host()), text, format, &["eth0".into()]).unwrap();
    let parsed = Config::parse_on(&config, &host()).unwrap_or_else(|error| panic!("{error}\n{config}"));
    assert_eq!(parsed.clock, Config::parse_on("", &host()).unwrap().clock, "all is as by default:\n{config}");
    assert!(parsed.upstream.is_empty() && !config.contains("[[upstream]]"), "{config}");
    (config, notes)
}

#[test]
fn beside_chronyd_only_what_clients_notice_is_taken_over() {
    let (config, notes) = beside(
        "pool 2.debian.pool.ntp.org iburst\nserver a.example iburst nts xleave\nrefclock PPS /dev/pps0\nkeyfile /etc/chrony/chrony.keys\n\
         ntsservercert a.pem\nntsratelimit interval 3\ndriftfile /var/lib/chrony/chrony.drift\nlocal stratum 10\n\
         makestep 1 3\nrtcsync\nminsources 3\nleapsectz right/UTC\nhwtimestamp *\n\
         allow 10.0.0.0/8\ndeny 10.9.0.0/16\nratelimit interval -2 burst 20 leak 3\n",
        Format::Chrony,
    );
    for part in [
        "source = \"system\"   # chronyd keeps the clock",
        "rate = 4",
        "burst = 20",
        "leak = 3",
        "deny = [\"0.0.0.0/0\", \"10.9.0.0/16\", \"::/0\"]",
        "allow = [\"10.0.0.0/8\"]",
    ] {
        assert!(config.contains(part), "no {part} in:\n{config}");
    }
    assert_eq!(notes, [""; 0], "the rest stays with chronyd");
    assert!(!config.contains("symmetric"), "{config}");
}

#[test]
fn beside_a_daemon_what_would_surprise_clients_is_said() {
    let (config, notes) = beside(
        "peer b.example\nsmoothtime 400 0.01\nleapsecmode slew\nconfdir /etc/chrony/conf.d\nbindaddress 192.0.2.2\nalow all\n",
        Format::Chrony,
    );
    assert!(config.contains("[access]\nsymmetric = false   # requests of peers are for chronyd"), "{config}");
    let expected =
        ["1: peer", "2: smoothtime", "3: leapsecmode", "4: confdir", "5: bindaddress", "6: alow", "0: allow"];
    assert_eq!(notes.len(), expected.len(), "{notes:#?}");
    for (note, start) in notes.iter().zip(expected) {
        assert!(note.starts_with(start), "{start}: {notes:#?}");
    }
    assert!(notes[1].contains("the system clock's time") && notes[2].contains("only `system`"), "{notes:#?}");
}

#[test]
fn beside_ntpd_and_timesyncd_the_same_holds() {
    let (config, notes) = beside(
        "driftfile /var/lib/ntpsec/ntp.drift\nserver a.example iburst burst\npeer b.example\nkeys /etc/ntp.keys\ntinker panic 0\n\
         tos minsane 3\nrestrict default nomodify limited\nrestrict 10.9.0.0 mask 255.255.0.0 ignore\n",
        Format::Ntp,
    );
    assert!(config.contains("deny = [\"10.9.0.0/16\"]") && config.contains("for ntpd"), "{config}");
    assert_eq!(notes.len(), 1, "{notes:#?}");
    assert!(notes[0].starts_with("3: peer"), "{notes:#?}");
    let (config, notes) = beside("[Time]\nNTP=a.example\nPollIntervalMaxSec=128\n", Format::Timesyncd);
    assert!(
        config.contains("# systemd-timesyncd keeps the clock") && notes.is_empty(),
        "{notes:#?}\n{config}"
    );
}

/// Sources that cannot be followed here, beside a last resort.
#[test]
fn a_last_resort_is_never_the_first() {
    let (ntp, chrony) = (Format::Ntp, Format::Chrony);
    for (format, source) in [
        (ntp, "pool 0.debian.pool.ntp.org iburst"),
        (ntp, "server pool.ntp.org"),
        (ntp, "server a.example noselect"),
        (ntp, "server 127.0.0.1"),
        (ntp, "server a_b..c"),
        (ntp, "server a.example"),
        (ntp, "peer a.example"),
        (ntp, "server 127.127.20.0 prefer"),
        (ntp, "server 127.127.20.0 noselect"),
        (ntp, "refclock shm unit 0"),
        (ntp, "broadcastclient"),
        (ntp, "multicastclient 224.0.1.1"),
        (ntp, "manycastclient 239.0.0.1"),
        (ntp, "enable bclient"),
        (ntp, "includefile /etc/ntp/servers"),
        (chrony, "pool 0.debian.pool.ntp.org iburst"),
        (chrony, "refclock PPS /dev/pps0 lock GPS"),
        (chrony, "refclock SHM 0 noselect"),
        (chrony, "sourcedir /run/chrony-dhcp"),
        (chrony, "confdir /etc/chrony/conf.d"),
        (chrony, "include /etc/chrony/more.conf"),
        (chrony, "initstepslew 10 a.example"),
        (chrony, "peer 0.pool.ntp.org"),
    ] {
        let resorts = if format == ntp {
            ["server 127.127.1.0\nfudge 127.127.1.0 stratum 10", "tos orphan 6", "refclock local stratum 10"]
        } else {
            ["local stratum 10", "local", "local stratum 1 orphan"]
        };
        for resort in resorts {
            for text in [format!("{source}\n{resort}\n"), format!("{resort}\n{source}\n")] {
                let (config, notes) = convert(&text, format, &["eth0".into()], &host()).unwrap();
                let parsed = Config::parse_on(&config, &host()).unwrap();
                assert_eq!(parsed.clock.local_stratum, None, "{text}\n{config}");
                assert!(config.contains("# local_stratum = "), "{config}");
                assert!(notes.iter().any(|note| note.contains("last resort")), "{notes:#?}");
            }
            let (config, _) = convert(&format!("{resort}\n"), format, &[], &host()).unwrap();
            assert!(Config::parse(&config).unwrap().clock.local_stratum.is_some(), "{config}");
        }
    }
}

#[test]
fn a_reference_clock_goes_before_the_servers_beside_it() {
    for (format, clock) in [
        (Format::Chrony, "refclock PPS /dev/pps0 refid PPS poll 3 trust prefer"),
        (Format::Ntp, "server 127.127.22.0 prefer"),
        (Format::Ntp, "refclock shm unit 0"),
        (Format::NtpdRs, "[[source]]\nmode = \"pps\"\npath = \"/dev/pps0\"\nprecision = 1e-7"),
    ] {
        let servers = match format {
            Format::NtpdRs => "[[source]]\nmode = \"server\"\naddress = \"ntp1.example.net\"\n",
            _ => "server ntp1.example.net\nserver ntp2.example.net\n",
        };
        let text = format!("{clock}\n{servers}");
        let (config, notes) = convert(&text, format, &[], &host()).unwrap();
        let parsed = Config::parse_on(&config, &host()).unwrap();
        assert_eq!((parsed.clock.source, parsed.upstream.len()), (ClockSource::System, 0), "{config}");
        assert!(config.contains("# [[upstream]]\n# address = \"ntp1.example.net\""), "{config}");
        assert!(notes.iter().any(|note| note.contains("goes before the servers")), "{notes:#?}");
    }
    // One that nobody follows does not.
    let text = "refclock SHM 0 noselect\nserver ntp1.example.net\n";
    let (config, _) = convert(text, Format::Chrony, &[], &host()).unwrap();
    assert_eq!(Config::parse(&config).unwrap().clock.source, ClockSource::Upstream, "{config}");
}

#[test]
fn shapes_of_other_daemons_files() {
    for case in [
        Case {
            format: Format::Openntpd,
            file: "listen on *\nservers pool.ntp.org\nserver ntp1.example.net weight 5 trusted\nsensor *\n\
                   constraints from \"https://www.example.net\"\nquery from 192.0.2.1\n",
            has: &["source = \"upstream\"", "address = \"ntp1.example.net\""],
            lacks: &["iburst = false", "pool.ntp.org"],
            notes: &[
                "1: listen on *",
                "2: servers pool.ntp.org: refused",
                "`weight`",
                "4: sensor",
                "5: constraints",
            ],
        },
        Case {
            format: Format::Timesyncd,
            file: "[Time]\n# ours\nNTP=gone.example\nNTP=\nNTP=ntp1.example.net  ntp2.example.net\n\
                   FallbackNTP=0.debian.pool.ntp.org\nRootDistanceMaxSec=5\nPollIntervalMinSec=32\n",
            has: &[
                "address = \"ntp1.example.net\"",
                "address = \"ntp2.example.net\"",
                "max_distance_ms = 5000",
            ],
            lacks: &["gone.example", "pool.ntp.org"],
            notes: &[
                "6: FallbackNTP=0.debian.pool.ntp.org: `0.debian.pool.ntp.org` is not used",
                "8: PollIntervalMinSec",
            ],
        },
        Case {
            format: Format::Timesyncd,
            file: "[Time]\nNTP=\nFallbackNTP=ntp1.example.net\n",
            has: &["address = \"ntp1.example.net\""],
            lacks: &[],
            notes: &[],
        },
        Case {
            format: Format::NtpdRs,
            file: "[[source]]\nmode = \"server\"\naddress = \"ntp1.example.net\"\n[[source]]\nmode = \"nts\"\n\
                   address = \"[2001:db8::5]:1123\"\n[[source]]\nmode = \"pool\"\naddress = \"ntppool.example:123\"\n\
                   [[server]]\nlisten = \"0.0.0.0:123\"\n[server.denylist]\nfilter = [\"192.0.2.17/24\"]\n\
                   action = \"deny\"\n[synchronization]\nminimum-agreeing-sources = 2\nlocal-stratum = 16\n\
                   [observability]\nlog-level = \"info\"\n[odd]\n",
            has: &[
                "address = \"ntp1.example.net\"",
                "address = \"2001:db8::5\"\nport = 1123",
                "address = \"ntppool.example\"",
                "min_sources = 2",
                "deny = [\"192.0.2.0/24\"]",
            ],
            lacks: &["local_stratum", "port = 123"],
            notes: &["4: source: NTS is not supported", "7: source: only one", "odd: unknown directive"],
        },
        Case {
            format: Format::NtpdRs,
            file: "[[source]]\nmode = \"server\"\naddress = \"a.example\"\n[[server]]\nlisten = \"[::]:123\"\n\
                   [server.allowlist]\nfilter = [\"192.0.2.0/24\"]\naction = \"ignore\"\n",
            has: &["deny = [\"0.0.0.0/0\", \"::/0\"]", "allow = [\"192.0.2.0/24\"]"],
            lacks: &[],
            notes: &[],
        },
    ] {
        check(&case);
    }
}

#[test]
fn a_list_of_leap_seconds_is_taken_if_it_is_of_use_on_this_host() {
    let path = std::env::temp_dir().join(format!("pooltime-import-leap-{}", std::process::id()));
    let path = path.to_str().unwrap();
    let convert = |expiry: &str| {
        std::fs::write(path, format!("#@ {expiry}\n3692217600 37\n")).unwrap();
        convert(&format!("server a.example\nleapfile {path}\n"), Format::Ntp, &[], &host()).unwrap()
    };
    // In the year 2150 and in 2024.
    let (config, notes) = convert("7900000000");
    assert!(config.contains(&format!("leap_seconds_list = \"{path}\"")) && notes.is_empty(), "{config}");
    for expiry in ["3928521600", "soon"] {
        let (config, notes) = convert(expiry);
        let active = config.lines().find(|line| line.starts_with("leap_seconds_list"));
        assert!(active.is_none() && notes[0].contains("expired or is damaged"), "{config}");
    }
    std::fs::remove_file(path).unwrap();
}

#[test]
fn what_nobody_understands_is_no_configuration() {
    for format in [Format::Ntp, Format::Chrony, Format::Openntpd, Format::Timesyncd, Format::NtpdRs] {
        for text in ["", "# server a.example\n", "root:x:0:0:root:/root:/bin/bash\n", "= = =\n"] {
            assert_eq!(convert(text, format, &[], &host()), None, "{format:?}: {text}");
        }
    }
}

/// A generator of numbers by seed.
struct Random(u64);

impl Random {
    fn below(&mut self, below: usize) -> usize {
        // This is xorshift64, which is good enough here.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % below as u64).unwrap()
    }

    fn any<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[self.below(words.len())]
    }
}

/// Directives in which each `SERVER`, `NUMBER` and `NET` is replaced by one.
const DIRECTIVES: [&str; 40] = [
    "server SERVER iburst",
    "server SERVER minpoll NUMBER maxpoll NUMBER",
    "server SERVER port NUMBER",
    "peer SERVER",
    "pool SERVER maxsources NUMBER",
    "server 127.127.1.0",
    "fudge 127.127.1.0 refid LCL stratum NUMBER",
    "server 127.127.20.0 mode NUMBER",
    "refclock PPS /dev/pps0 lock GPS",
    "refclock shm unit NUMBER",
    "refclock local stratum NUMBER",
    "tos orphan NUMBER minsane NUMBER maxdist NUMBER",
    "tinker step NUMBER panic NUMBER",
    "disable ntp",
    "enable ntp bclient",
    "broadcastclient",
    "restrict default ignore",
    "restrict default nomodify",
    "restrict NET ignore",
    "restrict NET nomodify",
    "unrestrict NET",
    "restrict 192.0.2.0 mask 255.255.255.0 noserve",
    "leapfile /usr/share/zoneinfo/leap-seconds.list",
    "leapfile /nowhere/leap",
    "leapseclist SERVER",
    "local stratum NUMBER orphan",
    "local",
    "makestep NUMBER NUMBER",
    "minsources NUMBER",
    "maxdistance NUMBER",
    "maxslewrate NUMBER",
    "ratelimit interval NUMBER burst NUMBER leak NUMBER",
    "allow NET",
    "allow all NET",
    "deny NET",
    "deny all",
    "include SERVER",
    "initstepslew NUMBER SERVER",
    "servers SERVER weight NUMBER",
    "NTP=SERVER SERVER",
];
const SERVERS: [&str; 16] = [
    "a.example",
    "A.example.",
    "b.example",
    "\"c.example\"",
    "0.pool.ntp.org",
    "192.0.2.7",
    "192.0.2.255",
    "::ffff:192.0.2.7",
    "2001:0DB8::7",
    "203.0.113.1",
    "127.0.0.1",
    "localhost",
    "fe80::7",
    "192.0.2.7:123",
    "192.0.2.300",
    "224.0.1.1",
];
const NUMBERS: [&str; 16] =
    ["0", "1", "2", "3", "5", "10", "16", "33", "-1", "0.4", "1e9", "1e308", "NaN", "4294967296", "x", ""];
const NETS: [&str; 10] = [
    "10.0.0.0/8",
    "10.1.2.3/8",
    "10",
    "192.0.2.17/24",
    "192.0.2.1",
    "2001:db8::1/32",
    "::/0",
    "::ffff:192.0.2.0/120",
    "::ffff:0:0/96",
    "a.example",
];

#[test]
fn whatever_is_imported_passes_the_checks_of_a_start_and_leaves_no_last_resort_beside_sources() {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    for _ in 0..3_000 {
        let mut text = String::new();
        for _ in 0..=random.below(9) {
            let mut line = random.any(&DIRECTIVES).to_owned();
            for (name, values) in [("SERVER", &SERVERS[..]), ("NUMBER", &NUMBERS), ("NET", &NETS)] {
                while line.contains(name) {
                    line = line.replacen(name, random.any(values), 1);
                }
            }
            text += &line;
            text += random.any(&["\n", "\r\n", " # why\n"]);
        }
        for format in [Format::Ntp, Format::Chrony, Format::Openntpd, Format::Timesyncd] {
            let Some((config, _)) = convert(&text, format, &["eth0".into()], &host()) else { continue };
            let checked = Config::parse_on(&config, &host()).and_then(|config| {
                config.entries()?;
                config.clock.discipline()?;
                Ok(config)
            });
            let parsed = checked.unwrap_or_else(|error| panic!("{error}\nof:\n{text}\nto:\n{config}"));
            let (clock_left, _) = beside(&text, format);
            assert!(!clock_left.contains("local_stratum"), "{text}\nto:\n{clock_left}");
            let names_a_source = text.lines().any(|line| {
                ["server ", "peer ", "pool "].iter().any(|word| line.starts_with(word))
                    && !line.starts_with("server 127.127.1.")
            });
            if names_a_source && matches!(format, Format::Ntp | Format::Chrony) {
                assert_eq!(parsed.clock.local_stratum, None, "{text}\nto:\n{config}");
            }
            if parsed.clock.local_stratum.is_some() {
                assert!(
                    parsed.upstream.is_empty() && !config.contains("[[upstream]]"),
                    "{text}\nto:\n{config}"
                );
            }
        }
    }
}

#[test]
fn whatever_is_in_a_file_the_configuration_is_right() {
    const WORDS: [&str; 40] = [
        "server",
        "pool",
        "peer",
        "restrict",
        "allow",
        "deny",
        "makestep",
        "ratelimit",
        "local",
        "stratum",
        "tinker",
        "panic",
        "fudge",
        "tos",
        "orphan",
        "minsources",
        "maxdistance",
        "leapfile",
        "mask",
        "default",
        "ignore",
        "all",
        "minpoll",
        "maxpoll",
        "port",
        "interval",
        "burst",
        "leak",
        "iburst",
        "0",
        "-1",
        "17",
        "4294967296",
        "1e308",
        "NaN",
        "127.127.1.0",
        "10.0.0.0/8",
        "::/0",
        "a\"b\\c",
        "\u{1b}[2J\u{0}é",
    ];
    let mut state = Random(0x2545_f491_4f6c_dd1d);
    let mut random = |below: usize| state.below(below);
    for _ in 0..3_000 {
        let mut text = String::new();
        for _ in 0..random(8) {
            for _ in 0..=random(6) {
                text += WORDS[random(WORDS.len())];
                text += [" ", "\t", "  ", "/", ""][random(5)];
            }
            text += ["\n", "\r\n", "#", "\n;"][random(4)];
        }
        for format in [Format::Ntp, Format::Chrony, Format::Openntpd, Format::Timesyncd, Format::NtpdRs] {
            let Some((config, _)) = convert(&text, format, &["eth0".into()], &host()) else { continue };
            Config::parse_on(&config, &host())
                .unwrap_or_else(|error| panic!("{error}\nof:\n{text:?}\nto:\n{config}"));
        }
    }
}

#[test]
fn lines_that_name_the_host_itself_are_refused_and_the_others_are_kept() {
    for format in [Format::Ntp, Format::Chrony] {
        check(&Case {
            format,
            file: "server 203.0.113.1 iburst\nserver 2001:DB8::1\npeer ::ffff:198.51.100.1\nserver localhost\n\
                   server 127.0.0.1\nserver ::1\nserver 192.0.2.255\nserver 224.0.1.1\nserver 0.0.0.0\n\
                   server fe80::2\nserver ntp1.example.net iburst\nminsources 3\n",
            has: &["source = \"upstream\"", "address = \"ntp1.example.net\""],
            lacks: &[
                "192.0.2",
                "203.0",
                "2001",
                "198.51",
                "localhost",
                "127",
                "::1",
                "224",
                "0.0.0.0\"",
                "fe80",
            ],
            notes: &[
                "1: server 203.0.113.1 iburst: refused: `203.0.113.1` is an address of this host itself",
                "2: server 2001:DB8::1: refused: ",
                "3: peer ::ffff:198.51.100.1: refused: ",
                "4: server localhost: refused: `localhost` is a loopback address",
                "5: server 127.0.0.1: refused: ",
                "6: server ::1: refused: ",
                "7: server 192.0.2.255: refused: `192.0.2.255` is a broadcast address",
                "8: server 224.0.1.1: refused: `224.0.1.1` is a multicast address",
                "9: server 0.0.0.0: refused: ",
                "10: server fe80::2: refused: `fe80::2` is a link-local address without",
            ],
        });
    }
}

#[test]
fn no_more_upstreams_must_agree_than_are_left() {
    check(&Case {
        format: Format::Chrony,
        file: "allow\nminsources 2\nserver 203.0.113.1\nserver ntp1.example.net\n",
        has: &["min_sources = 1"],
        lacks: &["203.0.113.1"],
        notes: &["2: minsources 2: more than the remaining upstreams: 1 is used instead"],
    });
}
