//! Errors as sentences for users.

use std::error::Error;

use broker::causes::causes;

/// An error with its causes in one line, without the numbers of the operating system's errors.
pub(crate) fn plain(error: &(dyn Error + 'static)) -> String {
    let mut text = causes(error);
    while let Some(start) = text.find(" (os error ") {
        let Some(length) = text[start..].find(')') else { break };
        text.replace_range(start..=start + length, "");
    }
    text
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn numbers_of_the_system_are_left_out() {
        let error = std::fs::File::open("/no/such").context("/no/such: cannot be read").unwrap_err();
        assert_eq!(plain(error.as_ref()), "/no/such: cannot be read: No such file or directory");
    }
}
