//! The results of a dry run, one line each.

use std::fmt::Display;

use serde::Serialize;

use crate::args::Format;
use crate::exit::Outcome;
use crate::stderr::escape_control;
use crate::stdout;

/// Prints results as they come, and counts the problems.
pub(super) struct Report {
    format: Format,
    problems: usize,
}

/// A line of `--format json`. Scripts depend on these names.
#[derive(Serialize)]
struct Line<'a> {
    check: &'a str,
    ok: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    warning: bool,
    message: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Severity {
    Ok,
    Warning,
    Problem,
}

impl Report {
    pub(super) fn new(format: Format) -> Self {
        Self { format, problems: 0 }
    }

    pub(super) fn ok(&mut self, check: &str, message: impl Display) -> anyhow::Result<()> {
        self.line(check, Severity::Ok, message)
    }

    /// `message` tells what is wrong, although workers run.
    pub(super) fn warning(&mut self, check: &str, message: impl Display) -> anyhow::Result<()> {
        self.line(check, Severity::Warning, message)
    }

    /// `message` tells the problem and the fix.
    pub(super) fn problem(&mut self, check: &str, message: impl Display) -> anyhow::Result<()> {
        self.problems += 1;
        self.line(check, Severity::Problem, message)
    }

    /// Prints what a worker with this many job slots would do.
    pub(super) fn finish(mut self, slots: usize) -> anyhow::Result<Outcome> {
        let problems = self.problems;
        if problems == 0 {
            self.ok("summary", format_args!("a worker would start and take up to {slots} jobs at once"))?;
            return Ok(Outcome::Done);
        }
        self.problem("summary", format_args!("problems found: {problems}; correct them before a worker runs"))?;
        Ok(Outcome::PartlyFailed)
    }

    fn line(&mut self, check: &str, severity: Severity, message: impl Display) -> anyhow::Result<()> {
        let message = message.to_string();
        match self.format {
            Format::Json => {
                let (ok, warning) = (severity != Severity::Problem, severity == Severity::Warning);
                stdout::write_json(&Line { check, ok, warning, message })
            }
            Format::Text => {
                let result = match severity {
                    Severity::Ok => "ok",
                    Severity::Warning => "warning",
                    Severity::Problem => "problem",
                };
                Ok(stdout::write_line(format_args!("{result:<8} {check}: {}", escape_control(&message)))?)
            }
        }
    }
}
