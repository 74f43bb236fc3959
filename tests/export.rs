//! `groundling export` and `groundling index`: other programs read what they write, and nothing is lost or repeated.
//! `groundling review` and `groundling diff`: their pages in a browser, and what they count.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "export/browser.rs"]
mod browser;
#[path = "export/browsing.rs"]
mod browsing;
#[path = "export/comparing.rs"]
mod comparing;
#[path = "export/filled_stream.rs"]
mod filled_stream;
#[path = "index/mod.rs"]
mod index;
#[path = "export/kills.rs"]
mod kills;
#[path = "export/loading.rs"]
mod loading;
#[path = "export/measurements.rs"]
mod measurements;
#[path = "export/places.rs"]
mod places;
#[path = "export/ranges.rs"]
mod ranges;
#[path = "export/reviewing.rs"]
mod reviewing;
#[path = "export/row_groups.rs"]
mod row_groups;
mod support;
#[path = "export/trimming.rs"]
mod trimming;
