//! Buffers for the columns of a Parquet file, and the file that they are written to.
//!
//! Columns are written with their definition and repetition levels, as explained in
//! <https://parquet.apache.org/docs/file-format/nestedencoding/>.

use std::sync::Arc;

use bytes::Bytes;
use parquet::basic::Compression;
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DataType, DoubleType, FloatType, Int32Type, Int64Type};
use parquet::errors::Result;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::ColumnPath;

use super::error::ExportError;
use super::staged_file::{Finished, StagedFile};

/// Rows of a data page at most, so that the page index leads to few rows.
const PAGE_ROWS: usize = 1000;

/// The values of a column in one row group.
pub(crate) struct Column<T: DataType> {
    values: Vec<T::T>,
    definitions: Vec<i16>,
    repetitions: Vec<i16>,
}

/// Pictures, which are shared with the messages that they came from.
pub(crate) type Blob = Column<ByteArrayType>;
pub(crate) type Int32 = Column<Int32Type>;
pub(crate) type Int64 = Column<Int64Type>;
pub(crate) type Float = Column<FloatType>;
pub(crate) type Double = Column<DoubleType>;
pub(crate) type Bool = Column<BoolType>;

impl<T: DataType> Default for Column<T> {
    fn default() -> Self {
        Self { values: Vec::new(), definitions: Vec::new(), repetitions: Vec::new() }
    }
}

impl<T: DataType> Column<T> {
    /// The value of a row, in a column that is neither optional nor repeated.
    pub(crate) fn push(&mut self, value: impl Into<T::T>) {
        self.values.push(value.into());
        self.definitions.push(0);
        self.repetitions.push(0);
    }

    /// The value of a row, in a column that is optional and not repeated.
    pub(crate) fn push_optional(&mut self, value: Option<impl Into<T::T>>) {
        self.push_at(0, 0, value);
    }

    /// A value within lists. `repetition` is the level of the list that this value continues, `parents` the number of
    /// lists and optional groups around it.
    pub(crate) fn push_in_list(&mut self, repetition: i16, parents: i16, value: impl Into<T::T>) {
        self.values.push(value.into());
        self.definitions.push(parents);
        self.repetitions.push(repetition);
    }

    /// An optional value within lists.
    pub(crate) fn push_at(&mut self, repetition: i16, parents: i16, value: Option<impl Into<T::T>>) {
        match value {
            Some(value) => self.push_in_list(repetition, parents + 1, value),
            None => self.push_absent(repetition, parents),
        }
    }

    /// No value: of the lists and optional groups around it, only `parents` have one.
    pub(crate) fn push_absent(&mut self, repetition: i16, parents: i16) {
        self.definitions.push(parents);
        self.repetitions.push(repetition);
    }
}

/// The texts of a column in one row group. They are parts of one buffer, because most are short.
#[derive(Default)]
pub(crate) struct Text {
    column: Column<ByteArrayType>,
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Text {
    /// A text of a row.
    pub(crate) fn push(&mut self, text: &str) {
        self.push_in_list(0, 0, text);
    }

    /// An optional text of a row.
    pub(crate) fn push_optional(&mut self, text: Option<&str>) {
        match text {
            Some(text) => self.push_in_list(0, 1, text),
            None => self.push_absent(0, 0),
        }
    }

    /// As [`Column::push_in_list`].
    pub(crate) fn push_in_list(&mut self, repetition: i16, parents: i16, text: &str) {
        self.bytes.extend_from_slice(text.as_bytes());
        self.ends.push(self.bytes.len());
        self.column.push_absent(repetition, parents);
    }

    /// As [`Column::push_absent`].
    pub(crate) fn push_absent(&mut self, repetition: i16, parents: i16) {
        self.column.push_absent(repetition, parents);
    }
}

impl ColumnBuffer for Text {
    fn write(&mut self, writer: &mut SerializedColumnWriter<'_>) -> Result<()> {
        let next = Vec::with_capacity(self.bytes.len());
        let bytes = Bytes::from(std::mem::replace(&mut self.bytes, next));
        let mut start = 0;
        for end in self.ends.drain(..) {
            self.column.values.push(ByteArray::from(bytes.slice(start..end)));
            start = end;
        }
        self.column.write(writer)
    }
}

/// A column whatever its type.
pub(crate) trait ColumnBuffer {
    /// Writes the values and removes them.
    fn write(&mut self, writer: &mut SerializedColumnWriter<'_>) -> Result<()>;
}

impl<T: DataType> ColumnBuffer for Column<T> {
    fn write(&mut self, writer: &mut SerializedColumnWriter<'_>) -> Result<()> {
        writer.typed::<T>().write_batch(&self.values, Some(&self.definitions), Some(&self.repetitions))?;
        self.values.clear();
        self.definitions.clear();
        self.repetitions.clear();
        Ok(())
    }
}

/// A Parquet file of a shard.
pub(crate) struct ParquetFile {
    file: SerializedFileWriter<StagedFile>,
}

impl ParquetFile {
    /// A file with this schema, in the text form of Parquet, and these entries of its metadata. `unique` are the columns
    /// whose values are mostly different: a dictionary makes them larger.
    pub(crate) fn create(
        file: StagedFile,
        schema: &str,
        unique: &[&str],
        metadata: impl IntoIterator<Item = (&'static str, String)>,
    ) -> std::result::Result<Self, ExportError> {
        let entries = metadata.into_iter().map(|(name, value)| KeyValue::new(name.to_owned(), value)).collect();
        let picture = ColumnPath::new(vec!["image".to_owned(), "bytes".to_owned()]);
        let properties = unique.iter().fold(WriterProperties::builder(), |properties, column| {
            let path = ColumnPath::new(column.split('.').map(str::to_owned).collect());
            properties.set_column_dictionary_enabled(path, false)
        });
        let properties = properties
            .set_compression(Compression::SNAPPY)
            // Pictures are compressed and differ from each other.
            .set_column_compression(picture.clone(), Compression::UNCOMPRESSED)
            .set_column_dictionary_enabled(picture.clone(), false)
            .set_column_statistics_enabled(picture, EnabledStatistics::None)
            .set_statistics_enabled(EnabledStatistics::Page)
            .set_data_page_row_count_limit(PAGE_ROWS)
            .set_key_value_metadata(Some(entries))
            .build();
        let schema = parse_message_type(schema).map_err(|error| file.failed(error))?;
        let name = file.path().display().to_string();
        let file = SerializedFileWriter::new(file, Arc::new(schema), Arc::new(properties))
            .map_err(|error| ExportError::file(name, error))?;
        Ok(Self { file })
    }

    /// Writes the columns, in the order of the schema, as one row group.
    pub(crate) fn write_row_group(
        &mut self,
        columns: &mut [&mut dyn ColumnBuffer],
    ) -> std::result::Result<(), ExportError> {
        self.write(columns).map_err(|error| self.file.inner().failed(error))
    }

    fn write(&mut self, columns: &mut [&mut dyn ColumnBuffer]) -> Result<()> {
        let mut group = self.file.next_row_group()?;
        for column in columns {
            if let Some(mut writer) = group.next_column()? {
                column.write(&mut writer)?;
                writer.close()?;
            }
        }
        group.close()?;
        Ok(())
    }

    pub(crate) fn finish(self) -> std::result::Result<Finished, ExportError> {
        let name = self.file.inner().path().display().to_string();
        // Writes the footer.
        self.file.into_inner().map_err(|error| ExportError::file(name, error))?.finish()
    }
}
