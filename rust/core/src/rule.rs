// SPDX-License-Identifier: GPL-2.0

//! Rules: which node answers for which host and path.
//!
//! The dispatcher of the paper (section 4, step 2, "make the routing decision").

use crate::path::{self, Reading};

/// A rule, as borrowed from whoever keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule<'a, T> {
    /// The host that it is for, as [`check_host`] allows it; `None` is any, and none.
    pub host: Option<&'a [u8]>,
    /// What the path begins with, byte by byte and decoded, as [`check_prefix`] allows it.
    pub prefix: &'a [u8],
    /// Where it leads.
    pub target: T,
}

/// A request that one server would read under one rule and the next under another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ambiguous;

/// Where a request for `host` and `path` leads, if any rule says so.
///
/// A rule with the request's host goes before one for any host; then the longest prefix counts,
/// then the first rule. `host` is that of [`crate::http::Head`], without port; case does not
/// matter. `path` is compared decoded and in all its readings (see [`crate::path`]); if they do
/// not agree, the caller should treat the request as one that no rule is for.
pub fn route<'a, T: Copy + PartialEq>(
    rules: impl IntoIterator<Item = Rule<'a, T>>,
    host: Option<&[u8]>,
    path: &[u8],
) -> Result<Option<T>, Ambiguous> {
    let fitting = rules.into_iter().filter_map(|rule| {
        let fits = match (rule.host, host) {
            (None, _) => true,
            (Some(rule), Some(host)) => rule.eq_ignore_ascii_case(host),
            (Some(_), None) => false,
        };
        let rank = Rank {
            host: rule.host.is_some(),
            prefix: rule.prefix.len(),
        };
        fits.then_some((rank, rule))
    });
    if path::is_plain(path) {
        let mut best = Best(None);
        for (rank, rule) in fitting {
            best.offer(rank, &rule, || path.starts_with(rule.prefix));
        }
        return Ok(best.target());
    }
    let readings = Reading::all_of(path);
    let mut best = [const { Best(None) }; Reading::COUNT];
    for (rank, rule) in fitting {
        for reading in readings.clone() {
            if let Some(best) = best.get_mut(reading.index()) {
                best.offer(rank, &rule, || reading.starts_with(path, rule.prefix));
            }
        }
    }
    let mut targets = readings.map(|reading| best.get(reading.index()).and_then(Best::target));
    let first = targets.next().flatten();
    if targets.all(|target| target == first) {
        Ok(first)
    } else {
        Err(Ambiguous)
    }
}

/// What fits best so far.
struct Best<T>(Option<(Rank, T)>);

impl<T: Copy> Best<T> {
    /// Takes a rule of this rank, if that is higher and `applies` says so.
    fn offer(&mut self, rank: Rank, rule: &Rule<'_, T>, applies: impl FnOnce() -> bool) {
        let better = self.0.as_ref().is_none_or(|(other, _)| rank > *other);
        if better && applies() {
            self.0 = Some((rank, rule.target));
        }
    }

    fn target(&self) -> Option<T> {
        self.0.as_ref().map(|(_, target)| *target)
    }
}

/// How exactly a rule fits, in the order of weight.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    /// By the host's name.
    host: bool,
    /// By so many bytes of the path.
    prefix: usize,
}

/// Whether a rule can have this prefix: empty, for any request whatever its target, or a path
/// written decoded. What no request can match, or not in all readings, is refused: a `%`, `?`,
/// `#`, `;`, backslash, space or control character, adjacent slashes, dot segments.
#[must_use]
pub fn check_prefix(prefix: &[u8]) -> bool {
    prefix.is_empty()
        || prefix.starts_with(b"/")
            && crate::path::check(prefix).is_ok()
            && !prefix.iter().any(|byte| b"%?;".contains(byte))
            && !prefix.windows(2).any(|pair| pair == b"//")
}

