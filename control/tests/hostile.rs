//! Whatever comes from the network or stands in a file: no panic, and an answer or an error that holds to its
//! promises. The fuzz targets of `control/fuzz` make the same checks of inputs that they find by coverage.

use testinput::random::Random;
use testlab::checks;

/// Good inputs, changed a little: seeded, so that each run is the same.
struct Mutations {
    random: Random,
    seeds: Vec<Vec<u8>>,
}

impl Mutations {
    fn of(seeds: &[&[u8]]) -> Self {
        Self { random: Random::new(1), seeds: seeds.iter().map(|seed| seed.to_vec()).collect() }
    }

    fn next(&mut self) -> Vec<u8> {
        let random = &mut self.random;
        let mut input = self.seeds[random.index(self.seeds.len())].clone();
        for _ in 0..random.below(6) {
            let (at, byte) = (random.index(input.len()), random.byte());
            match random.below(5) {
                0 => input.truncate(at),
                1 => input.extend((0..at % 64).map(|_| byte)),
                2 if !input.is_empty() => {
                    drop(input.drain(at..(at + 1 + usize::from(byte % 8)).min(input.len())));
                }
                3 => {
                    // A piece of another one.
                    let other = &self.seeds[random.index(self.seeds.len())];
                    let from = random.index(other.len());
                    let _removed: Vec<u8> =
                        input.splice(at..at, other[from..].iter().copied().take(32)).collect();
                }
                _ if !input.is_empty() => input[at] = byte,
                _ => {}
            }
        }
        input
    }
}

#[test]
fn any_control_message_is_answered_in_order_or_not_at_all() {
    let message = |opcode: u8, association: u16, data: &[u8]| {
        let mut message = vec![0x16, opcode, 0, 9, 0, 0];
        message.extend(association.to_be_bytes());
        message.extend([0, 0, 0, u8::try_from(data.len()).unwrap()]);
        message.extend(data);
        message
    };
    let seeds = [
        message(1, 0, b""),
        message(1, 1, b""),
        message(2, 0, b""),
        message(2, 0xffff, b""),
        message(2, 1, b"srcadr,offset=1, jitter\0"),
        message(10, 0, b"nonce"),
    ];
    let mut inputs = Mutations::of(&seeds.each_ref().map(Vec::as_slice));
    for _ in 0..20_000 {
        checks::control_message(&inputs.next());
    }
}

#[test]
fn any_drift_file_is_read_or_refused() {
    let seeds: [&[u8]; 3] = [
        b"# a comment\nfrequency_ppm = -12.5\nskew_ppm = 0.1\nwander_ppm = 0.003\n",
        b"frequency_ppm = nan\nskew_ppm = inf\n",
        b"frequency_ppm = 1e-300\nskew_ppm = 1e300\nwander_ppm = -0.0\n",
    ];
    let mut inputs = Mutations::of(&seeds);
    for _ in 0..20_000 {
        if let Ok(text) = String::from_utf8(inputs.next()) {
            checks::drift(&text);
        }
    }
}

#[test]
fn any_configuration_is_read_or_refused_with_a_reason() {
    let mut inputs = Mutations::of(&[
        b"interfaces = [\"eth0\"]\nserve = [\"192.0.2.53\", \"2001:db8::1\"]\n",
        b"[clock]\nsource = \"system\"\nhorizon_ms = 20000\nmax_error_ms = 1000\nstratum = 5\n",
        b"[clock]\nsource = \"upstream\"\nsteer = false\n[[upstream]]\naddress = \"ntp1.example.net\"\nminpoll = 6\n",
        b"[clock]\nmakestep = { threshold_ms = 1, updates = 3 }\n[[upstream]]\naddress = \"::1\"\nburst = true\n",
        b"[limits]\nrate = 16\nburst = 256\ntable_entries = 65536\nleak = 4\nkod = 64\n",
        b"[access]\ndeny = [\"192.0.2.0/24\"]\nlimit = [\"2001:db8::/32\"]\ndenied = \"kod\"\n",
    ]);
    for _ in 0..5_000 {
        checks::configuration(&String::from_utf8_lossy(&inputs.next()));
    }
}

