//! Failures: the dead letters.

use prost::bytes::Bytes;

use crate::v1::{FailureReason, JobFailure};

/// What the names of all reasons begin with.
const REASON_PREFIX: &str = "FAILURE_REASON_";

impl FailureReason {
    /// The reason as a token of a subject: its name in the enum without prefix, in lower case.
    ///
    /// ```
    /// use wire::v1::FailureReason;
    ///
    /// assert_eq!(FailureReason::ObjectNotFound.token(), "object_not_found");
    /// assert_eq!(FailureReason::from_token("object_not_found"), Some(FailureReason::ObjectNotFound));
    /// ```
    pub fn token(self) -> String {
        let name = self.as_str_name();
        name.strip_prefix(REASON_PREFIX).unwrap_or(name).to_ascii_lowercase()
    }

    /// The reason with this token; `None` if this version knows none.
    pub fn from_token(token: &str) -> Option<Self> {
        Self::from_str_name(&format!("{REASON_PREFIX}{}", token.to_ascii_uppercase()))
    }
}

impl JobFailure {
    /// The failure without the bytes of its job, for when it is too large with them; `None` if they are already omitted.
    pub fn without_job(&self) -> Option<Self> {
        (!self.job_omitted).then(|| Self { job: Bytes::new(), job_omitted: true, ..self.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_a_token_of_its_own() {
        let known: Vec<_> = (0..).map_while(|number| FailureReason::try_from(number).ok()).collect();
        assert_eq!(known.len(), 15);
        for reason in known {
            assert_eq!(FailureReason::from_token(&reason.token()), Some(reason));
            assert!(reason.token().bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{reason:?}");
        }
        assert_eq!(FailureReason::from_token("no_such_reason"), None);
    }

    #[test]
    fn a_failure_leaves_its_job_out_once() {
        let failure = JobFailure { job: Bytes::from_static(b"job"), message: "why".into(), ..Default::default() };
        let lean = failure.without_job().unwrap();
        assert!(lean.job.is_empty() && lean.job_omitted && lean.message == "why");
        assert_eq!(lean.without_job(), None);
    }
}
