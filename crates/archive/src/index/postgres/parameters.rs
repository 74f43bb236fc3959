//! The parameters of libpq as pairs, as in `host=db.example dbname=pictures`.

/// The pairs of `name=value name='value'`; `None` if the text does not begin like that. Backslashes take the meaning of the
/// next character away.
///
/// # Errors
/// What is wrong with the text, without the text: it may contain a password.
pub(crate) fn pairs(text: &str) -> Option<Result<Vec<(String, String)>, &'static str>> {
    let (name, _) = text.split_once('=')?;
    let is_name = |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    if !is_name(name.trim()) {
        return None;
    }
    let (mut pairs, mut rest) = (Vec::new(), text.trim());
    while !rest.is_empty() {
        let Some((name, value)) = rest.split_once('=').filter(|(name, _)| is_name(name.trim())) else {
            return Some(Err("expected parameters such as host=db.example dbname=pictures"));
        };
        let Some((value, after)) = value_of(value.trim_start()) else {
            return Some(Err("a quotation mark is not closed"));
        };
        pairs.push((name.trim().to_owned(), value));
        rest = after.trim_start();
    }
    Some(Ok(pairs))
}

/// The value at the beginning of a text, and what comes after it.
fn value_of(text: &str) -> Option<(String, &str)> {
    let is_quoted = text.starts_with('\'');
    let (mut value, mut characters) = (String::new(), text.char_indices().skip(usize::from(is_quoted)));
    while let Some((place, character)) = characters.next() {
        match character {
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            '\'' if is_quoted => return Some((value, text.get(place + 1..)?)),
            _ if !is_quoted && character.is_whitespace() => return Some((value, text.get(place..)?)),
            _ => value.push(character),
        }
    }
    if is_quoted { None } else { Some((value, "")) }
}

/// The text of pairs.
pub(crate) fn joined(pairs: impl Iterator<Item = (String, String)>) -> String {
    let quoted = |value: String| value.replace('\\', "\\\\").replace('\'', "\\'");
    pairs.map(|(name, value)| format!("{name}='{}'", quoted(value))).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_may_be_quoted_and_are_read_as_they_were_written() {
        let text = r"host = /tmp user='a \'b\\' password=c\ d dbname=''";
        let expected = [("host", "/tmp"), ("user", r"a 'b\"), ("password", "c d"), ("dbname", "")];
        let expected: Vec<_> = expected.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        assert_eq!(pairs(text), Some(Ok(expected.clone())));
        assert_eq!(pairs(&joined(expected.clone().into_iter())), Some(Ok(expected)));
        assert!(pairs("host=h password='secret").unwrap().is_err() && pairs("host=h secret").unwrap().is_err());
        for other in ["postgres://h/d?a=b", "annotations.db", "", "mysql://u@h/d?x=y", "=x"] {
            assert_eq!(pairs(other), None, "{other}");
        }
    }
}