#[test]
fn any_file_of_another_daemon_becomes_a_valid_configuration_or_none() {
    let mut inputs = Mutations::of(&[
        b"server 192.0.2.1 iburst prefer\nserver ntp1.example.net minpoll 4\nrestrict default kod limited\n",
        b"restrict 192.0.2.17/24 nomodify\nrestrict default ignore\ntos minclock 3 maxdist 2\ndisable ntp\n",
        b"server 127.127.28.0\nfudge 127.127.28.0 refid GPS stratum 3\nleapfile /usr/share/x\n",
        b"pool pool.ntp.org iburst\nmakestep 1 3\nrtcsync\nminsources 2\nlocal stratum 10 orphan\n",
        b"refclock SHM 0 refid GPS\nallow 192.0.2.0/24\ndeny all\nratelimit interval 3 burst 8\n",
        b"servers ntp.example.net weight 5\nlisten on *\nsensor *\n",
        b"[Time]\nNTP=192.0.2.1 ntp1.example.net\nFallbackNTP=x\n",
        b"[[source]]\nmode = \"server\"\naddress = \"ntp1.example.net:1234\"\n[observability]\n",
    ]);
    for _ in 0..3_000 {
        checks::import(&String::from_utf8_lossy(&inputs.next()));
    }
}

#[test]
fn any_access_list_is_read_or_refused_in_a_line() {
    let mut inputs = Mutations::of(&[
        b"# a list\n192.0.2.0/24\ndeny 2001:db8::/32\nallow 198.51.100.7\nlimit ::/0\n",
        b"unlimited 203.0.113.0/25 # ours\n::ffff:192.0.2.1\n0.0.0.0/0\n300.1.1.1\n10.0.0.0/33\n",
    ]);
    for _ in 0..20_000 {
        checks::access_list(&String::from_utf8_lossy(&inputs.next()));
    }
}

#[test]
fn any_list_of_leap_seconds_is_read_or_refused() {
    let mut inputs = Mutations::of(&[
        b"#@ 4000000000\n3644697600 36 # 1 Jul 2015\n3692217600 37 # 1 Jan 2017\n",
        b"#$ 3676924800\n#@ 3991593600\n2272060800 10\n2287785600 9\n",
    ]);
    for number in 0..20_000 {
        let input = inputs.next();
        checks::leap_list(&String::from_utf8_lossy(&input), 1_400_000_000 + number * 100_000);
    }
}

#[test]
fn any_page_of_scores_and_any_command_is_read_or_refused() {
    let mut pages = Mutations::of(&[
        br#"{"history":[{"ts":1790000000,"offset":0.0001,"step":1,"score":19.5,"monitor_id":7}],"monitors":[]}"#,
        br#"{"history":null,"monitors":[{"id":7,"name":"recentmedian.score","type":"score","score":1e300}]}"#,
        b"ts_epoch,ts,offset,step,score,monitor_id,monitor_name,rtt,leap,error\n1790000000,,,-5,14.1,9,\"a,b\",,,\"no\"\n",
    ]);
    let mut commands = Mutations::of(&[
        br#"{"command":"setaccess","prefix":"192.0.2.0/24","access":"deny","seconds":60}"#,
        br#"{"command":"attach","interfaces":["eth0"],"mode":"auto","replace":false}"#,
        br#"{"command":"status"}"#,
        br#"{"command":"probes"}"#,
    ]);
    for _ in 0..20_000 {
        checks::score_page(&String::from_utf8_lossy(&pages.next()));
        checks::command(&String::from_utf8_lossy(&commands.next()));
    }
}

#[test]
fn any_answer_of_an_upstream_is_refused_or_can_be_reckoned_with() {
    const NONCE: [u8; 8] = *b"unguessd";
    let answer = |first: u8, stratum: u8, reference: [u8; 4], received_s: u32| {
        let mut answer = vec![first, stratum, 6, 0xe8];
        answer.extend([0, 0, 1, 0, 0, 0, 2, 0]);
        answer.extend(reference);
        answer.extend([0xee, 0, 0, 0, 0, 0, 0, 0]);
        answer.extend(NONCE);
        for second in [received_s, received_s + 1] {
            answer.extend(second.to_be_bytes());
            answer.extend([0x80, 0, 0, 0]);
        }
        answer
    };
    let seeds = [
        answer(0x24, 1, *b"GPS\0", 0xee00_0000),
        answer(0x24, 2, [10, 0, 0, 1], 0xee00_0000),
        answer(0x1c, 15, [192, 0, 2, 1], 5),
        answer(0xe4, 0, *b"RATE", 0),
        answer(0xe4, 0, [0; 4], 0),
    ];
    let mut inputs = Mutations::of(&seeds.each_ref().map(Vec::as_slice));
    for _ in 0..20_000 {
        let packet = inputs.next();
        let elapsed_ns = u32::try_from(inputs.random.below(4_000_000_000)).unwrap();
        let sent_ns = if inputs.random.below(8) == 0 { i64::MAX } else { 1_000_000_000 };
        checks::upstream_answer(&packet, NONCE, sent_ns, elapsed_ns);
    }
}

