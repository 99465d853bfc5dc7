// SPDX-License-Identifier: GPL-2.0

//! Cookies of requests (RFC 6265).

use super::Head;

impl<'a> Head<'a> {
    /// The value of the first cookie of this name, without quotes. Names have a case (section 4.1.1);
    /// what is no pair of name and value is passed over, as servers do (section 5.4 lets clients send
    /// what they were given).
    #[must_use]
    pub fn cookie(&self, name: &[u8]) -> Option<&'a [u8]> {
        self.raw
            .split(|byte| *byte == b'\n')
            .skip(1)
            .filter_map(|line| {
                let colon = line.iter().position(|byte| *byte == b':')?;
                let (header, value) = line.split_at_checked(colon)?;
                header
                    .eq_ignore_ascii_case(b"cookie")
                    .then_some(value.get(1..)?)
            })
            .flat_map(|cookies| cookies.split(|byte| *byte == b';'))
            .find_map(|pair| {
                let pair = pair.trim_ascii();
                let equals = pair.iter().position(|byte| *byte == b'=')?;
                let (found, value) = pair.split_at_checked(equals)?;
                (found.trim_ascii_end() == name).then(|| unquoted(value.get(1..).unwrap_or(&[])))
            })
    }
}

/// A cookie's value without the quotes that it may be in (section 4.1.1).
fn unquoted(value: &[u8]) -> &[u8] {
    match value.trim_ascii_start() {
        [b'"', value @ .., b'"'] => value,
        value => value,
    }
}

/// Whether a cookie can have this name: a token (RFC 9110, section 5.6.2).
#[must_use]
pub fn check_cookie(name: &[u8]) -> bool {
    !name.is_empty()
        && name
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{parse, Parsed};
    use std::{format, string::String};

    fn value(lines: &str, name: &str) -> Option<String> {
        let head = format!("GET /a=path HTTP/1.1\r\nHost: h\r\n{lines}\r\n");
        let Parsed::Head(head) = parse(head.as_bytes()) else {
            panic!("{lines:?} makes no head");
        };
        head.cookie(name.as_bytes())
            .map(|value| String::from_utf8(value.into()).unwrap())
    }

    #[test]
    fn it_is_found_by_its_whole_name() {
        let lines = "Cookie: node=fr; nod=1; other=2\r\n";
        assert_eq!(value(lines, "node").as_deref(), Some("fr"));
        assert_eq!(value(lines, "nod").as_deref(), Some("1"));
        assert_eq!(value(lines, "other").as_deref(), Some("2"));
        for name in ["no", "Node", "node=", "fr", "a"] {
            assert_eq!(value(lines, name), None);
        }
    }

    #[test]
    fn only_cookies_are_looked_at() {
        assert_eq!(
            value("X-Cookie: node=fr\r\nSet-Cookie: node=fr\r\n", "node"),
            None
        );
        assert_eq!(value("", "node"), None);
    }

    #[test]
    fn the_first_counts_in_whatever_line() {
        let lines = "cOOKIE:a=1;node=de\r\nHost-Not: x\r\nCookie: node=fr\r\n";
        assert_eq!(value(lines, "node").as_deref(), Some("de"));
    }

    #[test]
    fn odd_ones_are_passed_over() {
        for (lines, found) in [
            ("Cookie: ; ;=; node; node=fr", "fr"),
            ("Cookie:   node = fr  ;", "fr"),
            ("Cookie: node=\"fr\"", "fr"),
            ("Cookie: node=\"", "\""),
            ("Cookie: node=", ""),
            ("Cookie: node=a=b", "a=b"),
        ] {
            assert_eq!(
                value(&format!("{lines}\r\n"), "node").as_deref(),
                Some(found)
            );
        }
    }

    #[test]
    fn names_are_tokens() {
        assert!(check_cookie(b"JSESSIONID") && check_cookie(b"a.b-c_d"));
        for name in [&b""[..], b"a b", b"a=b", b"a;b", b"\"a\"", b"a\n", b"\xe9"] {
            assert!(!check_cookie(name));
        }
    }
}
