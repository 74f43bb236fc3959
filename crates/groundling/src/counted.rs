//! Counts with their nouns.

/// `1 box`, `2 boxes`, `0 messages`.
pub(crate) fn counted(count: u64, noun: &str) -> String {
    match (count, noun.ends_with('x')) {
        (1, _) => format!("1 {noun}"),
        (_, true) => format!("{count} {noun}es"),
        (_, false) => format!("{count} {noun}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_singular() {
        let all = [(1, "box"), (2, "box"), (0, "message"), (1, "shard")].map(|(count, noun)| counted(count, noun));
        assert_eq!(all, ["1 box", "2 boxes", "0 messages", "1 shard"]);
    }
}
