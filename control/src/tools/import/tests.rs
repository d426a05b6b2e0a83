//! Configurations as operators have them, and what each is converted to.

use super::*;
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
    let (config, notes) = convert(case.file, case.format, &["eth0".into()], &host());
    Config::parse_on(&config, &host()).unwrap_or_else(|error| panic!("{error}\n{config}"));
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
            notes: &["local stratum 12: not supported with upstreams"],
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
            file: "leapfile \"/usr/share/zoneinfo/leap-seconds.list\"\ntinker panic 0\ntos minclock 4 minsane 3\n\
                   statsdir /var/log/ntpsec/\nkeys /etc/ntp/keys\nincludefile /etc/ntp/more\nserver a.example\n",
            has: &["leap_seconds_list = \"/usr/share/zoneinfo/leap-seconds.list\""],
            lacks: &["panic_s"],
            notes: &["`minsane` has no equivalent", "4: statsdir", "5: keys", "included files are not read"],
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
                   ratelimit interval 1 burst 16 leak 3\nminsources 2\nmaxdistance 1.5\nmaxslewrate 83333\n",
            has: &[
                "makestep = { threshold_ms = 100, updates = 4294967295 }",
                "allow = [\"0.0.0.0/0\", \"::/0\"]",
                "rate = 1\n",
                "burst = 16",
                "leak = 3",
                "min_sources = 2",
                "max_distance_ms = 1500",
            ],
            lacks: &["deny", "max_slew_ppm"],
            notes: &["`xleave`", "`nts` is not supported", "not a number from 1 to 500"],
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

#[test]
fn the_format_is_told_from_the_content_then_from_the_name() {
    let detected = |name: &str, text: &str| detect(Path::new(name), text);
    assert_eq!(detected("a", "server x\nrestrict default\n"), Format::Ntp);
    assert_eq!(detected("ntp.conf", "server x\nmakestep 1 3\nrtcsync\n"), Format::Chrony);
    assert_eq!(detected("/etc/chrony.conf", "server x\n"), Format::Chrony);
    assert_eq!(detected("/etc/ntp.conf", "server x\n"), Format::Ntp);
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
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = |below: usize| {
        // This is xorshift64, which is good enough here.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).unwrap()
    };
    for _ in 0..3_000 {
        let mut text = String::new();
        for _ in 0..random(8) {
            for _ in 0..=random(6) {
                text += WORDS[random(WORDS.len())];
                text += [" ", "\t", "  ", "/", ""][random(5)];
            }
            text += ["\n", "\r\n", "#", "\n;"][random(4)];
        }
        for format in [Format::Ntp, Format::Chrony] {
            let (config, _) = convert(&text, format, &["eth0".into()], &host());
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
