//! The generated messages of `proto/groundling/v1`.
#![allow(missing_docs, rustdoc::invalid_html_tags, clippy::all)]

include!(concat!(env!("OUT_DIR"), "/groundling.v1.rs"));
