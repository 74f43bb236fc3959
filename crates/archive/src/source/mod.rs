//! Sources of objects: the keys of a prefix, an S3 Inventory, or a manifest. A source is divided into lanes, which are
//! read in parallel. Each lane has a fixed order and can be read from any position on.

pub mod address;
mod checked;
mod download;
pub mod error;
mod files;
mod inventory;
mod listing;
mod outage;
pub mod row;
mod split;
pub mod store;
mod store_error;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::filter::Selection;
use crate::object::{Page, Position};
use address::Address;
use error::SourceError;
use files::{LaneFiles, SourceFile};
use listing::Range;
pub(crate) use outage::Outage;
use row::Layout;
use store::Store;

/// Maximum number of pages of a lane that are buffered.
const BUFFERED_PAGES: usize = 2;

/// A source.
#[derive(Debug, Clone)]
pub struct Source {
    store: Store,
    kind: Kind,
    identity: String,
}

#[derive(Debug, Clone)]
enum Kind {
    Prefix { bucket: String, prefix: String },
    Files { files: Vec<SourceFile>, layout: Layout },
}

/// A part of a source that is read in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lane {
    /// The keys greater than `after` and at most `until`.
    Keys {
        /// `None` for no lower bound.
        after: Option<String>,
        /// `None` for no upper bound.
        until: Option<String>,
    },
    /// The files `first`, `first + step`, `first + 2·step` and so on.
    Files {
        /// The index of the first file.
        first: usize,
        /// The number of lanes of the source.
        step: usize,
    },
}

impl Source {
    /// Opens a source. `bucket` is the bucket of rows without a bucket.
    ///
    /// # Errors
    /// [`SourceError`] if a manifest cannot be read.
    pub async fn open(store: Store, address: Address, bucket: Option<String>) -> Result<Self, SourceError> {
        let (kind, identity) = match address {
            Address::Prefix { bucket, prefix } => (Kind::Prefix { bucket, prefix }, String::new()),
            Address::Inventory(place) => {
                let (files, layout) = inventory::open(&store, &place).await?;
                (Kind::Files { files, layout }, store.identity(&place).await?)
            }
            Address::Manifest(place, format) => {
                let identity = store.identity(&place).await?;
                let layout = Layout { columns: None, encoded_keys: false, bucket };
                (Kind::Files { files: vec![SourceFile { place, format, md5: None }], layout }, identity)
            }
        };
        Ok(Self { store, kind, identity })
    }

    /// A text that changes with the contents of a manifest. Empty for a prefix.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// The bucket, if all objects are in one that is known before the source is read.
    pub fn bucket(&self) -> Option<&str> {
        match &self.kind {
            Kind::Prefix { bucket, .. } => Some(bucket),
            Kind::Files { layout, .. } => layout.bucket.as_deref(),
        }
    }

    /// Whether the store of the source answers.
    pub(crate) fn outage(&self) -> &Outage {
        self.store.outage()
    }

    /// Divides the source into lanes, of which `parallel` are to be read in parallel. Each object is in exactly one lane.
    ///
    /// # Errors
    /// [`SourceError`] if the keys cannot be sampled.
    pub async fn lanes(&self, parallel: usize) -> Result<Vec<Lane>, SourceError> {
        match &self.kind {
            Kind::Prefix { bucket, prefix } => {
                let mut lanes = Vec::new();
                let mut after = None;
                for boundary in split::split(&self.store, bucket, prefix, parallel).await? {
                    lanes.push(Lane::Keys { after: after.replace(boundary.clone()), until: Some(boundary) });
                }
                lanes.push(Lane::Keys { after, until: None });
                Ok(lanes)
            }
            Kind::Files { files, .. } => {
                let step = files.len().clamp(1, parallel.max(1));
                Ok((0..step).map(|first| Lane::Files { first, step }).collect())
            }
        }
    }

    /// Reads a lane from `position` on, in another task, until the receiver is dropped. The last page ends at
    /// [`Position::End`], unless there is an error.
    pub fn pages(
        &self,
        lane: &Lane,
        position: Position,
        selection: Selection,
    ) -> mpsc::Receiver<Result<Page, SourceError>> {
        let (sender, pages) = mpsc::channel(BUFFERED_PAGES);
        let store = self.store.clone();
        match (&self.kind, lane) {
            (Kind::Prefix { bucket, prefix }, Lane::Keys { after, until }) => {
                let is_alone = after.is_none() && until.is_none();
                let (bucket, prefix) = (bucket.clone(), prefix.clone());
                let range = Range { bucket, prefix, after: after.clone(), until: until.clone(), is_alone };
                tokio::spawn(listing::send_pages(store, range, position, selection, sender));
            }
            (Kind::Files { files, layout }, Lane::Files { first, step }) => {
                let own = files.iter().enumerate().skip(*first).step_by(*step);
                let files = own.map(|(index, file)| (index, file.clone())).collect();
                let lane = LaneFiles { files, layout: layout.clone() };
                tokio::spawn(files::send_pages(store, lane, position, selection, sender));
            }
            // A plan has only lanes of the kind of its sources.
            _ => drop(sender),
        }
        pages
    }
}
