//! The ETags seen so far in a dataset, so that objects with the same ETag share one job.

use std::collections::HashSet;

use tokio::sync::{Mutex, MutexGuard};

use crate::digest::sha256_u128;
use crate::filter::Selection;
use crate::object::{Page, Position, SourceObject};
use crate::source::error::SourceError;
use crate::source::{Lane, Source};

/// The ETags seen so far. Takes about 40 bytes of memory for each.
#[derive(Debug, Default)]
pub(crate) struct SeenEtags {
    etags: Mutex<HashSet<u128>>,
}

impl SeenEtags {
    /// Locks the set. The lock is held from the lookup until the jobs are stored: otherwise a lane could skip an object
    /// because of a job that is never stored.
    pub(crate) async fn lock(&self) -> MutexGuard<'_, HashSet<u128>> {
        self.etags.lock().await
    }

    /// Adds the ETags of a lane's objects up to its cursor at `end`, by reading them again.
    pub(crate) async fn load(
        &self,
        source: &Source,
        lane: &Lane,
        end: &Position,
        selection: &Selection,
    ) -> Result<(), SourceError> {
        if *end == Position::Start {
            return Ok(());
        }
        let mut pages = source.pages(lane, Position::Start, selection.clone());
        while let Some(page) = pages.recv().await {
            let page = page?;
            let is_last = reaches(&page, end);
            let mut seen = self.lock().await;
            for object in page.objects.iter().filter(|object| is_before(object, end)) {
                seen.extend(digest(object));
            }
            if is_last {
                break;
            }
        }
        Ok(())
    }
}

/// Removes the objects whose ETag is in `seen` or occurred before in `objects`. Returns the ETags of the others.
pub(crate) fn retain_new(objects: &mut Vec<SourceObject>, seen: &HashSet<u128>) -> HashSet<u128> {
    let mut new = HashSet::new();
    objects.retain(|object| digest(object).is_none_or(|etag| !seen.contains(&etag) && new.insert(etag)));
    new
}

fn digest(object: &SourceObject) -> Option<u128> {
    let etag = object.etag.as_deref()?;
    // Most ETags are an MD5.
    let md5 = match etag.len() {
        32 => u128::from_str_radix(etag, 16).ok(),
        _ => None,
    };
    Some(md5.unwrap_or_else(|| sha256_u128(etag.as_bytes())))
}

/// Whether the page ends at or after the cursor at `end`.
fn reaches(page: &Page, end: &Position) -> bool {
    match (&page.after, end) {
        (Position::End, _) => true,
        (Position::Key(key), Position::Key(end)) => key >= end,
        (Position::Row { file, row, .. }, Position::Row { file: end_file, row: end, .. }) => {
            file > end_file || (file == end_file && row >= end)
        }
        _ => false,
    }
}

/// Whether the object is before the cursor. Pages of rows always begin at the same rows, so only keys can be after it.
fn is_before(object: &SourceObject, end: &Position) -> bool {
    match end {
        Position::Key(end) => object.key <= *end,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_object_of_each_etag_is_kept_and_those_without_one() {
        let object = |key: &str, etag: Option<&str>| SourceObject {
            key: key.into(),
            etag: etag.map(str::to_owned),
            ..SourceObject::default()
        };
        let md5 = "d41d8cd98f00b204e9800998ecf8427e";
        let mut objects = vec![
            object("a", Some(md5)),
            object("b", Some("x-2")),
            object("c", Some(md5)),
            object("d", None),
            object("e", None),
            object("f", Some("y")),
        ];
        let seen = digest(&object("", Some("y"))).into_iter().collect();
        let new = retain_new(&mut objects, &seen);
        let kept: Vec<_> = objects.iter().map(|object| object.key.as_str()).collect();
        assert_eq!((kept, new.len()), (vec!["a", "b", "d", "e"], 2));
    }
}
