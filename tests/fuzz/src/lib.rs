// SPDX-License-Identifier: GPL-2.0

//! What the fuzz targets have in common: second opinions on headers and checksums, written as one
//! would write them first.

use carisma_core::tcp::Build;

/// The source of every packet here.
pub const SRC: [u8; 4] = [192, 0, 2, 1];

/// The destination of every packet here.
pub const DST: [u8; 4] = [198, 51, 100, 1];

/// The ones' complement sum of `bytes` (RFC 1071).
#[must_use]
pub fn sum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for (at, byte) in bytes.iter().enumerate() {
        sum += u32::from(*byte) << (8 * (1 - at % 2));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// What the check field of a TCP segment between IPv4 addresses should hold; that of a
/// `CHECKSUM_PARTIAL` packet if `partial`.
#[must_use]
pub fn check(src: [u8; 4], dst: [u8; 4], segment: &[u8], partial: bool) -> u16 {
    let len = segment.len() as u16;
    let mut bytes = [&src[..], &dst, &[0, 6], &len.to_be_bytes()].concat();
    if partial {
        return sum(&bytes);
    }
    bytes.extend_from_slice(&segment[..16]);
    bytes.extend_from_slice(&[0, 0]);
    bytes.extend_from_slice(&segment[18..]);
    !sum(&bytes)
}

/// Gives a TCP segment from [`SRC`] to [`DST`] the right checksum.
pub fn set_check(segment: &mut [u8], partial: bool) {
    let sum = check(SRC, DST, segment, partial);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
}

/// The 32 bits at `at`.
#[must_use]
pub fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// The length of the TCP header at the beginning of `segment`, if it is whole.
#[must_use]
pub fn header_len(segment: &[u8]) -> Option<usize> {
    let len = usize::from(segment.get(12)? >> 4) * 4;
    (len >= 20 && len <= segment.len()).then_some(len)
}

/// The options of a whole TCP header: where each lies, its kind, and its data. `None` if they
/// cannot be walked.
#[must_use]
pub fn options(header: &[u8]) -> Option<Vec<(usize, u8, &[u8])>> {
    let mut found = Vec::new();
    let mut at = 20;
    while at < header.len() && header[at] != 0 {
        if header[at] == 1 {
            at += 1;
            continue;
        }
        let len = usize::from(*header.get(at + 1)?);
        if len < 2 {
            return None;
        }
        found.push((at, header[at], header.get(at + 2..at + len)?));
        at += len;
    }
    Some(found)
}

/// A TCP header of `build`'s fixed part with any bytes as options.
#[must_use]
pub fn raw(build: &Build, options: &[u8]) -> Vec<u8> {
    let mut header = written(&Build {
        options: Default::default(),
        ..*build
    });
    header.extend_from_slice(&options[..options.len().min(40)]);
    header.resize(header.len().next_multiple_of(4), 0);
    header[12] = (header[12] & 0xf) | (header.len() / 4 * 16) as u8;
    set_check(&mut header, false);
    header
}

/// The header that `build` writes, from [`SRC`] to [`DST`].
#[must_use]
pub fn written(build: &Build) -> Vec<u8> {
    let mut out = [0; 60];
    let (src, dst) = (
        carisma_core::tuple::v4_mapped(SRC),
        carisma_core::tuple::v4_mapped(DST),
    );
    let len = build.write(&mut out, &src, &dst, &[]).unwrap();
    assert_eq!(len, build.header_len());
    let header = out[..len].to_vec();
    assert_eq!(
        be32(&header, 16) >> 16,
        check(SRC, DST, &header, false).into()
    );
    header
}
