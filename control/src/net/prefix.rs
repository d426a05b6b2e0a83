//! Address prefixes.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Code, Error, Result};

/// An address and the number of its leading bits that count; the other bits are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

impl Prefix {
    /// Makes a prefix.
    ///
    /// # Errors
    ///
    /// The length exceeds the address, or bits beyond the length are not zero.
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
        Ok(Self { address, length })
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

impl FromStr for Prefix {
    type Err = Error;

    /// Parses `192.0.2.0/24`, or an address, which stands for itself alone.
    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            Error::new(Code::Data, format_args!("`{text}` is not a prefix"))
                .remedy("use a form like 192.0.2.0/24, 2001:db8::/32 or 192.0.2.1")
        };
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
        let error = "192.0.2.1/24".parse::<Prefix>().unwrap_err();
        assert!(error.what.contains("192.0.2.0/24"), "{error}");
    }
}
