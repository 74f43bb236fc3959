//! The settings of `groundling ingest`.

use anyhow::anyhow;
use archive::ingest::rule::Rule;
use archive::ingest::settings::{IngestRule, rule_problems};
use archive::ingest::stream_subjects;
use worker::settings_validation::InvalidSettings;

use super::Settings;
use crate::exit::Misuse;
use crate::job_tasks::{final_prompts, task_problem, tasks};

impl Settings {
    /// The problems for which `groundling ingest` refuses the settings, beside those of other sections.
    pub(crate) fn ingest_problems(&self) -> Vec<String> {
        let mut found = [self.events.problems(), rule_problems(&self.ingest, &self.events)].concat();
        for (number, rule) in self.ingest.iter().enumerate() {
            let problems = rule.tasks.iter().filter_map(|text| task_problem(text));
            found.extend(problems.map(|problem| format!("ingest.{number}.tasks: {problem}")));
        }
        // Rules without a problem so far can be tried as a whole.
        if found.is_empty() {
            for (number, rule) in self.ingest.iter().enumerate() {
                let problem = ingest_rule(rule).err().map(|error| format!("ingest.{number}.tasks: {error:#}"));
                found.extend(problem);
            }
        }
        found
    }

    /// The rules of `groundling ingest`, and the validation of its other settings.
    ///
    /// # Errors
    /// All problems at once.
    pub(crate) fn for_ingest(&self) -> anyhow::Result<Vec<Rule>> {
        let mut problems =
            [self.nats.problems(), self.streams.problems(), self.ingest_problems(), self.telemetry.problems()].concat();
        if self.ingest.is_empty() {
            problems.push("ingest: there are no rules: add [[ingest]] to the settings file".to_owned());
        }
        if !problems.is_empty() {
            return Err(Misuse(InvalidSettings(problems).into()).into());
        }
        self.ingest.iter().map(ingest_rule).collect()
    }

    /// The subjects of the events stream; none if it is not needed.
    ///
    /// # Errors
    /// All problems of the rules at once.
    pub(crate) fn event_subjects(&self) -> anyhow::Result<Vec<String>> {
        match self.ingest_problems() {
            problems if problems.is_empty() => Ok(stream_subjects(&self.ingest)),
            problems => Err(Misuse(InvalidSettings(problems).into()).into()),
        }
    }
}

fn ingest_rule(rule: &IngestRule) -> anyhow::Result<Rule> {
    let rule = Rule::new(rule, tasks(&[], &rule.tasks)?)?;
    // As the model will get them.
    final_prompts(rule.example()).map_err(|error| anyhow!("{error:#}"))?;
    Ok(rule)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::settings::check;

    #[test]
    fn two_rules_that_annotate_an_object_twice_and_a_mistyped_event_are_refused() {
        let text = "\
[s3]
allow = [\"*\"]
[[ingest]]
name = \"first\"
subject = \"a.*\"
dataset = \"d\"
[[ingest]]
name = \"second\"
subject = \"a.b\"
bucket = \"uploads\"
dataset = \"d\"
tasks = [\"detailed\"]
[[ingest]]
name = \"third\"
subject = \"b\"
dataset = \"d\"
events = [\"ObjectCreate:*\"]
";
        let found = check::problems(Path::new("g.toml"), text, []).unwrap();
        let found: Vec<_> = found.iter().map(ToString::to_string).collect();
        assert_eq!(found.len(), 2, "{found:#?}");
        assert!(found[0].starts_with("g.toml:11:1: ingest.1.dataset is \"d\", as in the rule \"first\""), "{found:#?}");
        assert!(found[1].starts_with("g.toml:17:1: ingest.2.events contains \"ObjectCreate:*\""), "{found:#?}");
        assert!(found[1].contains("ObjectCreated:CompleteMultipartUpload"), "{found:#?}");
    }

    #[test]
    fn each_problem_of_a_rule_is_reported_at_its_line() {
        let text = "\
[s3]
allow = [\"*\"]
[[ingest]]
name = \"good\"
subject = \"a.*\"
dataset = \"d\"
tasks = [\"brief\", \"ground=a car\"]
[[ingest]]
name = \"Bad\"
subject = \"groundling.jobs.x\"
dataset = \"a.b\"
tasks = [\"caption\"]
events = [\"s3:ObjectRemoved:*\"]
[[ingest]]
name = \"good\"
path = \"events\"
sufixes = [\".jpg\"]
pin = \"hash\"
max_size = 0
";
        let found = check::problems(Path::new("g.toml"), text, []).unwrap();
        let found: Vec<_> = found.iter().map(ToString::to_string).collect();
        let expected = [
            ("g.toml:9:1: ingest.1.name", "lower-case"),
            ("g.toml:10:1: ingest.1.subject", "own streams"),
            ("g.toml:11:1: ingest.1.dataset", "'.'"),
            ("g.toml:12:1: ingest.1.tasks: caption: expected brief", "BOX"),
            ("g.toml:13:1: ingest.1.events", "deleted objects"),
            ("g.toml:14:1: ingest.2.dataset", "empty"),
            ("g.toml:15:1: ingest.2.name", "another rule"),
            ("g.toml:16:1: ingest.2.path", "a path like"),
            ("g.toml:16:1: ingest.2.path needs", "events.webhook_address"),
            ("g.toml:17:1: ingest.2: unknown setting \"sufixes\"; write \"suffixes\"", ""),
            ("g.toml:18:7: ingest.2.pin", ""),
            ("g.toml:19:1: ingest.2.max_size", "skipped"),
        ];
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for (start, part) in expected {
            assert!(found.iter().any(|line| line.starts_with(start) && line.contains(part)), "{start}: {found:#?}");
        }
    }
}
