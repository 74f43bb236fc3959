//! What a panic says.

use std::any::Any;

/// The text of a caught panic, or that it has none: a panic may be of any type, though `panic!` makes only texts.
pub fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without a message".to_owned())
}

#[cfg(test)]
mod tests {
    use std::panic::{catch_unwind, panic_any};

    use super::*;

    #[test]
    fn a_panic_says_what_it_was_given() {
        let said = |panicking: fn()| panic_message(catch_unwind(panicking).unwrap_err().as_ref());
        assert_eq!(said(|| panic!("plain")), "plain");
        assert_eq!(said(|| panic!("number {}", 7)), "number 7");
        assert_eq!(said(|| panic_any(7)), "without a message");
    }
}
