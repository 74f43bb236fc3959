//! Annotations for reviewers: [`draw`] draws boxes into a picture, [`page()`] makes one HTML file of many pictures.
//!
//! The crate takes plain data, so it depends neither on the model nor on the message broker.
#![forbid(unsafe_code)]
#![warn(clippy::print_stderr, clippy::print_stdout)]

mod annotation;
mod card;
mod colour;
mod draw;
mod entity;
mod font;
mod html;
mod layer;
mod page;
mod picture;
mod place;
mod spans;

pub use annotation::{Annotated, Finish, Labelled, Page, PageItem};
pub use draw::draw;
pub use page::page;
pub use picture::{Picture, PictureError};
