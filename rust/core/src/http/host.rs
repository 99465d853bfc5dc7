// SPDX-License-Identifier: GPL-2.0

//! Hosts of requests.

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
    let (host, port) = match value.iter().rposition(|byte| *byte == b':') {
        // A colon within brackets parts nothing.
        Some(at) if !value.ends_with(b"]") => {
            let (host, port) = value.split_at_checked(at)?;
            (host, port.get(1..)?)
        }
        _ => (value, &[][..]),
    };
    let valid = port.iter().all(u8::is_ascii_digit)
        && match host {
            [b'[', addr @ .., b']'] => {
                !addr.is_empty()
                    && addr
                        .iter()
                        .all(|byte| byte.is_ascii_hexdigit() || b":.".contains(byte))
            }
            _ => is_name(host),
        };
    let host = match host {
        [name @ .., b'.'] => name,
        _ => host,
    };
    valid.then_some(Some(host))
}

/// Whether `name` is a name, perhaps with a trailing dot, or an IPv4 address.
fn is_name(name: &[u8]) -> bool {
    let name = match name {
        [name @ .., b'.'] => name,
        _ => name,
    };
    name.split(|byte| *byte == b'.').all(|label| {
        !label.is_empty()
            && label
                .iter()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte))
    })
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
