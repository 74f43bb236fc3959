//! Which failures a command is about.

use time::OffsetDateTime;
use wire::subjects::{Dataset, FAILED_WILDCARD};
use wire::v1::FailureReason;

use super::read::Failure;

/// Some of the failures.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Only those of this dataset.
    pub dataset: Option<Dataset>,
    /// Only those with this reason.
    pub reason: Option<FailureReason>,
    /// Only those that were stored at this time or later.
    pub since: Option<OffsetDateTime>,
    /// At most this many.
    pub limit: Option<u64>,
}

impl Selection {
    /// The subject filters that hold all of them. Earlier versions published failures without a reason in the subject.
    pub(super) fn filters(&self) -> Vec<String> {
        match (&self.dataset, self.reason) {
            (None, None) => vec![FAILED_WILDCARD.to_owned()],
            (None, Some(reason)) => {
                vec!["groundling.failed.*".to_owned(), format!("groundling.failed.*.{}", reason.token())]
            }
            (Some(dataset), None) => vec![dataset.failed_subject_without_reason(), dataset.failed_wildcard()],
            (Some(dataset), Some(reason)) => {
                vec![dataset.failed_subject_without_reason(), dataset.failed_subject(reason)]
            }
        }
    }

    /// Whether a failure with a subject that matches is one of them.
    pub(super) fn takes(&self, failure: &Failure) -> bool {
        self.reason.is_none_or(|reason| failure.record.reason() == reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_of_earlier_versions_are_selected_too() {
        let selection = |dataset: Option<&str>, reason| Selection {
            dataset: dataset.map(|name| name.parse().unwrap()),
            reason,
            ..Selection::default()
        };
        let reason = Some(FailureReason::ObjectNotFound);
        assert_eq!(selection(None, None).filters(), ["groundling.failed.>"]);
        assert_eq!(selection(Some("cats"), None).filters(), ["groundling.failed.cats", "groundling.failed.cats.*"]);
        assert_eq!(
            selection(Some("cats"), reason).filters(),
            ["groundling.failed.cats", "groundling.failed.cats.object_not_found"]
        );
        assert_eq!(selection(None, reason).filters(), ["groundling.failed.*", "groundling.failed.*.object_not_found"]);
    }
}
