// SPDX-License-Identifier: GPL-2.0

//! The listening TCP sockets of this network namespace, with what is attached to them, as `ss -tlie`
//! has them: from the kernel's `sock_diag` (linux/inet_diag.h).

use netlink_sys::{protocols::NETLINK_SOCK_DIAG, Socket, SocketAddr as Port};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// What the upper layer protocol of an attached listener is called.
const ULP: &str = "carisma";

/// A listener.
#[derive(Debug, PartialEq)]
pub struct Listener {
    at: SocketAddr,
    /// It does not take IPv4.
    v6_only: bool,
    ulp: Option<String>,
}

impl Listener {
    /// Whether it takes connections to this address and port.
    pub fn takes(&self, to: SocketAddr) -> bool {
        let any = match (self.at.ip(), to.ip()) {
            (IpAddr::V4(at), IpAddr::V4(_)) => at.is_unspecified(),
            (IpAddr::V6(at), IpAddr::V6(_)) => at.is_unspecified(),
            (IpAddr::V6(at), IpAddr::V4(to)) => {
                !self.v6_only && (at.is_unspecified() || at.to_ipv4_mapped() == Some(to))
            }
            (IpAddr::V4(_), IpAddr::V6(_)) => false,
        };
        self.at.port() == to.port() && (any || self.at.ip() == to.ip())
    }

    /// Why it is not attached, if it is not.
    pub fn why_not(&self) -> Option<String> {
        match self.ulp.as_deref() {
            Some(ULP) => None,
            Some("mptcp") => Some("it is one of Multipath TCP".to_owned()),
            Some(ulp) => Some(format!("it has the upper layer protocol {ulp}")),
            None => Some("carisma_utcp has not taken it".to_owned()),
        }
    }
}

// linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h, include/net/tcp_states.h
const HEADER_LEN: usize = 16;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const REQUEST_DUMP: u16 = 0x301;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const IPPROTO_TCP: u8 = 6;
const TCP_LISTEN: u32 = 10;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const MESSAGE_LEN: usize = 72;
/// Asks for what brings the upper layer protocol along.
const INFO: u8 = 2;
const SKV6ONLY: u16 = 11;
const ULP_INFO: u16 = 19;
const ULP_INFO_NAME: u16 = 1;

/// All listeners.
pub fn list() -> io::Result<Vec<Listener>> {
    let mut list = Vec::new();
    for family in [AF_INET, AF_INET6] {
        let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
        socket.bind_auto()?;
        socket.connect(&Port::new(0, 0))?;
        socket.send(&request(family), 0)?;
        while !read(&socket.recv_from_full()?.0, &mut list)? {}
    }
    Ok(list)
}

/// Asks for the listeners of an address family: struct nlmsghdr and struct inet_diag_req_v2.
fn request(family: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(72_u32.to_ne_bytes());
    bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend(REQUEST_DUMP.to_ne_bytes());
    bytes.extend([0; 8]); // Number and port.
    bytes.extend([family, IPPROTO_TCP, 1 << (INFO - 1), 0]);
    bytes.extend((1_u32 << TCP_LISTEN).to_ne_bytes());
    bytes.extend([0; 48]); // Any socket.
    bytes
}

