//! From picture files to the vision tower's input: decoded, upright, opaque, resized to 224×224 and normalized.
//!
//! Decoding and resizing reproduce Pillow 13 byte for byte; see [`decode`] and [`ImageProcessor`].

mod avif;
mod bmp;
mod bytes;
mod config;
mod deadline_reader;
mod decode;
mod error;
mod exif;
mod format;
mod gif;
mod header;
mod jpeg;
mod limits;
mod orientation;
mod picture;
mod pixel_values;
mod png;
mod resample;
mod tiff;
mod transparency;
mod webp;

pub use config::{ImageProcessor, ProcessorConfigError};
pub use decode::decode;
pub use error::{DecodeLimit, ImageError};
pub use format::PictureFormat;
pub use header::Header;
pub use limits::DecodeOptions;
pub use picture::{Picture, PictureFacts};
pub use pixel_values::PixelValues;
