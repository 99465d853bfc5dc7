// SPDX-License-Identifier: GPL-2.0

//! Records: what parses is encoded to the same bytes, and a stream of them is cut where it should
//! be. The input is such a stream; each record in it is also tried with a length that fits.

#![no_main]

use carisma_core::wire::{
    Header,
    Record,
    Refused,
    HEADER_LEN,
    MAX_LEN, //
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut rest = bytes;
    loop {
        let header = match Header::parse(rest) {
            Ok(header) => header,
            Err(refused) => {
                assert_eq!(refused == Refused::Short, rest.len() < HEADER_LEN);
                // Nothing is made of what has no header.
                assert_eq!(Record::parse(rest), Err(refused));
                break;
            }
        };
        let (min, max) = header.kind.len_range();
        assert!(header.len >= min && header.len <= max && min >= HEADER_LEN);
        let Some((record, more)) = rest.split_at_checked(header.len) else {
            assert_eq!(Record::parse(rest), Err(Refused::Length));
            break;
        };
        one(record);
        if !more.is_empty() {
            assert_eq!(Record::parse(rest), Err(Refused::Length));
        }
        rest = more;
    }
    // What a mutation of the length would keep from being looked at.
    if rest.len() >= HEADER_LEN {
        let mut owned = rest[..rest.len().min(MAX_LEN)].to_vec();
        let len = owned.len() as u16;
        owned[2..4].copy_from_slice(&len.to_be_bytes());
        one(&owned);
    }
});

/// One record, and nothing else.
fn one(bytes: &[u8]) {
    let Ok(record) = Record::parse(bytes) else {
        return;
    };
    assert_eq!(record.encoded_len(), bytes.len());
    let mut out = vec![0xee; bytes.len() + 1];
    assert_eq!(record.encode(&mut out), Some(bytes.len()));
    assert_eq!((&out[..bytes.len()], out[bytes.len()]), (bytes, 0xee));
    assert_eq!(record.encode(&mut out[..bytes.len() - 1]), None);
    let header = Header::parse(bytes).unwrap();
    assert_eq!((header.kind, header.len), (record.kind(), bytes.len()));
}
