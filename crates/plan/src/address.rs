//! Stable addresses: one loopback address for each component with traffic, chosen once and kept for life.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use plimsoll_model::id::{ComponentName, Digest, Uid};
use plimsoll_model::world::ServiceIp;

/// The first address of a fixed sequence for this component that is not in `avoid`. The sequence lies in
/// 127.64.0.0/10: loopback on every Linux machine, and away from 127.0.0.0/16, which other programs use.
pub(crate) fn choose(app: &Uid, component: &ComponentName, avoid: &BTreeSet<ServiceIp>) -> ServiceIp {
    (0_u32..)
        .map(|attempt| candidate(app, component, attempt))
        .find(|ip| !avoid.contains(ip))
        .expect("the sequence is longer than any set of addresses in use")
}

fn candidate(app: &Uid, component: &ComponentName, attempt: u32) -> ServiceIp {
    let digest = Digest::of_json(&(app, component, attempt)).to_string();
    let bits = u32::from_str_radix(&digest[..8], 16).expect("a digest is hexadecimal");
    let [_, high, middle, low] = bits.to_be_bytes();
    // .0 and .255 look like network and broadcast addresses to some programs.
    Ipv4Addr::new(127, 64 | (high & 0x3f), middle, low.clamp(1, 254))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_stable_and_avoid_what_is_in_use() {
        let (app, web) = ("u1".parse().unwrap(), "web".parse().unwrap());
        let first = choose(&app, &web, &BTreeSet::new());
        assert_eq!(first, choose(&app, &web, &BTreeSet::new()));
        let second = choose(&app, &web, &BTreeSet::from([first]));
        assert_ne!(first, second);
        assert!(first.is_loopback() && second.is_loopback());
    }
}
