//! The S3 store for commands whose user names the objects.

use worker::fetch::environment::environment_problems;
use worker::fetch::s3::ObjectStore;
use worker::settings::S3Settings;
use worker::settings_validation::InvalidSettings;

use crate::exit::Misuse;

/// Opens the store. `s3.allow` does not apply: it restricts other people's jobs, and here the owner of the credentials
/// names the objects.
///
/// # Errors
/// All problems with the settings at once, or that the store cannot be opened.
pub(crate) async fn open(s3: &S3Settings) -> anyhow::Result<ObjectStore> {
    let s3 = S3Settings { allow: vec!["*".into()], ..s3.clone() };
    let mut problems = s3.problems();
    problems.extend(environment_problems(&s3, |name| std::env::var(name).ok()));
    if !problems.is_empty() {
        return Err(Misuse(InvalidSettings(problems).into()).into());
    }
    Ok(ObjectStore::open(&s3).await?)
}
