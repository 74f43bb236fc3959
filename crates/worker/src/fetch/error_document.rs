//! Error documents that a store returns in place of an object.

use super::store_error::StoreError;

/// Maximum size of an error document.
const MAX_DOCUMENT: usize = 64 * 1024;

/// The error in an error document that came with a success status, which some stores return if a failure occurs after
/// they have sent the status.
pub(super) fn error_document(body: &[u8]) -> Option<StoreError> {
    if body.len() > MAX_DOCUMENT {
        return None;
    }
    let text = std::str::from_utf8(body).ok()?.trim_start_matches('\u{feff}').trim_start();
    let root = match text.strip_prefix("<?xml") {
        Some(declaration) => declaration.split_once("?>")?.1.trim_start(),
        None => text,
    };
    let inner = root.strip_prefix("<Error")?;
    if !inner.starts_with(['>', ' ', '\t', '\r', '\n']) {
        return None;
    }
    let code = element(inner, "Code")?;
    let message = element(inner, "Message").unwrap_or_default();
    Some(StoreError { status: None, code, message, region: element(inner, "Region") })
}

/// The text of the first element with this name.
fn element(document: &str, name: &str) -> Option<String> {
    let (_, rest) = document.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once(&format!("</{name}>"))?;
    Some(text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&amp;", "&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_document_is_told_from_an_object() {
        let found = |body: &str| error_document(body.as_bytes()).map(|error| (error.code, error.message));
        let document = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>InternalError</Code><Message>a &amp; b</Message></Error>";
        assert_eq!(found(document), Some(("InternalError".into(), "a & b".into())));
        assert_eq!(found("<Error xmlns=\"x\"><Code>SlowDown</Code></Error>"), Some(("SlowDown".into(), String::new())));
        for other in ["", "<svg/>", "<Errors><Code>X</Code></Errors>", "<Error></Error>", "<?xml <Error><Code>X</Code>"]
        {
            assert_eq!(found(other), None, "{other}");
        }
        assert_eq!(error_document(&[0xff; 10]), None);
        assert_eq!(found(&format!("<Error><Code>X</Code>{}", " ".repeat(MAX_DOCUMENT))), None);
    }
}
