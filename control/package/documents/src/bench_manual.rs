//! What the manual of `pooltime-bench` says beside its command line.

use crate::manual::{CommandManual, Manual};

pub(crate) const MANUAL: Manual = Manual {
    section: "1",
    title: "User Commands",
    files: &[(
        "/usr/share/doc/pooltime-xdp/docs/benchmarks.md",
        "How the figures are taken, and what they are on one machine.",
    )],
    exit_status: &[
        ("0", "The results are what was asked for."),
        (
            "1",
            "The results are complete and not what was asked for: every request was lost, or a threshold of \
             --max-loss or --max-p99 was missed.",
        ),
        ("64", "The command line is wrong."),
        ("68", "The target does not exist."),
        ("69", "The machine or its kernel lacks something that is needed."),
        ("70", "The measurement did not measure what it should have."),
        ("74", "A file could not be read or written."),
        ("77", "A privilege is missing."),
        ("130", "Ctrl-C ended the command. What was measured until then is printed."),
    ],
    environment: &[
        ("NO_COLOR", "If it is set, nothing is coloured."),
        ("POOLTIME_TOOLS", "A directory with chronyd and ntpd for compare, which is searched before PATH."),
    ],
    see_also: &[("pooltime-xdp", "8")],
    commands: &[
        CommandManual {
            words: &[],
            examples: &[
                (
                    "Find the highest rate of a server on a private network:",
                    "pooltime-bench find-max 192.168.1.2",
                ),
                ("Compare this server with the others that are installed:", "sudo pooltime-bench compare"),
            ],
            exit_status: &[],
        },
        CommandManual {
            words: &["cost"],
            examples: &[(
                "Measure what a packet costs, of each kind:",
                "sudo pooltime-bench cost --rounds 5",
            )],
            exit_status: &[],
        },
        CommandManual {
            words: &["load"],
            examples: &[
                (
                    "Ask 1000 times a second for ten seconds, and fail if one answer in a thousand is lost:",
                    "pooltime-bench load 192.168.1.2 --rate 1k --max-loss 0.1%",
                ),
                (
                    "Ask by many clients, so that no limit per source is met:",
                    "pooltime-bench load 192.168.1.2 --rate 20k \\\n  --clients 4096 --source-net 10.1.0.0/16",
                ),
            ],
            exit_status: &[],
        },
        CommandManual {
            words: &["find-max"],
            examples: &[(
                "Find the highest rate with at most 0.1 % loss:",
                "pooltime-bench find-max 192.168.1.2",
            )],
            exit_status: &[],
        },
        CommandManual {
            words: &["compare"],
            examples: &[("Run every server in five rounds:", "sudo pooltime-bench compare --rounds 5")],
            exit_status: &[],
        },
    ],
};
