//! An error's causes in one line, each once.

use std::error::Error;

/// The error and its sources, outermost first. Wrapping errors often repeat what they wrap: a text that stands within
/// another one is left out.
pub fn causes(error: &(dyn Error + 'static)) -> String {
    let mut texts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        if !text.is_empty() && !texts.iter().any(|known| known.contains(&text)) {
            // A cause that repeats its wrapper, and says more.
            texts.retain(|known| !text.contains(known.as_str()));
            texts.push(text);
        }
        next = error.source();
    }
    texts.join(": ")
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
            (&["a", "", "b"], "a: b"),
        ] {
            assert_eq!(causes(&chain(texts)), line);
        }
    }
}
