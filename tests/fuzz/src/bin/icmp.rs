// SPDX-License-Identifier: GPL-2.0

//! ICMP errors about TCP segments: found where a plainer reader finds them, and rewritten so that
//! every checksum is as right or wrong as before. The input is who the segment is to be of, by how
//! much its number grows, and a packet; of IPv6, if that says so.

#![no_main]

use carisma_core::{
    icmp::Error,
    tuple::{
        v4_mapped,
        Addr, //
    },
};
use carisma_fuzz::{
    be32,
    sum, //
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: ([u8; 4], u16, u32, bool, &[u8])| {
    let (bytes, port, delta, partial, packet) = input;
    let v6 = packet.first().is_some_and(|first| first >> 4 == 6);
    let error = Error::parse(packet);
    let found = if v6 { find_v6(packet) } else { find(packet) };
    assert_eq!(error.is_some(), found.is_some());
    let (Some(error), Some(found)) = (error, found) else {
        return;
    };
    let Found { icmp, ip, tcp, end } = found;
    let (src, dst, len) = if v6 { (8, 24, 16) } else { (12, 16, 4) };
    let read = |at: usize| -> Addr {
        match packet[at..at + len].try_into() {
            Ok(addr) => addr,
            Err(_) => v4_mapped(packet[at..at + len].try_into().unwrap()),
        }
    };
    let ends = be32(packet, tcp);
    let source = (read(ip + src), (ends >> 16) as u16);
    let destination = (read(ip + dst), ends as u16);
    assert_eq!((error.source(), error.destination()), (source, destination));
    let sound = read(dst) == source.0 && end >= tcp + 8;
    assert_eq!(error.is_sound(), sound);

    let wide = [bytes; 4].concat().try_into().unwrap();
    let (addr, other) = match v6 {
        true => (wide, v4_mapped(bytes)),
        false => (v4_mapped(bytes), [0x20; 16]),
    };
    let mut out = packet.to_vec();
    assert!(error
        .rewrite(&mut out, (other, port), delta, partial)
        .is_err());
    let done = error.rewrite(&mut out, (addr, port), delta, partial);
    assert_eq!(done.is_ok(), sound);
    if !sound {
        assert_eq!(out, packet);
        return;
    }
    let mut expected = packet.to_vec();
    expected[dst..dst + len].copy_from_slice(&addr[16 - len..]);
    expected[ip + src..ip + src + len].copy_from_slice(&addr[16 - len..]);
    expected[tcp..tcp + 2].copy_from_slice(&port.to_be_bytes());
    let seq = be32(packet, tcp + 4).wrapping_add(delta);
    expected[tcp + 4..tcp + 8].copy_from_slice(&seq.to_be_bytes());
    // The checksums are judged by what they cover.
    let mut checks = Vec::new();
    if !v6 {
        checks.extend([10, ip + 10]);
    }
    if v6 || !partial {
        checks.push(icmp + 2);
    }
    if end >= tcp + 18 {
        checks.push(tcp + 16);
    }
    for at in checks {
        expected[at..at + 2].copy_from_slice(&out[at..at + 2]);
    }
    assert_eq!(out, expected);

    let said = |at: usize| usize::from(u16::from_be_bytes([packet[at], packet[at + 1]]));
    let total = match (v6, said(4)) {
        (false, _) => said(2),
        (true, 0) => packet.len(),
        (true, len) => 40 + len,
    };
    let total = total.min(packet.len());
    let covered = |packet: &[u8]| {
        let mut sums = Vec::new();
        if !v6 {
            sums.extend([sum(&packet[..icmp]), sum(&packet[ip..tcp])]);
        }
        match (v6, partial) {
            (false, false) => sums.push(sum(&packet[icmp..total])),
            (false, true) => {}
            // The outer addresses are in it.
            (true, false) => {
                sums.push(sum(
                    &[&packet[dst..dst + len], &packet[icmp..total]].concat()
                ));
            }
            // They are all that is.
            (true, true) => {
                let mut bytes: Vec<u8> = packet[dst..dst + len].iter().map(|byte| !byte).collect();
                bytes.extend_from_slice(&packet[icmp + 2..icmp + 4]);
                sums.push(sum(&bytes));
            }
        }
        if end >= tcp + 18 {
            let fields = [ip + src..ip + src + len, tcp..tcp + 8, tcp + 16..tcp + 18];
            let bytes = fields.map(|field| &packet[field]).concat();
            sums.push(sum(&bytes));
        }
        // There are two zeros.
        sums.iter().map(|sum| sum % 0xffff).collect::<Vec<_>>()
    };
    assert_eq!(covered(&out), covered(packet));
});

