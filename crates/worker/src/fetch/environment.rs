//! Finds environment variables of AWS's own tools that contradict the settings.
//!
//! Endpoint and region come only from the settings; keys may come from the environment. A variable that would direct
//! reads to another store, or make the client reject all of them, is reported before the first job.

use crate::settings::S3Settings;

/// One sentence for each variable that contradicts the settings. `variable` returns the value of a variable.
pub fn environment_problems(settings: &S3Settings, variable: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let value = |name: &str| variable(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
    let is_true = |name: &str| value(name).is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let mut problems = Vec::new();
    match &settings.endpoint {
        Some(_) => {
            for (name, what) in [("AWS_USE_DUALSTACK_ENDPOINT", "dual-stack"), ("AWS_USE_FIPS_ENDPOINT", "FIPS")] {
                if is_true(name) {
                    problems.push(format!(
                        "s3.endpoint is set, but the environment variable {name} selects AWS's {what} endpoints: unset one of them"
                    ));
                }
            }
        }
        None if is_true("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS") => {}
        None => {
            for name in ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"] {
                if value(name).is_some() {
                    problems.push(format!(
                        "s3.endpoint is not set, but the environment variable {name} is, and the store's address must come from the settings: move it to s3.endpoint or unset the variable"
                    ));
                }
            }
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(endpoint: Option<&str>, variables: &[(&str, &str)]) -> Vec<String> {
        let settings = S3Settings { endpoint: endpoint.map(str::to_owned), ..Default::default() };
        environment_problems(&settings, |name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn variables_that_contradict_the_endpoint_are_named() {
        let endpoint = Some("https://store.example");
        for (endpoint, name, value) in [
            (endpoint, "AWS_USE_DUALSTACK_ENDPOINT", "true"),
            (endpoint, "AWS_USE_DUALSTACK_ENDPOINT", "TRUE"),
            (endpoint, "AWS_USE_FIPS_ENDPOINT", "true"),
            (None, "AWS_ENDPOINT_URL", "http://127.0.0.1:9"),
            (None, "AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9"),
        ] {
            let found = problems(endpoint, &[(name, value)]);
            assert!(matches!(&found[..], [one] if one.starts_with("s3.endpoint") && one.contains(name)), "{found:?}");
        }
    }

    #[test]
    fn variables_that_change_nothing_are_passed_over() {
        let endpoint = Some("https://store.example");
        for (endpoint, variables) in [
            (
                endpoint,
                &[("AWS_ENDPOINT_URL", "http://127.0.0.1:9"), ("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")][..],
            ),
            (endpoint, &[("AWS_USE_DUALSTACK_ENDPOINT", "false"), ("AWS_USE_FIPS_ENDPOINT", "")]),
            (endpoint, &[("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")]),
            (None, &[("AWS_USE_DUALSTACK_ENDPOINT", "true"), ("AWS_USE_FIPS_ENDPOINT", "true")]),
            (None, &[("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true"), ("AWS_ENDPOINT_URL", "http://127.0.0.1:9")]),
            (None, &[("AWS_ENDPOINT_URL", " ")]),
        ] {
            assert_eq!(problems(endpoint, variables), Vec::<String>::new(), "{variables:?}");
        }
    }
}
