//! Who may come in: networks by their addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::Deserialize;

/// A network, such as `10.0.0.0/8`, or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Allowed {
    network: u128,
    bits: u8,
    is_v4: bool,
}

/// Why a text is no network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no network: write an address, or one with the bits that count, as 10.1.0.0/16")]
pub struct NotANetwork(String);

/// An address as a number, with those of version 4 at the left as well.
fn number(address: IpAddr) -> (u128, bool) {
    match address.to_canonical() {
        IpAddr::V4(address) => (u128::from(u32::from(address)) << 96, true),
        IpAddr::V6(address) => (u128::from(address), false),
    }
}

fn mask(bits: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0)
}

impl Allowed {
    /// Whether an address is part of it.
    pub fn admits(self, address: IpAddr) -> bool {
        let (number, is_v4) = number(address);
        is_v4 == self.is_v4 && number & mask(self.bits) == self.network
    }
}

impl FromStr for Allowed {
    type Err = NotANetwork;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || NotANetwork(text.chars().take(80).collect());
        let (address, bits) =
            text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let (network, is_v4) = number(address.parse().map_err(|_| wrong())?);
        let most = if is_v4 { 32 } else { 128 };
        let bits = bits.map_or(Ok(most), str::parse).ok().filter(|bits| *bits <= most).ok_or_else(wrong)?;
        // What does not count must not be there: it would look as if it did.
        let is_whole = network & mask(bits) == network;
        is_whole.then_some(Self { network, bits, is_v4 }).ok_or_else(wrong)
    }
}

impl TryFrom<String> for Allowed {
    type Error = NotANetwork;

    fn try_from(text: String) -> Result<Self, NotANetwork> {
        text.parse()
    }
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_v4 {
            let address = u32::try_from(self.network >> 96).map_or(Ipv4Addr::UNSPECIFIED, Ipv4Addr::from);
            write!(f, "{address}/{}", self.bits)
        } else {
            write!(f, "{}/{}", Ipv6Addr::from(self.network), self.bits)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_admits_its_own_addresses() {
        let admits = |network: &str, address: &str| {
            network.parse::<Allowed>().unwrap().admits(address.parse().unwrap())
        };
        assert!(admits("10.1.0.0/16", "10.1.255.3") && admits("10.1.0.0/16", "::ffff:10.1.2.3"));
        assert!(!admits("10.1.0.0/16", "10.2.0.1") && !admits("0.0.0.0/0", "::1"));
        assert!(admits("192.0.2.7", "192.0.2.7") && !admits("192.0.2.7", "192.0.2.8"));
        assert!(
            admits("0.0.0.0/0", "8.8.8.8") && admits("fd00::/8", "fd12::1") && !admits("fd00::/8", "fe80::1")
        );
        for wrong in ["10.1.0.1/16", "10.0.0.0/33", "x", "10.0.0.0/", "", "10.0.0.0/-1"] {
            assert!(wrong.parse::<Allowed>().is_err(), "{wrong}");
        }
        assert_eq!("10.1.0.0/16".parse::<Allowed>().unwrap().to_string(), "10.1.0.0/16");
    }
}
