//! Where copies that get their programs by themselves ask for them: a stable address of the installation's own, which they reach
//! from wherever they run, as they reach other components.

use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};

use plimsoll_model::id::{Digest, InstallationId};

/// The first port that is tried, and how many after it: another program may listen to one at all addresses.
const FIRST: u16 = 8020;
const TRIED: u16 = 20;

/// The address of an installation, and who listens there; nothing if it cannot be had.
pub(crate) fn listen(installation: &InstallationId) -> Option<(SocketAddrV4, Vec<TcpListener>)> {
    let ip = address(installation);
    (FIRST..FIRST + TRIED).find_map(|port| {
        let at = SocketAddrV4::new(ip, port);
        plimsoll_router::listen_beside(at.into()).ok().map(|listeners| (at, listeners))
    })
}

/// One of the stable addresses, the same for life: copies are told of it when they are made.
fn address(installation: &InstallationId) -> Ipv4Addr {
    let digits = Digest::of_json(&("programs", installation)).to_string();
    let bits = u32::from_str_radix(&digits[..8], 16).expect("a digest is hexadecimal");
    let [_, high, middle, low] = bits.to_be_bytes();
    Ipv4Addr::new(127, 64 | (high & 0x3f), middle, low.clamp(1, 254))
}