/// Whether a rule can have this host: a name or an address as a request has it, without port and
/// trailing dot.
#[must_use]
pub fn check_host(host: &[u8]) -> bool {
    crate::http::host_of(host) == Some(Some(host))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    const fn rule<'a>(host: Option<&'a [u8]>, prefix: &'a [u8], target: u32) -> Rule<'a, u32> {
        Rule {
            host,
            prefix,
            target,
        }
    }

    const RULES: [Rule<'_, u32>; 6] = [
        rule(None, b"/fr/", 1),
        rule(None, b"/fr/private/", 2),
        rule(Some(b"www.example"), b"/", 3),
        rule(Some(b"www.example"), b"/de/", 4),
        rule(Some(b"[2001:db8::1]"), b"", 5),
        rule(None, b"/fr/", 6),
    ];

    #[test]
    fn the_most_exact_rule_counts() {
        let www = Some(&b"www.example"[..]);
        let other = Some(&b"other.example"[..]);
        type Case<'a> = (Option<&'a [u8]>, &'a [u8], Result<Option<u32>, Ambiguous>);
        let cases: [Case<'_>; 22] = [
            (other, b"/", Ok(None)),
            (other, b"/fr/x", Ok(Some(1))),
            (None, b"/fr/x", Ok(Some(1))),
            (None, b"/fr", Ok(None)),
            (other, b"/fr/private/x", Ok(Some(2))),
            (other, b"/%66r/private/x", Ok(Some(2))),
            // A rule for the host goes first, however short its prefix.
            (www, b"/fr/private/x", Ok(Some(3))),
            (Some(b"WWW.Example"), b"/de/x", Ok(Some(4))),
            (www, b"*", Ok(None)),
            (Some(b"[2001:DB8::1]"), b"*", Ok(Some(5))),
            (Some(b"[2001:DB8::1]"), b"/fr/", Ok(Some(5))),
            // All readings agree.
            (other, b"/fr//x", Ok(Some(1))),
            (other, b"/fr/a%2Fb", Ok(Some(1))),
            (other, b"/fr/a;v=1", Ok(Some(1))),
            (www, b"//a;b%2fc", Ok(Some(3))),
            (other, b"//x", Ok(None)),
            // They do not.
            (other, b"//fr/x", Err(Ambiguous)),
            (other, b"/fr%2Fx", Err(Ambiguous)),
            (other, b"/fr//private/x", Err(Ambiguous)),
            (other, b"/fr/private%2Fx", Err(Ambiguous)),
            (other, b"/fr;x/y", Err(Ambiguous)),
            (www, b"/;/de/x", Err(Ambiguous)),
        ];
        for (host, path, expected) in cases {
            let found = route(RULES, host, path);
            assert_eq!(found, expected, "{}", path.escape_ascii());
        }
        assert_eq!(route([] as [Rule<'_, u32>; 0], www, b"/"), Ok(None));
    }

    #[test]
    fn rules_are_checked() {
        let good: [&[u8]; 6] = [b"", b"/", b"/fr/", b"/a.b", b"/n\xc3\xa9", b"/a..b"];
        for prefix in good {
            assert!(check_prefix(prefix), "{}", prefix.escape_ascii());
        }
        let bad: [&[u8]; 12] = [
            b"fr", b"*", b"/%66r", b"//fr", b"/fr//", b"/fr/../", b"/.", b"/a?b", b"/a#b", b"/a b",
            b"/a;b", b"/a\0",
        ];
        for prefix in bad {
            assert!(!check_prefix(prefix), "{}", prefix.escape_ascii());
        }
        let good: [&[u8]; 4] = [b"a", b"www.example", b"192.0.2.1", b"[::1]"];
        for host in good {
            assert!(check_host(host), "{}", host.escape_ascii());
        }
        let bad: [&[u8]; 6] = [b"", b"a:80", b"a.", b"a b", b"[::1]:80", b"a/b"];
        for host in bad {
            assert!(!check_host(host), "{}", host.escape_ascii());
        }
    }

    proptest! {
        /// Encoding bytes of a path does not change where it leads.
        #[test]
        fn encoding_does_not_matter(
            path in "/(fr|private|de|x|a\\.b|/){0,5}",
            encode in prop::collection::vec(any::<(bool, bool)>(), 40),
            host: bool,
        ) {
            let host = host.then_some(&b"www.example"[..]);
            let mut encoded = Vec::new();
            for (byte, (encode, upper)) in path.bytes().zip(encode.into_iter().cycle()) {
                if encode && byte != b'/' {
                    let text = if upper { std::format!("%{byte:02X}") } else { std::format!("%{byte:02x}") };
                    encoded.extend_from_slice(text.as_bytes());
                } else {
                    encoded.push(byte);
                }
            }
            prop_assert_eq!(route(RULES, host, &encoded), route(RULES, host, path.as_bytes()));
        }

        #[test]
        fn no_path_is_too_odd(path in prop::collection::vec(any::<u8>(), 0..40), odd in "[/;%2fFr.]{0,20}") {
            for path in [&path[..], odd.as_bytes()] {
                let _ = crate::path::check(path);
                let _ = route(RULES, None, path);
                // What a rule may say is found where it is written.
                if check_prefix(path) && Reading::all_of(path).count() == 1 {
                    prop_assert_eq!(route([rule(None, path, 9)], None, path), Ok(Some(9)));
                }
            }
        }
    }
}
