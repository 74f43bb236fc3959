//! Annotations for reviewers: [`draw`] draws boxes into a picture, [`page()`] makes one HTML file of many pictures,
//! [`comparison_page`] shows two annotations of each picture, and [`Precision`] says what the marks of a page amount to.
//!
//! The crate takes plain data, so it depends neither on the model nor on the message broker.
#![forbid(unsafe_code)]
#![warn(clippy::print_stderr, clippy::print_stdout)]

mod annotation;
mod card;
mod colour;
mod compare;
mod draw;
mod entity;
mod font;
mod gallery;
mod header;
mod html;
mod judgements;
mod layer;
mod page;
mod picture;
mod place;
mod precision;
mod spans;

pub use annotation::{FailedItem, Finish, GroundedEntity, Page, PageItem, SpotCheck, TaskAnswer};
pub use compare::{ComparisonPage, Pair, comparison_page};
pub use draw::draw;
pub use judgements::{JudgedBox, Judgements, JudgementsError, Merged, Verdict, merge};
pub use page::page;
pub use picture::{Picture, PictureError};
pub use precision::{Band, Interval, Precision, Share, Threshold, wilson};
