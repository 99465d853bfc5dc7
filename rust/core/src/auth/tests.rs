// SPDX-License-Identifier: GPL-2.0

//! Tests of the signatures.

use super::*;
use crate::{
    tuple::Tuple,
    wire::{
        Body,
        Handoff,
        Hello,
        Name,
        Refused,
        NONCE_LEN, //
    },
};
use core::convert::Infallible;
use hmac::{
    Hmac,
    Mac, //
};
use proptest::prelude::*;
use std::vec::Vec;

/// A key as the crates of the host have it.
#[derive(Clone)]
struct HostKey([u8; 32]);

impl Key for HostKey {
    type Error = Infallible;

    fn tag(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut mac = Hmac::<sha2::Sha256>::new_from_slice(&self.0).unwrap();
        for part in parts {
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }

    fn derive(&self, parts: &[&[u8]]) -> Result<Self, Infallible> {
        Ok(Self(self.tag(parts)))
    }

    fn same(a: &[u8; TAG_LEN], b: &[u8; TAG_LEN]) -> bool {
        a == b
    }
}

/// Bytes that count up.
fn counting<const N: usize>(from: u8) -> [u8; N] {
    core::array::from_fn(|i| from + i as u8)
}

fn hello(epoch: u64, name: &str, nonce: [u8; NONCE_LEN]) -> [u8; HELLO_LEN] {
    let mut out = [0; HELLO_LEN];
    let hello = Record::Hello(Hello {
        epoch,
        name: Name::new(name.as_bytes()).unwrap(),
        nonce,
        signs: true,
    });
    assert_eq!(hello.encode(&mut out), Some(HELLO_LEN));
    out
}

const OLD: (u8, HostKey) = (7, HostKey([100; 32]));
const NEW: (u8, HostKey) = (8, HostKey([1; 32]));

/// What both nodes have.
fn find<'k>(keys: &'k [(u8, HostKey)]) -> impl Fn(u8) -> Option<&'k HostKey> {
    |id| Some(&keys.iter().find(|(other, _)| *other == id)?.1)
}

/// Both ends of a connection, which have said HELLO with these nonces.
fn ends(connector: u8, acceptor: u8) -> (Session<HostKey>, Session<HostKey>) {
    let en = hello(1, "en", counting(connector));
    let fr = hello(2, "fr", counting(acceptor));
    (
        Session::new(End::Connector, en, fr),
        Session::new(End::Acceptor, fr, en),
    )
}

/// The same, and the connector has proved that it has the key.
fn proven(connector: u8, acceptor: u8) -> (Session<HostKey>, Session<HostKey>) {
    let (mut a, mut b) = ends(connector, acceptor);
    let signed = a.sign_with(OLD.0, &OLD.1).unwrap();
    assert_eq!(opened(&mut b, &signed), Ok(Some(OLD.0)));
    (a, b)
}

fn abort(id: u64) -> Vec<u8> {
    let mut out = std::vec![0; 52];
    let record = Record::Handoff(Handoff {
        id,
        tuple: Tuple::v4([192, 0, 2, 1], 4711, [10, 0, 0, 2], 80),
        body: Body::Abort,
    });
    assert_eq!(record.encode(&mut out), Some(52));
    out
}

/// A record with its tag.
fn sealed(session: &mut Session<HostKey>, record: &[u8]) -> Vec<u8> {
    let tag = session.seal(record).unwrap();
    [record, &tag].concat()
}

fn opened(session: &mut Session<HostKey>, bytes: &[u8]) -> Result<Option<u8>, Fault<Infallible>> {
    let cut = cut(bytes, true).unwrap().unwrap();
    assert!(cut.rest.is_empty());
    session.open(cut.record, cut.tag, find(&[OLD, NEW]))
}

fn bytes(hex: &str) -> Vec<u8> {
    let digit = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    (0..hex.len()).step_by(2).map(digit).collect()
}

