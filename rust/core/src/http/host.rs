// SPDX-License-Identifier: GPL-2.0

//! Hosts of requests.

use crate::class::Class;

/// The host in `value`, a Host header or an authority: without port and one trailing dot, which
/// make no other host of it. `Some(None)` if it is empty, `None` if it is not a host at all.
///
/// Names are letters, digits, dots, dashes and underscores without empty labels, addresses IPv4
/// or in brackets. RFC 3986, section 3.2.2, allows more; no server is known by it, and userinfo
/// (`user@host`) is not allowed in HTTP (RFC 9110, section 4.2.4).
pub(crate) fn host_of(value: &[u8]) -> Option<Option<&[u8]>> {
    if value.is_empty() {
        return Some(None);
    }
    let (host, rest) = match value {
        [b'[', ..] => in_brackets(value)?,
        _ => name(value)?,
    };
    let is_port = match rest {
        [] => true,
        [b':', port @ ..] => port.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    is_port.then_some(Some(host))
}

/// The name, or IPv4 address, at the beginning of `value`, without a trailing dot; and what follows it.
fn name(value: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut before = Class::Dot;
    let mut len = 0;
    for &byte in value {
        match Class::of(byte) {
            Class::Dot if before == Class::Dot => return None,
            class @ (Class::Name | Class::Dot) => before = class,
            _ => break,
        }
        len += 1;
    }
    let (name, rest) = value.split_at_checked(len)?;
    match name {
        [] => None,
        [name @ .., b'.'] => Some((name, rest)),
        _ => Some((name, rest)),
    }
}

/// The address in brackets at the beginning of `value`, and what follows it.
fn in_brackets(value: &[u8]) -> Option<(&[u8], &[u8])> {
    let len = value.iter().position(|byte| *byte == b']')? + 1;
    let (host, rest) = value.split_at_checked(len)?;
    let addr = host.get(1..len - 1)?;
    let is_addr = |byte: &u8| byte.is_ascii_hexdigit() || b":.".contains(byte);
    (!addr.is_empty() && addr.iter().all(is_addr)).then_some((host, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_read() {
        let good: [(&[u8], &[u8]); 11] = [
            (b"a", b"a"),
            (b"www.Example", b"www.Example"),
            (b"www.example:80", b"www.example"),
            (b"www.example:", b"www.example"),
            (b"www.example.:8080", b"www.example"),
            (b"www.example.", b"www.example"),
            (b"a_b-c.d", b"a_b-c.d"),
            (b"192.0.2.1:80", b"192.0.2.1"),
            (b"[::1]", b"[::1]"),
            (b"[::1]:80", b"[::1]"),
            (b"[::ffff:192.0.2.1]", b"[::ffff:192.0.2.1]"),
        ];
        for (value, host) in good {
            assert_eq!(host_of(value), Some(Some(host)), "{}", value.escape_ascii());
        }
        assert_eq!(host_of(b""), Some(None));
        let bad: [&[u8]; 20] = [
            b":80", b".", b"..", b"a..b", b".a", b"a..", b"a b", b"a,b", b"a/b", b"u@a", b"a:b",
            b"a:80:80", b"::1", b"[::1", b"[]", b"[::1]x", b"[::g]", b"a%2e", b"a\xc3", b"a\0",
        ];
        for value in bad {
            assert_eq!(host_of(value), None, "{}", value.escape_ascii());
        }
    }
}
