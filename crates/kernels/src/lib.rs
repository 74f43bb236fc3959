//! The workspace's only unsafe code. Each module states what makes it sound.

pub mod mapped_file;

pub use mapped_file::MappedFile;