#[test]
fn any_reply_of_chronyd_is_refused_or_can_be_reckoned_with() {
    const SEQUENCE: u32 = 0x1234_5678;
    let reply = |status: u8, stratum: u8, floats: [u32; 9]| {
        let mut reply = vec![6, 2, 0, 0, 0, 33, 0, 5, 0, status, 0, 0, 0, 0, 0, 0];
        reply.extend(SEQUENCE.to_be_bytes());
        reply.extend([0; 8]);
        reply.extend([192, 0, 2, 1, 192, 0, 2, 1]);
        reply.extend([0; 16]);
        reply.extend([0, stratum, 0, 0, 0, 0, 0, 0, 0x6b, 8, 0x5e, 0x1c, 0x1c, 0xef, 0xb6, 0x6a]);
        reply.extend(floats.iter().flat_map(|float| float.to_be_bytes()));
        reply
    };
    let seeds = [
        reply(0, 3, [0; 9]),
        reply(
            0,
            1,
            [
                0xee80_0000,
                0x7f00_0000,
                0x8100_0000,
                0x00ff_ffff,
                0,
                0x06c0_0000,
                0xf480_0000,
                0xf080_0000,
                0x0e80_0000,
            ],
        ),
        reply(0, 15, [0x7eff_ffff; 9]),
        reply(2, 0, [0x7f00_0000; 9]),
    ];
    assert!(seeds.iter().all(|seed| seed.len() == 104));
    let mut inputs = Mutations::of(&seeds.each_ref().map(Vec::as_slice));
    for _ in 0..20_000 {
        checks::chronyd_reply(&inputs.next(), SEQUENCE);
    }
}

#[test]
fn any_properties_of_timesyncd_are_refused_or_can_be_reckoned_with() {
    let properties = |message: &str, poll: &str| {
        format!(
            "{{\"type\":\"(uuuuittayttttbtt)\",\"data\":[{message}]}}\n{{\"type\":\"(iay)\",\"data\":[2,[192,0,2,1]]}}\n\
             {{\"type\":\"t\",\"data\":{poll}}}\n{{\"type\":\"t\",\"data\":32000000}}\n"
        )
    };
    let times = "1789999990000000,1789999990011000,1789999990011050,1789999990020050";
    let most = u64::MAX;
    let seeds = [
        properties(&format!("0,4,4,2,-25,12000,3000,[192,0,2,9],{times},false,7,900"), "2048000000"),
        properties(
            &format!("0,4,4,2,-25,{most},{most},[192,0,2,9],{most},0,{most},0,false,7,{most}"),
            "64000000",
        ),
        properties(&format!("3,4,4,0,-25,0,0,[0,0,0,0],{times},true,{most},0"), "0"),
        properties("0,0,0,0,0,0,0,[0,0,0,0],0,0,0,0,false,0,0", &most.to_string()),
    ];
    let mut inputs = Mutations::of(&seeds.each_ref().map(String::as_bytes));
    for _ in 0..20_000 {
        if let Ok(text) = String::from_utf8(inputs.next()) {
            checks::timesyncd_properties(&text);
        }
    }
}

#[test]
fn whatever_is_sent_over_http_gets_one_whole_answer_at_most_and_no_stranger_s_page_gets_the_status() {
    let seeds = [
        "GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:9200\r\nAccept: application/openmetrics-text;q=0.5\r\n\r\n",
        "HEAD /healthz HTTP/1.1\r\nhost: [::1]\r\n\r\n",
        "GET http://ntp.example.net/status.json HTTP/1.0\r\n\r\n",
        "GET /history.json HTTP/1.1\r\nHost: localhost\r\nHost: rebind.example\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
    ];
    let mut inputs = Mutations::of(&seeds.map(str::as_bytes));
    for seed in seeds {
        checks::http(seed.as_bytes());
    }
    for _ in 0..3_000 {
        checks::http(&inputs.next());
    }
}
