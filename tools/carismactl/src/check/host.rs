// SPDX-License-Identifier: GPL-2.0

//! Interfaces, settings and ways of this network namespace.

use nix::{
    errno::Errno,
    ifaddrs::getifaddrs,
    net::if_::InterfaceFlags,
    poll::{poll, PollFd, PollFlags, PollTimeout},
    sys::socket::{
        bind, connect, getsockopt, socket, sockopt::SocketError, AddressFamily, SockFlag, SockType,
        SockaddrStorage,
    },
};
use std::{
    fs, io,
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::{AsFd, AsRawFd},
};

/// Milliseconds that another node may take to answer.
const PATIENCE_MS: u16 = 1_000;

/// An address of an interface.
#[derive(Debug)]
pub struct Interface {
    pub name: String,
    pub addr: IpAddr,
    pub mtu: u32,
    /// It does ARP. The loopback and dummy devices do not.
    pub arp: bool,
}

/// All addresses of all interfaces.
pub fn interfaces() -> io::Result<Vec<Interface>> {
    Ok(getifaddrs()?
        .filter_map(|it| {
            let addr = it.address?;
            let ipv4 = addr.as_sockaddr_in().map(|it| IpAddr::from(it.ip()));
            let addr = ipv4.or_else(|| Some(addr.as_sockaddr_in6()?.ip().into()))?;
            let name = device(&it.interface_name).to_owned();
            let mtu = number(&format!("/sys/class/net/{name}/mtu"));
            let quiet = InterfaceFlags::IFF_LOOPBACK | InterfaceFlags::IFF_NOARP;
            Some(Interface {
                arp: !it.flags.intersects(quiet),
                mtu: mtu.unwrap_or(0),
                name,
                addr,
            })
        })
        .collect())
}

/// The interface that an address is of. glibc gives the address's label, which is the interface's name and,
/// if it has one of its own, that behind a colon.
fn device(label: &str) -> &str {
    label.split(':').next().unwrap_or(label)
}

fn number(path: &str) -> Option<u32> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// A setting of an interface, one of those of which the kernel takes the larger of two: `rp_filter`,
/// `arp_ignore`, `arp_announce`.
pub fn setting(interface: &str, what: &str) -> u32 {
    let of = |name| number(&format!("/proc/sys/net/ipv4/conf/{name}/{what}")).unwrap_or(0);
    of("all").max(of(interface))
}

/// Whether TCP takes the ACK that answers a SYN cookie, which it is given to adopt a connection.
pub fn adopts() -> bool {
    number("/proc/sys/net/ipv4/tcp_syncookies") != Some(0)
}

/// Our own address on the way to another.
pub fn way_to(addr: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = match addr {
        IpAddr::V4(_) => [0; 4].into(),
        IpAddr::V6(_) => [0; 16].into(),
    };
    // It sends nothing: the port is any.
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((addr, 9)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// Tries to connect from an address of ours, as the control connection does.
pub fn reach(from: IpAddr, to: SocketAddr) -> io::Result<()> {
    let family = match to {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let sock = socket(family, SockType::Stream, flags, None)?;
    let from = SocketAddr::new(from, 0);
    bind(sock.as_raw_fd(), &SockaddrStorage::from(from))?;
    match connect(sock.as_raw_fd(), &SockaddrStorage::from(to)) {
        Err(Errno::EINPROGRESS) => {}
        result => return Ok(result?),
    }
    let mut fds = [PollFd::new(sock.as_fd(), PollFlags::POLLOUT)];
    if poll(&mut fds, PollTimeout::from(PATIENCE_MS))? == 0 {
        return Err(Errno::ETIMEDOUT.into());
    }
    match getsockopt(&sock, SocketError)? {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_of_interfaces() {
        for (label, name) in [
            ("eth0", "eth0"),
            ("eth0:1", "eth0"),
            ("eth0.7:a:b", "eth0.7"),
        ] {
            assert_eq!(device(label), name);
        }
    }
}
