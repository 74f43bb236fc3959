//! The metadata of a trigger.

use std::collections::HashMap;

use tonic::Status;

/// The key of the seconds within which the backlog should be drained.
pub const TARGET_DRAIN_SECONDS: &str = "targetDrainSeconds";
/// The key of the jobs per second of a worker, until they are measured.
pub const JOBS_PER_SECOND: &str = "jobsPerSecond";

/// What the trigger of a ScaledObject asks for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Trigger {
    /// The seconds within which the backlog should be drained.
    pub(crate) target_drain_seconds: f64,
    /// Jobs per second of a worker, until they are measured.
    pub(crate) initial_jobs_per_second: f64,
}

impl Trigger {
    /// Reads the metadata. Other keys are KEDA's own.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT`, which names the key.
    pub(crate) fn read(metadata: &HashMap<String, String>) -> Result<Self, Status> {
        let number = |key: &str, what: &str| {
            let text = metadata.get(key).map(|text| text.trim()).filter(|text| !text.is_empty()).ok_or_else(|| {
                Status::invalid_argument(format!("the trigger's metadata has no {key}: set it to {what}"))
            })?;
            let number = text.parse::<f64>().ok().filter(|number| number.is_finite() && *number > 0.0);
            number.ok_or_else(|| {
                Status::invalid_argument(format!(
                    "{key} in the trigger's metadata is {text:?}: set it to {what}, a number above 0"
                ))
            })
        };
        Ok(Self {
            target_drain_seconds: number(
                TARGET_DRAIN_SECONDS,
                "the seconds within which the backlog should be drained",
            )?,
            initial_jobs_per_second: number(JOBS_PER_SECOND, "the jobs per second of a worker")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Trigger, String> {
        let metadata = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Trigger::read(&metadata).map_err(|status| {
            assert_eq!(status.code(), tonic::Code::InvalidArgument);
            status.message().to_owned()
        })
    }

    #[test]
    fn both_numbers_are_required_and_errors_name_the_key() {
        let good = [("targetDrainSeconds", "900"), ("jobsPerSecond", " 62.5 "), ("scalerAddress", "x:1")];
        assert_eq!(read(&good), Ok(Trigger { target_drain_seconds: 900.0, initial_jobs_per_second: 62.5 }));
        for (key, value) in [
            ("targetDrainSeconds", "0"),
            ("targetDrainSeconds", "15m"),
            ("jobsPerSecond", "-1"),
            ("jobsPerSecond", "NaN"),
            ("jobsPerSecond", ""),
        ] {
            let pairs: Vec<_> =
                good.into_iter().map(|(known, old)| (known, if known == key { value } else { old })).collect();
            assert!(read(&pairs).unwrap_err().contains(key), "{key}={value}");
        }
        assert!(read(&good[1..]).unwrap_err().contains("targetDrainSeconds"));
    }
}
