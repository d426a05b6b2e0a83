//! What the manual of `pooltime-xdp` says beside its command line.

use crate::manual::{CommandManual, Manual};

pub(crate) const MANUAL: Manual = Manual {
    section: "8",
    title: "System Administration",
    files: &[
        (
            "/etc/pooltime-xdp.toml",
            "The configuration; see pooltime-xdp.toml(5). Without it the defaults hold.",
        ),
        ("/etc/pooltime-xdp.toml.d/*.toml", "More of it, which is read after that file."),
        ("/run/pooltime-xdp/control.sock", "The control socket, by which commands reach the daemon."),
        ("/sys/fs/bpf/pooltime-xdp/", "The pinned program's maps and links, which outlive the daemon."),
        (
            "/var/lib/pooltime-xdp/",
            "What is kept from one start to the next: the drift file and the traffic quota's account.",
        ),
        ("/usr/share/pooltime-xdp/", "Alert rules for Prometheus and a dashboard for Grafana."),
        ("/usr/share/doc/pooltime-xdp/docs/", "The documentation."),
    ],
    exit_status: &[
        ("0", "Success."),
        ("64", "The arguments are wrong."),
        ("65", "An input is not what it should be."),
        ("66", "There is no such file or interface."),
        ("69", "A service or resource is missing or in use."),
        ("70", "The program itself has a fault."),
        ("71", "The kernel lacks something or has refused it."),
        ("74", "Reading or writing failed."),
        ("75", "It may work later."),
        ("77", "The operation is not permitted."),
        ("78", "The configuration is wrong."),
    ],
    environment: &[
        ("NO_COLOR", "If it is set, nothing is coloured."),
        ("RUST_LOG", "What is logged, for example \"debug\"; by default \"info\"."),
    ],
    see_also: &[("pooltime-xdp.toml", "5"), ("pooltime-bench", "1"), ("chronyd", "8"), ("ip-link", "8")],
    commands: &[
        CommandManual {
            words: &[],
            examples: &[
                (
                    "Answer on an interface with the system clock's time, until Ctrl-C:",
                    "sudo pooltime-xdp attach eth0",
                ),
                (
                    "Answer as a service, with upstreams that are measured first:",
                    "pooltime-xdp upstream probe ntp1.example.net ntp2.example.net \\\n  \
                     | sudo tee /etc/pooltime-xdp.toml\n\
                     pooltime-xdp config check\n\
                     sudo systemctl enable --now pooltime-xdp",
                ),
                ("See whether it is well, and what to do if not:", "sudo pooltime-xdp doctor"),
            ],
            exit_status: &[],
        },
        CommandManual {
            words: &["attach"],
            examples: &[
                ("Answer on two interfaces until Ctrl-C:", "sudo pooltime-xdp attach eth0 eth1"),
                (
                    "Run behind the driver, in the place of another program:",
                    "sudo pooltime-xdp attach eth0 --mode generic --replace",
                ),
            ],
            exit_status: &[],
        },
        CommandManual {
            words: &["run"],
            examples: &[(
                "Run as systemd's unit does:",
                "sudo pooltime-xdp run --config /etc/pooltime-xdp.toml",
            )],
            exit_status: &[],
        },
        CommandManual {
            words: &["detach"],
            examples: &[
                ("Take the program off one interface:", "sudo pooltime-xdp detach eth1"),
                ("Take it off everywhere, also if the daemon is dead:", "sudo pooltime-xdp detach"),
            ],
            exit_status: &[],
        },
        CommandManual {
            words: &["status"],
            examples: &[
                ("Look at it:", "sudo pooltime-xdp status"),
                ("Take a value out of it:", "sudo pooltime-xdp status --json | jq .clock.stratum"),
            ],
            exit_status: &[],
        },
        CommandManual {
            words: &["health"],
            examples: &[
                ("Check it from a script:", "sudo pooltime-xdp health && echo well"),
                (
                    "Wait after a start until it serves synchronised time:",
                    "sudo pooltime-xdp health --wait 2m",
                ),
            ],
            exit_status: &[
                ("0", "Synchronised time is served within its error limit on all interfaces."),
                ("69", "It is not, or nothing is attached."),
                ("75", "The daemon does not answer, or is only starting."),
                ("77", "The user is neither root nor in the group pooltime."),
            ],
        },
        CommandManual {
            words: &["top"],
            examples: &[
                ("Watch who asks most:", "sudo pooltime-xdp top"),
                ("Print it once, for a script:", "sudo pooltime-xdp top --json"),
            ],
            exit_status: &[],
        },
        CommandManual {
            words: &["peers"],
            examples: &[("Show the upstreams:", "sudo pooltime-xdp peers")],
            exit_status: &[],
        },
        CommandManual {
            words: &["deny"],
            examples: &[(
                "Do not answer a network for two hours:",
                "sudo pooltime-xdp deny 192.0.2.0/24 --for 2h",
            )],
            exit_status: &[],
        },
        CommandManual {
            words: &["allow"],
            examples: &[
                ("Make an exception from a denied network:", "sudo pooltime-xdp allow 192.0.2.7"),
                ("Answer a monitor without a limit:", "sudo pooltime-xdp allow 2001:db8::/48 --unlimited"),
            ],
            exit_status: &[],
        },
        CommandManual {
            words: &["limit"],
            examples: &[("Limit a source to the strict rate:", "sudo pooltime-xdp limit 192.0.2.7 --for 1d")],
            exit_status: &[],
        },
        CommandManual {
            words: &["access", "list"],
            examples: &[("Show all entries:", "sudo pooltime-xdp access list")],
            exit_status: &[],
        },
        CommandManual {
            words: &["access", "remove"],
            examples: &[(
                "Remove what was added by command:",
                "sudo pooltime-xdp access remove 192.0.2.0/24",
            )],
            exit_status: &[],
        },
        CommandManual {
            words: &["query"],
            examples: &[("Ask two servers:", "pooltime-xdp query ntp1.example.net 192.0.2.1")],
            exit_status: &[],
        },
        CommandManual {
            words: &["pool", "check"],
            examples: &[
                ("Check a server as the pool's monitors do:", "pooltime-xdp pool check 192.0.2.1"),
                ("Do so every five minutes:", "pooltime-xdp pool check 192.0.2.1 --watch"),
            ],
            exit_status: &[],
        },
        CommandManual {
            words: &["pool", "score"],
            examples: &[
                ("Show the score that the pool publishes:", "pooltime-xdp pool score 192.0.2.1"),
                (
                    "Write it for node_exporter's textfile collector:",
                    "pooltime-xdp pool score 192.0.2.1 --metrics >pool.prom",
                ),
            ],
            exit_status: &[],
        },
        CommandManual {
            words: &["pool", "why"],
            examples: &[("Find out why the score fell:", "sudo pooltime-xdp pool why 192.0.2.1")],
            exit_status: &[],
        },
        CommandManual {
            words: &["pool", "verify"],
            examples: &[("See how to prove that a server is yours:", "pooltime-xdp pool verify 192.0.2.1")],
            exit_status: &[],
        },
        CommandManual {
            words: &["upstream", "probe"],
            examples: &[
                (
                    "Measure candidates and make the best the configuration:",
                    "pooltime-xdp upstream probe ntp1.example.net ntp2.example.net \\\n  \
                     | sudo tee /etc/pooltime-xdp.toml",
                ),
                ("Measure those of a list:", "pooltime-xdp upstream probe --file candidates --count 8"),
            ],
            exit_status: &[],
        },
        CommandManual {
            words: &["import"],
            examples: &[(
                "Take over chronyd's configuration:",
                "pooltime-xdp import /etc/chrony/chrony.conf \\\n  | sudo tee /etc/pooltime-xdp.toml",
            )],
            exit_status: &[],
        },
        CommandManual {
            words: &["doctor"],
            examples: &[
                ("Examine everything:", "sudo pooltime-xdp doctor"),
                (
                    "See whether requests of another machine arrive here:",
                    "sudo pooltime-xdp doctor --from 198.51.100.7",
                ),
            ],
            exit_status: &[
                ("0", "All is well, or merely worth a note."),
                ("1", "There are warnings."),
                ("2", "There are problems."),
                ("64", "The arguments are wrong."),
            ],
        },
        CommandManual {
            words: &["config", "check"],
            examples: &[(
                "Check the file before a reload:",
                "pooltime-xdp config check && sudo systemctl reload pooltime-xdp",
            )],
            exit_status: &[],
        },
        CommandManual {
            words: &["config", "show"],
            examples: &[("See all values that hold, and where they are from:", "pooltime-xdp config show")],
            exit_status: &[],
        },
        CommandManual {
            words: &["config", "schema"],
            examples: &[(
                "Write the schema for an editor:",
                "pooltime-xdp config schema >pooltime-xdp.schema.json",
            )],
            exit_status: &[],
        },
    ],
};
