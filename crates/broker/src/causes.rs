//! An error with its causes in one line.

use std::error::Error;

/// The error and its sources, outermost first, separated by colons.
///
/// Many errors repeat their source in their own text. Each cause appears once: the source's text is cut from the end of
/// the error's, and a text that is contained in another one is left out.
pub fn causes(error: &(dyn Error + 'static)) -> String {
    let mut texts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        next = error.source();
        let text = own_text(error);
        if !text.is_empty() && !texts.iter().any(|known| known.contains(&text)) {
            // A source that repeats its wrapper and adds to it.
            texts.retain(|known| !text.contains(known.as_str()));
            texts.push(text);
        }
    }
    texts.join(": ")
}

/// The error's text without that of its source.
fn own_text(error: &(dyn Error + 'static)) -> String {
    let text = error.to_string();
    let source = error.source().map(ToString::to_string).unwrap_or_default();
    let own = text.strip_suffix(&source).and_then(|text| text.strip_suffix(": "));
    own.map(str::to_owned).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Layer {
        text: &'static str,
        source: Option<Box<Layer>>,
    }

    fn chain(texts: &[&'static str]) -> Layer {
        let source = (texts.len() > 1).then(|| Box::new(chain(&texts[1..])));
        Layer { text: texts[0], source }
    }

    #[test]
    fn each_cause_stands_once() {
        for (texts, line) in [
            (&["dispatch failure", "io error", "refused"][..], "dispatch failure: io error: refused"),
            (&["IO error: refused (os error 111)", "refused (os error 111)"], "IO error: refused (os error 111)"),
            (&["NoSuchKey", "NoSuchKey: not there", "NoSuchKey: not there"], "NoSuchKey: not there"),
            (&["violation: nats: violation", "nats: violation"], "nats: violation"),
            (&["a: b: c", "b: c", "c"], "a: b: c"),
            (&["a", "", "b"], "a: b"),
        ] {
            assert_eq!(causes(&chain(texts)), line);
        }
    }
}
