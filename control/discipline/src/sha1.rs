//! SHA-1 (FIPS 180-4, section 6.1), the checksum of leap-seconds.list. Here it protects against accidents alone.

const BLOCK_BYTES: usize = 64;
const ROUNDS: usize = 80;

/// Returns the digest as the five words that it consists of.
pub(super) fn sha1(message: &[u8]) -> [u32; 5] {
    let mut state = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0];
    for block in padded(message).chunks_exact(BLOCK_BYTES) {
        let mixed = mix(state, &schedule(block));
        for (word, mixed) in state.iter_mut().zip(mixed) {
            *word = word.wrapping_add(mixed);
        }
    }
    state
}

/// Appends a one, zeros, and the length in bits.
fn padded(message: &[u8]) -> Vec<u8> {
    let mut padded = message.to_vec();
    padded.push(0x80);
    let length = (message.len() as u64).wrapping_mul(8).to_be_bytes();
    while !(padded.len() + length.len()).is_multiple_of(BLOCK_BYTES) {
        padded.push(0);
    }
    padded.extend(length);
    padded
}

fn schedule(block: &[u8]) -> [u32; ROUNDS] {
    let mut words = [0; ROUNDS];
    for (word, bytes) in words.iter_mut().zip(block.as_chunks().0) {
        *word = u32::from_be_bytes(*bytes);
    }
    for index in 16..ROUNDS {
        let before = words[index - 3] ^ words[index - 8] ^ words[index - 14] ^ words[index - 16];
        words[index] = before.rotate_left(1);
    }
    words
}

fn mix(mut state: [u32; 5], words: &[u32; ROUNDS]) -> [u32; 5] {
    for (round, word) in words.iter().enumerate() {
        let [first, second, third, fourth, fifth] = state;
        let (choice, constant) = match round / 20 {
            0 => ((second & third) | (!second & fourth), 0x5a82_7999),
            1 => (second ^ third ^ fourth, 0x6ed9_eba1),
            2 => ((second & third) | (second & fourth) | (third & fourth), 0x8f1b_bcdc_u32),
            _ => (second ^ third ^ fourth, 0xca62_c1d6),
        };
        let new = [choice, fifth, constant, *word].into_iter().fold(first.rotate_left(5), u32::wrapping_add);
        state = [new, first, second.rotate_left(30), third, fourth];
    }
    state
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_of_sha1sum() {
        for (message, digest) in [
            (String::new(), [0xda39_a3ee, 0x5e6b_4b0d, 0x3255_bfef, 0x9560_1890, 0xafd8_0709]),
            ("abc".into(), [0xa999_3e36, 0x4706_816a, 0xba3e_2571, 0x7850_c26c, 0x9cd0_d89d]),
            // Their paddings differ.
            ("a".repeat(55), [0xc1c8_bbdc, 0x2279_6e28, 0xc0e1_5163, 0xd208_99b6, 0x5621_d65a]),
            ("a".repeat(56), [0xc2db_330f, 0x6083_854c, 0x99d4_b5bf, 0xb6e8_f29f, 0x201b_e699]),
            ("a".repeat(63), [0x03f0_9f5b, 0x158a_7a8c, 0xdad9_20bd, 0xdc29_b81c, 0x18a5_51f5]),
            ("a".repeat(64), [0x0098_ba82, 0x4b5c_1642, 0x7bd7_a112, 0x2a5a_442a, 0x25ec_644d]),
            ("a".repeat(1_000_000), [0x34aa_973c, 0xd4c4_daa4, 0xf61e_eb2b, 0xdbad_2731, 0x6534_016f]),
        ] {
            assert_eq!(sha1(message.as_bytes()), digest, "{} bytes", message.len());
        }
    }
}
