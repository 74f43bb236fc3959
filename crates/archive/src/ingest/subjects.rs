//! The NATS subjects of rules.

use super::settings::IngestRule;

/// What is wrong with the subject of a rule.
pub(super) fn problem(subject: &str) -> Option<&'static str> {
    let tokens: Vec<&str> = subject.split('.').collect();
    let is_token = |token: &str| !token.is_empty() && !token.contains(|c: char| c.is_whitespace() || c.is_control());
    let has_wildcard = |token: &str| token.len() > 1 && token.contains(['*', '>']);
    if !tokens.iter().all(|token| is_token(token) && !has_wildcard(token)) {
        return Some("give tokens separated by dots, of which any may be '*' and the last '>'");
    }
    if tokens[..tokens.len() - 1].contains(&">") {
        return Some("'>' stands for all further tokens, so it must be the last one");
    }
    if matches!(tokens[0], "*" | ">") || tokens[0].starts_with('$') || tokens[0].starts_with("_INBOX") {
        return Some("it would capture the server's own messages: begin with a token of your own");
    }
    let is_own = |second: &&str| {
        let own = ["jobs", "urgent", "cursor", "annotations", "failed", "outcomes", "attempts", "retries", "*", ">"];
        own.contains(second)
    };
    if tokens[0] == "groundling" && tokens.get(1).is_some_and(is_own) {
        return Some("Groundling's own streams have these subjects: choose others");
    }
    None
}

/// The subjects of the events stream: those of the rules, without repetition and without those that another one covers.
pub fn stream_subjects(rules: &[IngestRule]) -> Vec<String> {
    let mut subjects: Vec<String> = rules.iter().filter_map(|rule| rule.subject.clone()).collect();
    subjects.sort();
    subjects.dedup();
    let all = subjects.clone();
    subjects.retain(|subject| !all.iter().any(|other| other != subject && covers(other, subject)));
    subjects
}

/// A problem if subjects overlap without one covering the other: a stream cannot have both.
pub(super) fn overlap_problem(rules: &[IngestRule]) -> Option<String> {
    let subjects = stream_subjects(rules);
    let pair = subjects.iter().enumerate().find_map(|(number, first)| {
        let second = subjects[number + 1..].iter().find(|second| overlap(first, second))?;
        Some((first, second))
    });
    pair.map(|(first, second)| {
        format!("ingest: the subjects {first} and {second} overlap, and NATS accepts only one of them: use one subject that covers both")
    })
}

/// Whether a subject pattern matches everything that another one matches; the other may be a subject without wildcards.
pub(super) fn covers(pattern: &str, other: &str) -> bool {
    let (mut patterns, mut others) = (pattern.split('.'), other.split('.'));
    loop {
        match (patterns.next(), others.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some("*"), Some(other)) if other != ">" => {}
            (Some(pattern), Some(other)) if pattern == other => {}
            _ => return false,
        }
    }
}

/// Whether there is a subject that both patterns match.
pub(super) fn overlap(first: &str, second: &str) -> bool {
    let (mut firsts, mut seconds) = (first.split('.'), second.split('.'));
    loop {
        match (firsts.next(), seconds.next()) {
            (Some(">"), Some(_)) | (Some(_), Some(">")) | (None, None) => return true,
            (Some(first), Some(second)) if first == "*" || second == "*" || first == second => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(subjects: &[&str]) -> Vec<IngestRule> {
        let rule = |subject: &&str| IngestRule { subject: Some((*subject).to_owned()), ..IngestRule::default() };
        subjects.iter().map(rule).collect()
    }

    #[test]
    fn a_subject_is_made_of_tokens_and_is_nobody_elses() {
        for good in ["minio", "minio.events", "minio.*.x", "minio.>", "groundling.events.a", "größe"] {
            assert_eq!(problem(good), None, "{good}");
        }
        for bad in [
            "",
            "a..b",
            "a b",
            "a.b*",
            "a.>.b",
            ">",
            "*.a",
            "$JS.API.x",
            "_INBOX.x",
            "groundling.jobs.a",
            "groundling.>",
        ] {
            assert!(problem(bad).is_some(), "{bad}");
        }
    }

    #[test]
    fn the_stream_has_each_subject_once_and_none_that_is_covered() {
        let subjects = stream_subjects(&rules(&["b.c", "a.*", "a.x", "b.c", "d.>", "d.e.f"]));
        assert_eq!(subjects, ["a.*", "b.c", "d.>"]);
        assert_eq!(overlap_problem(&rules(&["b.c", "a.*", "a.x"])), None);
        let problem = overlap_problem(&rules(&["a.*.c", "a.b.*"])).unwrap();
        assert!(problem.contains("a.*.c and a.b.*"), "{problem}");
    }

    #[test]
    fn wildcards_stand_for_one_token_or_all_further_ones() {
        for (pattern, subject) in
            [("a.*", "a.b"), ("a.>", "a.b.c"), ("a.b", "a.b"), ("a.*.c", "a.*.c"), ("a.>", "a.*.>")]
        {
            assert!(covers(pattern, subject), "{pattern} {subject}");
        }
        for (pattern, subject) in [("a.*", "a"), ("a.*", "a.b.c"), ("a.>", "a"), ("a.*", "a.>"), ("a.b", "a.c")] {
            assert!(!covers(pattern, subject), "{pattern} {subject}");
        }
    }
}
