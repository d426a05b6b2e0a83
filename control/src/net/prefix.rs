//! Address prefixes.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Code, Error, Result};

/// Number of leading bits that IPv4 addresses in IPv6 form have in common.
const MAPPED_BITS: u8 = 96;

/// An address and the number of its leading bits that count; the other bits are zero. An IPv4 prefix in IPv6 form
/// (`::ffff:192.0.2.0/120`) is IPv4: no packet has such a source, so that an IPv6 entry would never match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(extend("pattern" = r"^[0-9A-Fa-f:.]+(/[0-9]+)?$"))]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

impl Prefix {
    /// Makes a prefix.
    ///
    /// # Errors
    ///
    /// The length exceeds the address, bits beyond the length are not zero, or it is all of IPv4 in IPv6 form.
    pub fn new(address: IpAddr, length: u8) -> Result<Self> {
        let wrong = |why: String| {
            Err(Error::new(Code::Data, format_args!("`{address}/{length}` is not a prefix: {why}")))
        };
        let bits = if address.is_ipv4() { 32 } else { 128 };
        if length > bits {
            return wrong(format!("the address has {bits} bits"));
        }
        let network = truncated(address, length);
        if network != address {
            return wrong(format!("it has bits set beyond its length; did you mean {network}/{length}?"));
        }
        match address {
            // Lists of addresses that no packet should have contain this one, and nobody means all of IPv4 by it.
            IpAddr::V6(ipv6) if length == MAPPED_BITS && ipv6.to_ipv4_mapped().is_some() => {
                wrong("it is all of IPv4 in IPv6 form; write 0.0.0.0/0 if that is meant".into())
            }
            IpAddr::V6(ipv6) if length > MAPPED_BITS && ipv6.to_ipv4_mapped().is_some() => {
                Ok(Self { address: address.to_canonical(), length: length - MAPPED_BITS })
            }
            _ => Ok(Self { address, length }),
        }
    }

    /// Returns the first address.
    #[must_use]
    pub const fn address(self) -> IpAddr {
        self.address
    }

    /// Returns the number of bits that count.
    #[must_use]
    pub const fn length(self) -> u8 {
        self.length
    }

    /// Returns whether all addresses of this prefix are of the other one.
    #[must_use]
    pub fn is_within(self, around: Self) -> bool {
        self.length >= around.length && truncated(self.address, around.length) == around.address
    }
}

/// Returns the address with all bits beyond `length` cleared.
pub(crate) fn truncated(address: IpAddr, length: u8) -> IpAddr {
    let length = u32::from(length);
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32_u32.saturating_sub(length)).unwrap_or(0);
            Ipv4Addr::from_bits(address.to_bits() & mask).into()
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128_u32.saturating_sub(length)).unwrap_or(0);
            Ipv6Addr::from_bits(address.to_bits() & mask).into()
        }
    }
}

fn is_address(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok()
}

impl FromStr for Prefix {
    type Err = Error;

    /// Parses `192.0.2.0/24`, or an address, which stands for itself alone.
    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            Error::new(Code::Data, format_args!("`{text}` is not a prefix"))
                .remedy("use a form like 192.0.2.0/24, 2001:db8::/32 or 192.0.2.1")
        };
        if text.split_once('-').is_some_and(|(first, last)| is_address(first) && is_address(last)) {
            return Err(Error::new(Code::Data, format_args!("`{text}` is not a prefix: it is a range"))
                .remedy("write the prefixes that the range consists of, each on its own"));
        }
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let length = match length {
            Some(length) if length.bytes().all(|byte| byte.is_ascii_digit()) => {
                length.parse().map_err(|_| wrong())?
            }
            Some(_) => return Err(wrong()),
            None if address.is_ipv4() => 32,
            None => 128,
        };
        Self::new(address, length)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl TryFrom<String> for Prefix {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        text.parse().map_err(|error: Error| error.what)
    }
}

impl From<Prefix> for String {
    fn from(prefix: Prefix) -> Self {
        prefix.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_read_and_written() {
        for text in ["192.0.2.0/24", "0.0.0.0/0", "192.0.2.1/32", "2001:db8::/32", "::/0", "::1/128"] {
            assert_eq!(text.parse::<Prefix>().unwrap().to_string(), text);
        }
        assert_eq!("192.0.2.1".parse::<Prefix>().unwrap().to_string(), "192.0.2.1/32");
        assert_eq!("2001:db8::1".parse::<Prefix>().unwrap().length(), 128);
    }

    #[test]
    fn ipv4_in_ipv6_form_is_ipv4_and_all_of_it_is_not_taken_by_mistake() {
        for (mapped, ipv4) in [
            ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
            ("::ffff:192.0.2.7", "192.0.2.7/32"),
            ("::ffff:c000:207/128", "192.0.2.7/32"),
            ("::ffff:128.0.0.0/97", "128.0.0.0/1"),
        ] {
            assert_eq!(mapped.parse::<Prefix>().unwrap(), ipv4.parse().unwrap(), "{mapped}");
        }
        let error = "::ffff:0:0/96".parse::<Prefix>().unwrap_err();
        assert!(error.what.contains("all of IPv4") && error.what.contains("0.0.0.0/0"), "{error}");
        for wide in ["::/8", "::/80", "::/0", "::fffe:0:0/95"] {
            assert!(wide.parse::<Prefix>().unwrap().address().is_ipv6(), "{wide}");
        }
    }

    #[test]
    fn prefixes_are_within_those_that_have_all_their_addresses() {
        let is_within =
            |inner: &str, outer: &str| inner.parse::<Prefix>().unwrap().is_within(outer.parse().unwrap());
        assert!(is_within("192.0.2.0/24", "192.0.2.0/24") && is_within("192.0.2.7/32", "192.0.2.0/24"));
        assert!(is_within("::1/128", "::/0") && is_within("192.0.2.7/32", "0.0.0.0/0"));
        assert!(!is_within("192.0.2.0/24", "192.0.2.0/25") && !is_within("192.0.3.0/25", "192.0.2.0/24"));
        assert!(!is_within("192.0.2.0/24", "::/0") && !is_within("::/128", "0.0.0.0/0"));
    }

    #[test]
    fn what_is_no_prefix_is_named() {
        for text in
            ["", "/", "x", "192.0.2.0/", "192.0.2.0/33", "::/129", "192.0.2/24", "1.2.3.4/+8", "1.2.3.4/ 8"]
        {
            let error = text.parse::<Prefix>().unwrap_err();
            assert!(error.what.contains("is not a prefix"), "{text}: {error}");
        }
        let error = "192.0.2.1-192.0.2.9".parse::<Prefix>().unwrap_err();
        assert!(error.what.contains("is a range") && error.remedy.is_some(), "{error}");
        let error = "192.0.2.1/24".parse::<Prefix>().unwrap_err();
        assert!(error.what.contains("192.0.2.0/24"), "{error}");
    }
}
