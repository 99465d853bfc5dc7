// SPDX-License-Identifier: GPL-2.0

//! A handoff that FE has committed by DATA, until BE has said that DATA came.
//!
//! DATA may be lost with the control connection. FE therefore keeps its own half of the connection,
//! and repeats DATA, until BE confirms it, or it is certain that BE's server will never see the
//! request. What is in doubt is served by nobody else: a request is served at most once.

use crate::wire::Reason;

/// For how long after its end BE knows of any connection that it had (`docs/handoff-protocol.md`,
/// "CLOSED"), in milliseconds.
pub const REMEMBERED_MS: u32 = 1_000;

/// What follows from an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// DATA is repeated.
    Repeat,
    /// BE's server has not seen the request, and will not: another may serve it.
    Elsewhere,
    /// BE's server may have seen it: the client is told that the connection is lost.
    Lost,
}

/// A handoff that is committed, but not confirmed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Commit {
    since: u32,
}

impl Commit {
    /// DATA was sent for the first time, at `now` milliseconds of any clock.
    #[must_use]
    pub fn new(now: u32) -> Self {
        Self { since: now }
    }

    /// BE does not take the connection. That it does not know of it tells only as long as it would
    /// remember a connection that has come to its end meanwhile.
    #[must_use]
    pub fn on_reject(&self, reason: Reason, now: u32) -> Outcome {
        if reason == Reason::Unknown && now.wrapping_sub(self.since) >= REMEMBERED_MS {
            Outcome::Lost
        } else {
            Outcome::Elsewhere
        }
    }

    /// Nothing has come for a while; `patience` is how long BE is waited for at all.
    #[must_use]
    pub fn on_timer(&self, now: u32, patience: u32) -> Outcome {
        if now.wrapping_sub(self.since) >= patience {
            Outcome::Lost
        } else {
            Outcome::Repeat
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_doubt_is_lost() {
        let start = u32::MAX - 500;
        let commit = Commit::new(start);
        let at = |ms: u32| start.wrapping_add(ms);
        // BE says itself that it has given up.
        assert_eq!(
            commit.on_reject(Reason::Unanswered, at(5000)),
            Outcome::Elsewhere
        );
        // BE has forgotten it, or never known it.
        assert_eq!(
            commit.on_reject(Reason::Unknown, at(999)),
            Outcome::Elsewhere
        );
        assert_eq!(commit.on_reject(Reason::Unknown, at(1000)), Outcome::Lost);
        assert_eq!(commit.on_timer(at(29_999), 30_000), Outcome::Repeat);
        assert_eq!(commit.on_timer(at(30_000), 30_000), Outcome::Lost);
    }
}
