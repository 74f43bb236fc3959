//! What is requested of a store.

/// What was requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// To read an object.
    Read,
    /// To list the keys that begin with a prefix.
    List,
}

impl Action {
    pub(super) fn participle(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::List => "listed",
        }
    }
}
