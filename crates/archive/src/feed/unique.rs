//! Objects with an ETag that another object had before.

use std::collections::HashSet;

use tokio::sync::{Mutex, MutexGuard};
use wire::identity::sha256_hex;

use crate::object::{Page, Position, SourceObject};
use crate::source::error::SourceError;
use crate::source::{Lane, Source};

/// The ETags that have become jobs. 16 bytes of memory and some overhead for each.
#[derive(Debug, Default)]
pub(crate) struct Unique {
    seen: Mutex<HashSet<u128>>,
}

impl Unique {
    /// Held from the look at the ETags until their jobs are stored, so that no lane leaves an object out for a job that
    /// is never stored.
    pub(crate) async fn lock(&self) -> MutexGuard<'_, HashSet<u128>> {
        self.seen.lock().await
    }

    /// Learns what a lane has stored until its cursor, by reading it again.
    pub(crate) async fn learn(
        &self,
        source: &Source,
        lane: &Lane,
        until: &Position,
        selection: &crate::filter::Selection,
    ) -> Result<(), SourceError> {
        if *until == Position::Start {
            return Ok(());
        }
        let mut pages = source.pages(lane, Position::Start, selection.clone());
        while let Some(page) = pages.recv().await {
            let page = page?;
            let is_last = is_at(&page, until);
            let mut seen = self.lock().await;
            for object in page.objects.iter().filter(|object| is_before(object, until)) {
                seen.extend(key(object));
            }
            if is_last {
                break;
            }
        }
        Ok(())
    }
}

/// Keeps the objects whose ETag is not in `seen`, the first one of each; gives their ETags.
pub(crate) fn retain_new(objects: &mut Vec<SourceObject>, seen: &HashSet<u128>) -> HashSet<u128> {
    let mut new = HashSet::new();
    objects.retain(|object| key(object).is_none_or(|etag| !seen.contains(&etag) && new.insert(etag)));
    new
}

fn key(object: &SourceObject) -> Option<u128> {
    let etag = object.etag.as_deref()?;
    // Most are an MD5.
    let hash = match etag.len() {
        32 => u128::from_str_radix(etag, 16).ok(),
        _ => None,
    };
    hash.or_else(|| u128::from_str_radix(sha256_hex(etag.as_bytes()).get(..32)?, 16).ok())
}

/// Whether the cursor is at the end of this page or within it.
fn is_at(page: &Page, until: &Position) -> bool {
    match (&page.after, until) {
        (Position::End, _) => true,
        (Position::Key(key), Position::Key(until)) => key >= until,
        (Position::Row { file, row, .. }, Position::Row { file: until_file, row: until, .. }) => {
            file > until_file || (file == until_file && row >= until)
        }
        _ => false,
    }
}

/// Rows are read in pages that begin at the same rows each time, so only keys can be beyond the cursor.
fn is_before(object: &SourceObject, until: &Position) -> bool {
    match until {
        Position::Key(until) => object.key <= *until,
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
        let seen = key(&object("", Some("y"))).into_iter().collect();
        let new = retain_new(&mut objects, &seen);
        let kept: Vec<_> = objects.iter().map(|object| object.key.as_str()).collect();
        assert_eq!((kept, new.len()), (vec!["a", "b", "d", "e"], 2));
    }
}