/// Reads a datagram; whether it was the last one.
fn read(mut bytes: &[u8], list: &mut Vec<Listener>) -> io::Result<bool> {
    let malformed = || io::Error::other("the kernel's answer about sockets cannot be read");
    while bytes.len() >= HEADER_LEN {
        let len = u32_at(bytes, 0).ok_or_else(malformed)? as usize;
        let kind = u16_at(bytes, 4).ok_or_else(malformed)?;
        let body = bytes.get(HEADER_LEN..len).ok_or_else(malformed)?;
        match kind {
            NLMSG_DONE => return Ok(true),
            NLMSG_ERROR => {
                let error = u32_at(body, 0).ok_or_else(malformed)?;
                let errno = i32::try_from(error.wrapping_neg()).unwrap_or(0);
                return Err(io::Error::from_raw_os_error(errno));
            }
            _ => list.push(listener(body).ok_or_else(malformed)?),
        }
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// A struct inet_diag_msg and its attributes.
fn listener(body: &[u8]) -> Option<Listener> {
    let addr: IpAddr = match *body.first()? {
        AF_INET => Ipv4Addr::from(*body.get(8..)?.first_chunk::<4>()?).into(),
        _ => Ipv6Addr::from(*body.get(8..)?.first_chunk::<16>()?).into(),
    };
    let port = u16::from_be_bytes(*body.get(4..)?.first_chunk()?);
    let attrs = body.get(MESSAGE_LEN..)?;
    let name = attr(attrs, ULP_INFO).and_then(|info| attr(info, ULP_INFO_NAME));
    Some(Listener {
        at: SocketAddr::new(addr, port),
        v6_only: attr(attrs, SKV6ONLY).is_some_and(|value| value.first() == Some(&1)),
        ulp: name.map(|name| {
            let text = String::from_utf8_lossy(name);
            text.trim_end_matches('\0').to_owned()
        }),
    })
}

/// The value of an attribute.
fn attr(mut attrs: &[u8], wanted: u16) -> Option<&[u8]> {
    const KIND_MASK: u16 = 0x3fff;
    loop {
        let len = usize::from(u16_at(attrs, 0)?);
        let value = attrs.get(4..len)?;
        if u16_at(attrs, 2)? & KIND_MASK == wanted {
            return Some(value);
        }
        attrs = attrs.get(len.next_multiple_of(4)..)?;
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener_at(at: &str, v6_only: bool) -> Listener {
        Listener {
            at: at.parse().unwrap(),
            v6_only,
            ulp: None,
        }
    }

    #[test]
    fn listeners_take_what_tcp_gives_them() {
        let to: SocketAddr = "10.0.0.1:80".parse().unwrap();
        for (at, v6_only, takes) in [
            ("10.0.0.1:80", false, true),
            ("0.0.0.0:80", false, true),
            ("[::]:80", false, true),
            ("[::]:80", true, false),
            ("[::ffff:10.0.0.1]:80", false, true),
            ("[2001:db8::1]:80", false, false),
            ("10.0.0.2:80", false, false),
            ("0.0.0.0:81", false, false),
        ] {
            assert_eq!(listener_at(at, v6_only).takes(to), takes, "{at}");
        }
        let to = "[2001:db8::1]:80".parse().unwrap();
        assert!(listener_at("[::]:80", true).takes(to));
        assert!(!listener_at("0.0.0.0:80", false).takes(to));
    }

    #[test]
    fn answers_are_read() {
        let mut body = vec![AF_INET, 10, 0, 0, 0, 80, 0, 0, 10, 0, 0, 1];
        body.resize(MESSAGE_LEN, 0);
        // INET_DIAG_SHUTDOWN, then the name in its nest.
        body.extend([5, 0, 8, 0, 0, 0, 0, 0]);
        body.extend([16, 0, 19, 0x80, 12, 0, 1, 0]);
        body.extend(b"carisma\0");
        let mut bytes = u32::try_from(HEADER_LEN + body.len())
            .unwrap()
            .to_ne_bytes()
            .to_vec();
        bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(&body);
        let mut list = Vec::new();
        assert!(!read(&bytes, &mut list).unwrap());
        assert_eq!(list.len(), 1);
        assert_eq!(list[0].at, "10.0.0.1:80".parse().unwrap());
        assert_eq!(list[0].why_not(), None);
        assert!(read(&bytes[..40], &mut list).is_err());
        assert!(listener_at("10.0.0.1:80", false).why_not().is_some());
        // NLMSG_DONE.
        assert!(read(
            &[20, 0, 0, 0, 3, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            &mut list
        )
        .unwrap());
        assert_eq!(request(AF_INET).len(), 72);
    }
}
