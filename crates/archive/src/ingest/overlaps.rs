//! Rules with which an object would be annotated twice.

use super::rule::{EventPattern, event_patterns};
use super::settings::IngestRule;
use super::subjects;

/// The first of these rules that has the same dataset as a rule and can match the same objects.
///
/// Events that come to different places are taken for those of different stores, unless both rules name the same bucket.
pub(super) fn overlapping<'a>(rule: &IngestRule, others: &'a [IngestRule]) -> Option<&'a IngestRule> {
    others.iter().find(|other| {
        let same_bucket = rule.bucket == other.bucket;
        let buckets = same_bucket || rule.bucket.is_none() || other.bucket.is_none();
        let sources = same_source(rule, other) || same_bucket && rule.bucket.is_some();
        rule.dataset == other.dataset
            && buckets
            && sources
            && either_begins(&rule.prefix, &other.prefix)
            && suffixes(&rule.suffixes, &other.suffixes)
            && events(rule, other)
    })
}

fn same_source(rule: &IngestRule, other: &IngestRule) -> bool {
    match (&rule.subject, &other.subject) {
        (Some(first), Some(second)) => subjects::overlap(first, second),
        _ => rule.path.is_some() && rule.path == other.path,
    }
}

/// Whether one text begins with the other.
fn either_begins(first: &str, second: &str) -> bool {
    first.starts_with(second) || second.starts_with(first)
}

/// Whether a key can end with one of each; without suffixes, every key is accepted.
fn suffixes(firsts: &[String], seconds: &[String]) -> bool {
    let lower = |suffixes: &[String]| suffixes.iter().map(|suffix| suffix.to_lowercase()).collect::<Vec<_>>();
    let (firsts, seconds) = (lower(firsts), lower(seconds));
    let both = |first: &String| seconds.iter().any(|second| first.ends_with(second) || second.ends_with(first));
    firsts.is_empty() || seconds.is_empty() || firsts.iter().any(both)
}

/// Whether an event can have a name of each. Invalid names are another problem.
fn events(rule: &IngestRule, other: &IngestRule) -> bool {
    let (Ok(firsts), Ok(seconds)) = (event_patterns(rule), event_patterns(other)) else { return false };
    let both = |first: &EventPattern| seconds.iter().any(|second| first.overlaps(second));
    firsts.iter().any(both)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(change: impl FnOnce(&mut IngestRule)) -> IngestRule {
        let mut rule = IngestRule { path: Some("/e".into()), dataset: "d".into(), ..IngestRule::default() };
        change(&mut rule);
        rule
    }

    /// Whether the rules overlap, in whichever order they are.
    fn overlap(first: impl FnOnce(&mut IngestRule), second: impl FnOnce(&mut IngestRule)) -> bool {
        let (first, second) = (rule(first), rule(second));
        let found = overlapping(&first, std::slice::from_ref(&second)).is_some();
        assert_eq!(overlapping(&second, std::slice::from_ref(&first)).is_some(), found);
        found
    }

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn rules_overlap_if_an_object_can_match_all_of_both() {
        assert!(overlap(|_| (), |rule| rule.tasks = texts(&["detailed"])));
        assert!(overlap(|rule| rule.bucket = Some("a".into()), |_| ()));
        assert!(overlap(|rule| rule.prefix = "in/".into(), |rule| rule.prefix = "in/new/".into()));
        assert!(overlap(|rule| rule.suffixes = texts(&[".JPG", ".png"]), |rule| rule.suffixes = texts(&["x.jpg"])));
        assert!(overlap(|rule| rule.events = texts(&["s3:ObjectCreated:Put"]), |_| ()));
        assert!(!overlap(|rule| rule.dataset = "other".into(), |_| ()));
        assert!(!overlap(|rule| rule.bucket = Some("a".into()), |rule| rule.bucket = Some("b".into())));
        assert!(!overlap(|rule| rule.prefix = "in/".into(), |rule| rule.prefix = "out/".into()));
        assert!(!overlap(|rule| rule.suffixes = texts(&[".jpg"]), |rule| rule.suffixes = texts(&[".png"])));
        assert!(!overlap(|rule| rule.events = texts(&["ObjectRestore:Completed"]), |_| ()));
    }

    #[test]
    fn events_at_different_places_are_of_different_stores_unless_the_bucket_is_the_same() {
        let subject = |rule: &mut IngestRule, subject: &str| {
            (rule.subject, rule.path) = (Some(subject.to_owned()), None);
        };
        assert!(!overlap(|_| (), |rule| rule.path = Some("/f".into())));
        assert!(!overlap(|_| (), |rule| subject(rule, "minio.events")));
        assert!(overlap(|rule| subject(rule, "minio.*"), |rule| subject(rule, "minio.events")));
        let uploads = |rule: &mut IngestRule| rule.bucket = Some("uploads".into());
        assert!(overlap(uploads, |rule| {
            subject(rule, "minio.events");
            uploads(rule);
        }));
    }
}
