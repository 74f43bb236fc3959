//! Hints for arguments that are not understood.

use std::ffi::OsString;
use std::path::Path;

use clap::Error;
use clap::error::{ContextKind, ContextValue, ErrorKind};

/// Adds a hint if an unknown option is the name of a file.
pub(crate) fn with_hint(mut error: Error, arguments: impl IntoIterator<Item = OsString>) -> Error {
    if error.kind() != ErrorKind::UnknownArgument {
        return error;
    }
    let Some(ContextValue::String(unknown)) = error.get(ContextKind::InvalidArg) else { return error };
    let options = arguments.into_iter().skip(1).take_while(|argument| argument != "--");
    let mut like_it = options.filter(|argument| argument.as_encoded_bytes().starts_with(unknown.as_bytes()));
    if let Some(file) = like_it.find(|argument| Path::new(argument).exists()) {
        let file = file.to_string_lossy().into_owned();
        let hint = format!("for the file '{file}', write './{file}', or '--' before it");
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![hint.into()]));
    }
    error
}