/// Where things are in an error.
struct Found {
    icmp: usize,
    ip: usize,
    tcp: usize,
    end: usize,
}

/// The length of an IPv4 header, if there is a whole one.
fn header(bytes: &[u8]) -> Option<usize> {
    let len = usize::from(bytes.first()? & 15) * 4;
    (bytes[0] >> 4 == 4 && len >= 20 && len <= bytes.len()).then_some(len)
}

/// Reads an error as one would first.
fn find(packet: &[u8]) -> Option<Found> {
    let icmp = header(packet)?;
    let total = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
    if packet[9] != 1 || packet[6] & 0x3f != 0 || packet[7] != 0 || total < icmp {
        return None;
    }
    let packet = &packet[..total.min(packet.len())];
    let ip = icmp + 8;
    if packet.len() < ip || ![3, 11, 12].contains(&packet[icmp]) {
        return None;
    }
    let tcp = ip + header(&packet[ip..])?;
    if packet[ip + 9] != 6 || packet[ip + 6] & 0x1f != 0 || packet[ip + 7] != 0 {
        return None;
    }
    let end = match usize::from(packet[icmp + 5]) * 4 {
        0 => packet.len(),
        len => packet.len().min(ip + len),
    };
    (packet.len() >= tcp + 4).then_some(Found { icmp, ip, tcp, end })
}

/// As [`find`], of IPv6.
fn find_v6(packet: &[u8]) -> Option<Found> {
    let (icmp, protocol) = headers_v6(packet)?;
    let said = usize::from(u16::from_be_bytes([packet[4], packet[5]]));
    let total = if said == 0 { packet.len() } else { 40 + said };
    let kind = *packet
        .get(icmp..total.min(packet.len()).max(icmp))?
        .first()?;
    if total < icmp || protocol != 58 || !(1..=4).contains(&kind) {
        return None;
    }
    let packet = &packet[..total.min(packet.len())];
    let ip = icmp + 8;
    let (inner, protocol) = headers_v6(packet.get(ip..)?)?;
    let tcp = ip + inner;
    let end = match usize::from(packet[icmp + 4]) * 8 {
        len if len > 0 && matches!(kind, 1 | 3) => packet.len().min(ip + len),
        _ => packet.len(),
    };
    let first = first_only(&packet[..icmp]);
    (first && protocol == 6 && packet.len() >= tcp + 4).then_some(Found { icmp, ip, tcp, end })
}

/// The length of all headers of IPv6, and what they say that follows; `None` if TCP is not to be shown
/// what does.
fn headers_v6(bytes: &[u8]) -> Option<(usize, u8)> {
    if bytes.len() < 40 || bytes[0] >> 4 != 6 {
        return None;
    }
    let (mut at, mut next) = (40, bytes[6]);
    while [0, 43, 44, 60].contains(&next) {
        let header = bytes.get(at..)?;
        let len = match next {
            44 => {
                let word = header.get(2..4)?;
                if word[0] != 0 || word[1] & 0xf8 != 0 {
                    return None;
                }
                8
            }
            _ => (usize::from(*header.get(1)?) + 1) * 8,
        };
        if next == 43 && header.get(3).is_some_and(|&left| left != 0) {
            return None;
        }
        if header.len() < len {
            return None;
        }
        next = header[0];
        at += len;
    }
    Some((at, next))
}

/// Whether no fragment header among these says that more follow.
fn first_only(headers: &[u8]) -> bool {
    let (mut at, mut next) = (40, headers[6]);
    while at < headers.len() {
        let header = &headers[at..];
        if next == 44 && header[3] & 1 != 0 {
            return false;
        }
        at += if next == 44 {
            8
        } else {
            (usize::from(header[1]) + 1) * 8
        };
        next = header[0];
    }
    true
}
