//! A Parquet file that is encoded on a thread of its own, beside the one that collects the rows.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::ColumnPath;

use super::error::ExportError;
use super::parquet_columns::ColumnBuffer;
use super::staged_file::{Finished, StagedFile};

/// Rows of a data page at most, so that the page index leads to few rows.
const PAGE_ROWS: usize = 1000;

/// The rows of a row group.
pub(crate) trait RowGroup: Default + Send + 'static {
    /// The columns in the order of the schema. Those beyond the schema are not written.
    fn columns(&mut self) -> Vec<&mut dyn ColumnBuffer>;
}

type Encoder = JoinHandle<Result<StagedFile, ExportError>>;

/// A Parquet file of a shard.
pub(crate) struct ParquetFile<R> {
    path: String,
    full: Sender<R>,
    /// Row groups that were written and have no rows any more. One is filled while another is written.
    empty: Receiver<R>,
    /// `None` after its error was reported.
    encoder: Option<Encoder>,
}

impl<R: RowGroup> ParquetFile<R> {
    /// A file with this schema, in the text form of Parquet, and these entries of its metadata. `unique` are the columns
    /// whose values are mostly different: a dictionary makes them larger.
    pub(crate) fn create(
        file: StagedFile,
        schema: &str,
        unique: &[&str],
        metadata: impl IntoIterator<Item = (&'static str, String)>,
    ) -> Result<Self, ExportError> {
        let schema = parse_message_type(schema).map_err(|error| file.failed(error))?;
        let path = file.path().display().to_string();
        let writer = SerializedFileWriter::new(file, Arc::new(schema), Arc::new(properties(unique, metadata)))
            .map_err(|error| ExportError::file(&path, error))?;
        let ((full, received), (written, empty)) = (channel(), channel());
        drop(written.send(R::default()));
        let encoder = thread::Builder::new()
            .name("parquet".into())
            .spawn({
                let path = path.clone();
                move || encode(writer, &received, &written).map_err(|error| ExportError::file(path, error))
            })
            .map_err(|error| ExportError::file(&path, error))?;
        Ok(Self { path, full, empty, encoder: Some(encoder) })
    }

    /// Writes these rows as one row group, and puts an empty one in their place.
    pub(crate) fn write_row_group(&mut self, rows: &mut R) -> Result<(), ExportError> {
        // The encoder ends before its sender does only with an error.
        let Ok(empty) = self.empty.recv() else { return encoded(self.encoder.take(), &self.path).map(drop) };
        // If the encoder has failed meanwhile, the next call tells.
        drop(self.full.send(std::mem::replace(rows, empty)));
        Ok(())
    }

    /// Completes the file.
    pub(crate) fn finish(self) -> Result<Finished, ExportError> {
        drop(self.full);
        encoded(self.encoder, &self.path)?.finish()
    }
}

/// What the encoder ended with.
fn encoded(encoder: Option<Encoder>, path: &str) -> Result<StagedFile, ExportError> {
    match encoder.map(JoinHandle::join) {
        Some(Ok(ended)) => ended,
        Some(Err(_)) | None => Err(ExportError::file(path, "its encoder panicked")),
    }
}

/// Writes row groups until there are no more, and then the footer.
fn encode<R: RowGroup>(
    mut file: SerializedFileWriter<StagedFile>,
    full: &Receiver<R>,
    empty: &Sender<R>,
) -> Result<StagedFile, ParquetError> {
    for mut rows in full {
        let mut group = file.next_row_group()?;
        for column in rows.columns() {
            column.write(&mut group)?;
        }
        group.close()?;
        drop(empty.send(rows));
    }
    file.into_inner()
}

fn properties(unique: &[&str], metadata: impl IntoIterator<Item = (&'static str, String)>) -> WriterProperties {
    let entries = metadata.into_iter().map(|(name, value)| KeyValue::new(name.to_owned(), value)).collect();
    let picture = ColumnPath::new(vec!["image".to_owned(), "bytes".to_owned()]);
    let properties = unique.iter().fold(WriterProperties::builder(), |properties, column| {
        let path = ColumnPath::new(column.split('.').map(str::to_owned).collect());
        properties.set_column_dictionary_enabled(path, false)
    });
    properties
        .set_compression(Compression::SNAPPY)
        // Pictures are compressed and differ from each other.
        .set_column_compression(picture.clone(), Compression::UNCOMPRESSED)
        .set_column_dictionary_enabled(picture.clone(), false)
        .set_column_statistics_enabled(picture, EnabledStatistics::None)
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_data_page_row_count_limit(PAGE_ROWS)
        .set_key_value_metadata(Some(entries))
        .build()
}
