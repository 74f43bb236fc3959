//! Buffers for the columns of a Parquet file.
//!
//! Columns are written with their definition and repetition levels, as explained in
//! <https://parquet.apache.org/docs/file-format/nestedencoding/>.

use bytes::Bytes;
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DataType, DoubleType, FloatType, Int32Type, Int64Type};
use parquet::errors::Result;
use parquet::file::writer::SerializedRowGroupWriter;

use super::staged_file::StagedFile;

/// The values of a column in one row group.
pub(crate) struct Column<T: DataType> {
    values: Vec<T::T>,
    levels: Levels,
}

/// Definition and repetition levels.
#[derive(Default)]
struct Levels {
    /// Not used if the column is neither optional nor repeated.
    definitions: Vec<i16>,
    /// Not used if the column is not repeated.
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
        Self { values: Vec::new(), levels: Levels::default() }
    }
}

impl<T: DataType> Column<T> {
    /// The value of a row, in a column that is neither optional nor repeated.
    pub(crate) fn push(&mut self, value: impl Into<T::T>) {
        self.push_rows(1, value);
    }

    /// The value of a row, in a column that is optional and not repeated.
    pub(crate) fn push_optional(&mut self, value: Option<impl Into<T::T>>) {
        self.push_optional_rows(1, value);
    }

    /// As [`Self::push`], for `rows` rows.
    pub(crate) fn push_rows(&mut self, rows: usize, value: impl Into<T::T>) {
        self.values.extend(std::iter::repeat_n(value.into(), rows));
    }

    /// As [`Self::push_optional`], for `rows` rows.
    pub(crate) fn push_optional_rows(&mut self, rows: usize, value: Option<impl Into<T::T>>) {
        self.levels.definitions.extend(std::iter::repeat_n(i16::from(value.is_some()), rows));
        if let Some(value) = value {
            self.push_rows(rows, value);
        }
    }

    /// A value within lists. `repetition` is the level of the list that this value continues, `parents` the number of
    /// lists and optional groups around it.
    pub(crate) fn push_in_list(&mut self, repetition: i16, parents: i16, value: impl Into<T::T>) {
        self.values.push(value.into());
        self.levels.push(repetition, parents);
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
        self.levels.push(repetition, parents);
    }
}

impl Levels {
    fn push(&mut self, repetition: i16, parents: i16) {
        self.definitions.push(parents);
        self.repetitions.push(repetition);
    }

    fn clear(&mut self) {
        self.definitions.clear();
        self.repetitions.clear();
    }
}

/// The corners of boxes within lists: four consecutive columns, which have the same levels.
#[derive(Default)]
pub(crate) struct Corners {
    values: [Vec<f64>; 4],
    levels: Levels,
}

impl Corners {
    /// As [`Column::push_in_list`].
    pub(crate) fn push_in_list(&mut self, repetition: i16, parents: i16, corners: [f64; 4]) {
        for (values, corner) in self.values.iter_mut().zip(corners) {
            values.push(corner);
        }
        self.levels.push(repetition, parents);
    }

    /// As [`Column::push_at`].
    pub(crate) fn push_at(&mut self, repetition: i16, parents: i16, corners: Option<[f64; 4]>) {
        match corners {
            Some(corners) => self.push_in_list(repetition, parents + 1, corners),
            None => self.push_absent(repetition, parents),
        }
    }

    /// As [`Column::push_absent`].
    pub(crate) fn push_absent(&mut self, repetition: i16, parents: i16) {
        self.levels.push(repetition, parents);
    }
}

/// The texts of a column in one row group. They are parts of one buffer, because most are short.
#[derive(Default)]
pub(crate) struct Text {
    column: Column<ByteArrayType>,
    bytes: Vec<u8>,
    /// Where each text ends in `bytes`, and how many consecutive rows have it.
    ends: Vec<(usize, usize)>,
}

impl Text {
    /// A text of a row.
    pub(crate) fn push(&mut self, text: &str) {
        self.push_rows(1, text);
    }

    /// The same text for `rows` rows.
    pub(crate) fn push_rows(&mut self, rows: usize, text: &str) {
        self.bytes.extend_from_slice(text.as_bytes());
        self.ends.push((self.bytes.len(), rows));
    }

    /// An optional text of a row.
    pub(crate) fn push_optional(&mut self, text: Option<&str>) {
        self.push_optional_rows(1, text);
    }

    /// The same optional text for `rows` rows.
    pub(crate) fn push_optional_rows(&mut self, rows: usize, text: Option<&str>) {
        self.column.levels.definitions.extend(std::iter::repeat_n(i16::from(text.is_some()), rows));
        if let Some(text) = text {
            self.push_rows(rows, text);
        }
    }

    /// As [`Column::push_in_list`].
    pub(crate) fn push_in_list(&mut self, repetition: i16, parents: i16, text: &str) {
        self.push(text);
        self.column.push_absent(repetition, parents);
    }

    /// As [`Column::push_absent`].
    pub(crate) fn push_absent(&mut self, repetition: i16, parents: i16) {
        self.column.push_absent(repetition, parents);
    }
}

/// A column whatever its type, or several consecutive ones.
pub(crate) trait ColumnBuffer {
    /// Writes the values as the next columns of the row group, and removes them. Those beyond the schema are not written.
    fn write(&mut self, group: &mut SerializedRowGroupWriter<'_, StagedFile>) -> Result<()>;
}

impl ColumnBuffer for Text {
    fn write(&mut self, group: &mut SerializedRowGroupWriter<'_, StagedFile>) -> Result<()> {
        let next = Vec::with_capacity(self.bytes.len());
        let bytes = Bytes::from(std::mem::replace(&mut self.bytes, next));
        let mut start = 0;
        for (end, rows) in self.ends.drain(..) {
            self.column.values.extend(std::iter::repeat_n(ByteArray::from(bytes.slice(start..end)), rows));
            start = end;
        }
        self.column.write(group)
    }
}

impl<T: DataType> ColumnBuffer for Column<T> {
    fn write(&mut self, group: &mut SerializedRowGroupWriter<'_, StagedFile>) -> Result<()> {
        write_next::<T>(group, &self.values, &self.levels)?;
        self.values.clear();
        self.levels.clear();
        Ok(())
    }
}

impl ColumnBuffer for Corners {
    fn write(&mut self, group: &mut SerializedRowGroupWriter<'_, StagedFile>) -> Result<()> {
        for values in &mut self.values {
            write_next::<DoubleType>(group, values, &self.levels)?;
            values.clear();
        }
        self.levels.clear();
        Ok(())
    }
}

/// Writes the next column of the schema, if there is one.
fn write_next<T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, StagedFile>,
    values: &[T::T],
    levels: &Levels,
) -> Result<()> {
    let Some(mut column) = group.next_column()? else { return Ok(()) };
    let writer = column.typed::<T>();
    let descriptor = writer.get_descriptor();
    let definitions = (descriptor.max_def_level() > 0).then_some(levels.definitions.as_slice());
    let repetitions = (descriptor.max_rep_level() > 0).then_some(levels.repetitions.as_slice());
    writer.write_batch(values, definitions, repetitions)?;
    column.close()
}
