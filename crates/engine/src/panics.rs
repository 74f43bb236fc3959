//! Messages of caught panics.

use std::any::Any;

/// Returns the message of a caught panic, or a placeholder if its payload is not a string.
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
        let message = |panicking: fn()| panic_message(catch_unwind(panicking).unwrap_err().as_ref());
        assert_eq!(message(|| panic!("plain")), "plain");
        assert_eq!(message(|| panic!("number {}", 7)), "number 7");
        assert_eq!(message(|| panic_any(7)), "without a message");
    }
}