/// The values were computed by Python's `hmac`, from the layout in the document.
#[test]
fn tags_are_those_of_the_document() {
    let (mut a, mut b) = ends(0, 32);
    let key = HostKey(counting(100));
    let signed = a.sign_with(7, &key).unwrap();
    assert_eq!(signed[..KEY_LEN], [5, 10, 0, 12, 0, 0, 0, 0, 7, 0, 0, 0]);
    assert_eq!(signed[KEY_LEN..], bytes("5bf58899d2cd6120cb43037a32ac82e5"));
    let tag = a.seal(&abort(9)).unwrap();
    assert_eq!(tag[..], bytes("f9ae56b2e2895cfd6549626cef344b47"));
    let signed = a.sign_with(8, &HostKey(counting(0))).unwrap();
    assert_eq!(signed[KEY_LEN..], bytes("1ce2fb1fb37a91d01c682177585a4583"));
    // The other direction has a key of its own.
    let signed = b.sign_with(7, &key).unwrap();
    assert_eq!(signed[KEY_LEN..], bytes("8e6ab4dbc09d98a88203aea20a27a000"));
}

#[test]
fn both_ends_agree() {
    let (mut a, mut b) = ends(1, 2);
    assert!(!a.is_proven() && !b.is_proven());
    let (from_a, from_b) = (
        a.sign_with(OLD.0, &OLD.1).unwrap(),
        b.sign_with(NEW.0, &NEW.1).unwrap(),
    );
    // Each signs with the key that it likes.
    assert_eq!(opened(&mut b, &from_a), Ok(Some(OLD.0)));
    assert_eq!(opened(&mut a, &from_b), Ok(Some(NEW.0)));
    assert!(a.is_proven() && b.is_proven());
    for id in 0..20 {
        let record = sealed(&mut a, &abort(id));
        assert_eq!(opened(&mut b, &record), Ok(None));
        let record = sealed(&mut b, &abort(id));
        assert_eq!(opened(&mut a, &record), Ok(None));
    }
}

#[test]
fn nothing_is_believed_before_the_proof() {
    let (mut a, mut b) = ends(1, 2);
    assert_eq!(a.seal(&abort(1)), None);
    let signed = a.sign_with(OLD.0, &OLD.1).unwrap();
    let record = sealed(&mut a, &abort(1));
    assert_eq!(opened(&mut b, &record), Err(Fault::Unproven));
    // A key of the right number with other bytes, one that is not here, one that was changed.
    let mut other = ends(1, 2).0;
    let wrong = other.sign_with(OLD.0, &NEW.1).unwrap();
    assert_eq!(opened(&mut b, &wrong), Err(Fault::Unproven));
    let unknown = other.sign_with(99, &NEW.1).unwrap();
    assert_eq!(opened(&mut b, &unknown), Err(Fault::UnknownKey));
    let mut spoilt = signed;
    spoilt[KEY_LEN] ^= 1;
    assert_eq!(opened(&mut b, &spoilt), Err(Fault::Unproven));
    assert!(!b.is_proven());
    // After all that it still could be proved: whoever asks closes the connection.
    assert_eq!(opened(&mut b, &signed), Ok(Some(OLD.0)));
}

#[test]
fn a_proof_is_good_for_one_connection() {
    let (mut a, _) = ends(1, 2);
    let signed = a.sign_with(OLD.0, &OLD.1).unwrap();
    // The acceptor draws another nonce; the connector's HELLO is said again.
    let (_, mut later) = ends(1, 3);
    assert_eq!(opened(&mut later, &signed), Err(Fault::Unproven));
    // It does not go back to where it came from, either.
    let (mut a, _) = ends(1, 2);
    let signed = a.sign_with(OLD.0, &OLD.1).unwrap();
    assert_eq!(opened(&mut a, &signed), Err(Fault::Unproven));
}

#[test]
fn each_fault_has_its_name() {
    let (mut a, mut b) = proven(1, 2);
    let first = sealed(&mut a, &abort(1));
    let second = sealed(&mut a, &abort(2));
    let third = sealed(&mut a, &abort(3));
    assert_eq!(opened(&mut b, &second), Err(Fault::Reordered));
    assert_eq!(opened(&mut b, &first), Ok(None));
    assert_eq!(opened(&mut b, &first), Err(Fault::Replayed));
    assert_eq!(opened(&mut b, &third), Err(Fault::Reordered));
    assert_eq!(opened(&mut b, &second), Ok(None));
    let mut spoilt = third.clone();
    spoilt[20] ^= 1;
    assert_eq!(opened(&mut b, &spoilt), Err(Fault::Forged));
    let foreign = sealed(&mut proven(1, 9).0, &abort(3));
    assert_eq!(opened(&mut b, &foreign), Err(Fault::Forged));
    assert_eq!(opened(&mut b, &third), Ok(None));
}

