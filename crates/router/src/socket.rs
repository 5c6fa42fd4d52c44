//! Listening sockets.

use std::io;
use std::net::{SocketAddr, TcpListener};

use rustix::net::sockopt::{set_ip_freebind, set_socket_reuseaddr, set_socket_reuseport};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

/// Connections that wait to be accepted at most, as the standard library has it.
const BACKLOG: i32 = 4096;

/// What else is to be minded of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sort {
    /// Nothing: it is this machine's, and nobody else has it.
    Usual,
    /// Others of this process listen to all addresses at the same port, or to one of them.
    Shared,
}

fn bind(at: SocketAddr, sort: Sort, is_free: bool) -> io::Result<TcpListener> {
    let family = if at.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket =
        rustix::net::socket_with(family, SocketType::STREAM, flags, Some(rustix::net::ipproto::TCP))?;
    set_socket_reuseaddr(&socket, true)?;
    if is_free {
        set_ip_freebind(&socket, true)?;
    }
    if sort == Sort::Shared {
        set_socket_reuseport(&socket, true)?;
    }
    rustix::net::bind(&socket, &at)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

/// Listens where routes are served: at one address, or at all of the machine.
pub(crate) fn front(at: SocketAddr) -> io::Result<TcpListener> {
    let listener = bind(at, Sort::Usual, false)?;
    if !at.ip().is_unspecified() {
        return Ok(listener);
    }
    // Nobody has it. Stable addresses are among all addresses, and may have the same port.
    let at = listener.local_addr()?;
    drop(listener);
    bind(at, Sort::Shared, false)
}

/// Listens to a stable address, which need not be this machine's yet if it is free. Where it may share its port with those
/// of the front, the kernel prefers what is said more closely; somebody else's it is still not.
pub(crate) fn stable(at: SocketAddr, shared: &[u16], is_free: bool) -> io::Result<TcpListener> {
    match bind(at, Sort::Usual, is_free) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && shared.contains(&at.port()) => {
            bind(at, Sort::Shared, is_free)
        }
        bound => bound,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpStream};

    use super::*;

    #[test]
    fn a_stable_address_has_a_port_that_is_served_everywhere_else() {
        let everywhere = front((Ipv4Addr::UNSPECIFIED, 0).into()).unwrap();
        let port = everywhere.local_addr().unwrap().port();
        let at = SocketAddr::from((Ipv4Addr::new(127, 98, 7, 6), port));
        assert!(stable(at, &[], false).is_err(), "it is no port of the front");
        let own = stable(at, &[port], false).unwrap();
        let connection = TcpStream::connect(at).unwrap();
        own.set_nonblocking(false).unwrap();
        assert_eq!(own.accept().unwrap().1, connection.local_addr().unwrap());
        let free = SocketAddr::from((Ipv4Addr::new(240, 98, 7, 6), port));
        assert!(stable(free, &[port], true).is_ok(), "containers reach it there too");
        assert!(front((Ipv4Addr::UNSPECIFIED, port).into()).is_err(), "nobody else has it too");
    }
}
