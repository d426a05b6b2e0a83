//! Integers of 64 bits as strings in JSON. Many readers, jq among them, take numbers for floating-point ones, which hold 53
//! bits: an NTP timestamp would lose its last 11 bits.

use serde::{Deserialize as _, Deserializer, Serializer, de};

/// Writes the number as a string.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
pub(super) fn serialize<S: Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(number)
}

/// Reads what [`serialize`] has written.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
}

#[cfg(test)]
mod tests {
    use crate::status::sources::{Peer, Peers};

    #[test]
    fn timestamps_keep_their_last_bit() {
        let peer = Peer { receive_time: u64::MAX, ..Peer::default() };
        let mut peers = Peers { peers: vec![peer], ..Peers::default() };
        peers.system.clock = 0xee00_0000_0000_0001;
        let json = serde_json::to_string(&peers).unwrap();
        assert!(json.contains(r#""receive_time":"18446744073709551615""#), "{json}");
        assert_eq!(serde_json::from_str::<Peers>(&json).unwrap(), peers);
    }
}