#[test]
fn keys_change_on_the_way() {
    let (mut a, mut b) = proven(1, 2);
    let before = sealed(&mut a, &abort(1));
    let change = a.sign_with(NEW.0, &NEW.1).unwrap();
    let after = sealed(&mut a, &abort(2));
    assert_eq!(opened(&mut b, &change), Err(Fault::Reordered));
    assert_eq!(opened(&mut b, &before), Ok(None));
    // Nothing is signed with the new key before the KEY that says so.
    assert_eq!(opened(&mut b, &after), Err(Fault::Forged));
    assert_eq!(opened(&mut b, &change), Ok(Some(NEW.0)));
    assert_eq!(opened(&mut b, &change), Err(Fault::Replayed));
    assert_eq!(opened(&mut b, &after), Ok(None));
    // A KEY needs the key that it names.
    let mut other = proven(1, 2).0;
    for id in 0..3 {
        sealed(&mut other, &abort(id));
    }
    let wrong = other.sign_with(OLD.0, &HostKey([9; 32])).unwrap();
    assert_eq!(opened(&mut b, &wrong), Err(Fault::Forged));
    let unknown = other.sign_with(200, &HostKey([9; 32])).unwrap();
    assert_eq!(opened(&mut b, &unknown), Err(Fault::UnknownKey));
}

#[test]
fn a_stream_is_cut_into_records() {
    let (mut a, _) = proven(1, 2);
    let one = sealed(&mut a, &abort(1));
    let stream = [&one[..], &sealed(&mut a, &abort(2))].concat();
    for short in 0..one.len() {
        assert_eq!(cut(&stream[..short], true), Ok(None));
    }
    let first = cut(&stream, true).unwrap().unwrap();
    assert_eq!([first.record, first.tag].concat(), one);
    assert_eq!(first.rest, &stream[one.len()..]);
    // Without tags what comes behind is the next record.
    let plain = cut(&stream, false).unwrap().unwrap();
    assert_eq!((plain.record, plain.rest), (&stream[..52], &stream[52..]));
    let mut long = abort(1);
    long[3] += 1;
    assert_eq!(cut(&long, true), Err(Refused::Oversize));
}

proptest! {
    /// Whatever is changed in a record or its tag, it is not believed.
    #[test]
    fn no_changed_record_is_believed(
        id: u64, before in 0u8..20, at in 0usize..68, bit in 0u8..8,
    ) {
        let (mut a, mut b) = proven(1, 2);
        for _ in 0..before {
            let record = sealed(&mut a, &abort(0));
            prop_assert_eq!(opened(&mut b, &record), Ok(None));
        }
        let whole = sealed(&mut a, &abort(id));
        let (mut record, mut tag) = (whole[..52].to_vec(), [0; TAG_LEN]);
        tag.copy_from_slice(&whole[52..]);
        match record.get_mut(at) {
            Some(byte) => *byte ^= 1 << bit,
            None => tag[at - 52] ^= 1 << bit,
        }
        prop_assert!(b.open(&record, &tag, find(&[OLD, NEW])).is_err());
        prop_assert_eq!(opened(&mut b, &whole), Ok(None));
    }

    /// Of all orders in which records may come, the one in which they were sent is believed, as
    /// far as it goes.
    #[test]
    fn only_the_right_order_is_believed(
        order in prop::collection::vec(0usize..12, 1..30),
    ) {
        let (mut a, mut b) = proven(1, 2);
        let records: Vec<_> = (0..12).map(|id| sealed(&mut a, &abort(id))).collect();
        let mut next = 0;
        for which in order {
            let result = opened(&mut b, &records[which]);
            prop_assert_eq!(result.is_ok(), which == next);
            if which == next {
                next += 1;
            } else {
                let expected = match which {
                    _ if which.abs_diff(next) > NEAR as usize => Fault::Forged,
                    // The KEY was number 0.
                    _ if which < next => Fault::Replayed,
                    _ => Fault::Reordered,
                };
                prop_assert_eq!(result, Err(expected));
            }
        }
    }

    #[test]
    fn no_bytes_are_too_odd(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let (_, mut b) = proven(1, 2);
        for signed in [false, true] {
            let _ = cut(&bytes, signed);
        }
        let believed = b.open(&bytes, &[0; TAG_LEN], find(&[OLD, NEW])).is_ok();
        prop_assert!(!believed);
    }
}
