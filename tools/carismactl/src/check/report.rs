// SPDX-License-Identifier: GPL-2.0

//! What was found, and how bad it is.

use serde::Serialize;
use std::process::ExitCode;

/// The exit status when there are warnings only.
const EXIT_WARNINGS: u8 = 4;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Ok,
    Warning,
    Error,
}

/// A line of the report.
#[derive(Debug, PartialEq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub check: &'static str,
    pub level: Level,
    pub text: String,
    /// What to do.
    pub advice: Option<String>,
}

/// What was found.
#[derive(Default)]
pub struct Report(pub Vec<Finding>);

impl Report {
    pub fn ok(&mut self, check: &'static str, text: impl Into<String>) {
        self.add(check, Level::Ok, text.into(), None);
    }

    pub fn warn(
        &mut self,
        check: &'static str,
        text: impl Into<String>,
        advice: impl Into<String>,
    ) {
        self.add(check, Level::Warning, text.into(), Some(advice.into()));
    }

    pub fn error(
        &mut self,
        check: &'static str,
        text: impl Into<String>,
        advice: impl Into<String>,
    ) {
        self.add(check, Level::Error, text.into(), Some(advice.into()));
    }

    fn add(&mut self, check: &'static str, level: Level, text: String, advice: Option<String>) {
        self.0.push(Finding {
            check,
            level,
            text,
            advice,
        });
    }

    fn has(&self, level: Level) -> bool {
        self.0.iter().any(|finding| finding.level == level)
    }

    pub fn status(&self) -> ExitCode {
        if self.has(Level::Error) {
            ExitCode::FAILURE
        } else if self.has(Level::Warning) {
            ExitCode::from(EXIT_WARNINGS)
        } else {
            ExitCode::SUCCESS
        }
    }

    pub fn text(&self) -> String {
        let mut text = String::new();
        for finding in &self.0 {
            let level = match finding.level {
                Level::Ok => "ok",
                Level::Warning => "warning",
                Level::Error => "error",
            };
            text += &format!("{level:<8} {}: {}\n", finding.check, finding.text);
            if let Some(advice) = &finding.advice {
                text += &format!("{:<8} -> {advice}\n", "");
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_worst_is_the_status() {
        let mut report = Report::default();
        report.ok("a", "fine");
        assert_eq!(report.status(), ExitCode::SUCCESS);
        report.warn("b", "hm", "do");
        assert_eq!(report.status(), ExitCode::from(EXIT_WARNINGS));
        report.error("c", "bad", "help");
        report.ok("d", "fine");
        assert_eq!(report.status(), ExitCode::FAILURE);
        assert_eq!(
            report.text(),
            "ok       a: fine\n\
             warning  b: hm\n         -> do\n\
             error    c: bad\n         -> help\n\
             ok       d: fine\n"
        );
        assert_eq!(
            json!(report.0)[1],
            json!({"check": "b", "level": "warning", "text": "hm", "advice": "do"})
        );
    }
}
