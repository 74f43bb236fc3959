//! Failures: the dead letters.

use prost::bytes::Bytes;

use crate::v1::JobFailure;

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
    fn a_failure_leaves_its_job_out_once() {
        let failure = JobFailure { job: Bytes::from_static(b"job"), message: "why".into(), ..Default::default() };
        let lean = failure.without_job().unwrap();
        assert!(lean.job.is_empty() && lean.job_omitted && lean.message == "why");
        assert_eq!(lean.without_job(), None);
    }
}
