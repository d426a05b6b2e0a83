//! What holds for every packet that comes back, whatever is in it.

use std::collections::BTreeSet;

use proptest::prelude::*;
use protocol::{Answer, Era, PendingRequest, Strictness, Times};

const STRICTNESSES: [Strictness; 3] = [Strictness::CLIENT, Strictness::HEADER, Strictness::MONITOR];

/// Bytes that come near enough to an answer to get past the first checks.
fn packet() -> impl Strategy<Value = (Vec<u8>, [u8; 8])> {
    let bytes = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..100),
        prop::collection::vec(any::<u8>(), 48),
        prop::collection::vec(prop_oneof![Just(0), Just(0xff), any::<u8>()], 48..=52),
    ];
    (bytes, any::<[u8; 8]>(), any::<bool>(), any::<bool>()).prop_map(|(mut bytes, nonce, server, origin)| {
        if server && let Some(first) = bytes.first_mut() {
            *first = *first & 0xc0 | 4 << 3 | 4;
        }
        if origin && let Some(place) = bytes.get_mut(24..32) {
            place.copy_from_slice(&nonce);
        }
        (bytes, nonce)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn what_is_taken_answers_the_request((packet, nonce) in packet()) {
        for strictness in STRICTNESSES {
            let Ok(answer) = PendingRequest::new(nonce).read(&packet, strictness) else { continue };
            prop_assert_eq!((&packet[24..32], packet[0] & 7), (&nonce[..], 4));
            prop_assert!(packet.len() == 48 || packet.len() > 48 && strictness.may_be_longer);
            let versions = strictness.oldest_version..=strictness.newest_version;
            prop_assert!(versions.contains(&(packet[0] >> 3 & 7)));
            match answer {
                Answer::Kiss(kiss) => {
                    prop_assert_eq!(packet[1], 0);
                    prop_assert_eq!(kiss.code(), String::from_utf8_lossy(&packet[12..16]));
                }
                Answer::Time(_) => prop_assert!(packet[40..48] != [0; 8]),
            }
        }
    }

    #[test]
    fn another_origin_is_never_taken((packet, nonce) in packet(), bit in 0..64_usize) {
        let mut other = nonce;
        other[bit / 8] ^= 1 << (bit % 8);
        for strictness in STRICTNESSES {
            let both = [nonce, other].map(|nonce| PendingRequest::new(nonce).read(&packet, strictness).is_ok());
            prop_assert!(both != [true, true]);
        }
    }

    #[test]
    fn a_client_takes_nothing_that_is_refused_by_a_laxer_reader((packet, nonce) in packet()) {
        let request = PendingRequest::new(nonce);
        if let Ok(answer) = request.read(&packet, Strictness::CLIENT) {
            prop_assert_eq!(request.read(&packet, Strictness::HEADER), Ok(answer));
        }
    }

    #[test]
    fn what_is_usable_is_synchronised_near_and_no_loop(
        (packet, nonce) in packet(),
        limit_s in 0.0..10.0,
        own: u32,
        is_own: bool,
    ) {
        let Ok(Answer::Time(time)) = PendingRequest::new(nonce).read(&packet, Strictness::CLIENT) else {
            return Ok(());
        };
        let own = BTreeSet::from([if is_own { time.reference_id } else { own }]);
        if time.usable(limit_s, &own).is_ok() {
            prop_assert!(packet[0] >> 6 != 3 && (1..=15).contains(&packet[1]));
            prop_assert!(time.root_distance_s() <= limit_s);
            prop_assert!(time.stratum == 1 || !own.contains(&time.reference_id));
        }
    }

    #[test]
    fn measurements_can_be_reckoned_with(
        (packet, nonce) in packet(),
        sent_ns: i64,
        elapsed_ns: u32,
        near: bool,
    ) {
        let Ok(Answer::Time(time)) = PendingRequest::new(nonce).read(&packet, Strictness::MONITOR) else {
            return Ok(());
        };
        let received_ns = sent_ns.saturating_add(elapsed_ns.into());
        let era = if near { Era::NearOurs } else { Era::From2020 };
        if let Ok(measured) = time.measure(&Times { sent_ns, received_ns, error_s: 1e-6 }, era)
            && measured.believable().is_ok()
        {
            let parts = [measured.delay_s(), measured.dispersion_s, measured.precision_s];
            prop_assert!(parts.iter().all(|part| part.is_finite() && *part > 0.0), "{measured:?}");
        }
    }
}
