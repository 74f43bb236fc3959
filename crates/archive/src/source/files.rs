//! Reads the rows of a source's files, page by page.

use std::io::{BufRead, BufReader, Read};

use flate2::read::MultiGzDecoder;
use parquet::basic::Compression;
use parquet::file::metadata::{ColumnChunkMetaData, RowGroupMetaData};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row as ParquetRow};
use parquet::schema::types::Type;
use tokio::sync::mpsc;

use super::address::{Format, Place};
use super::checked::Checked;
use super::error::SourceError;
use super::row::{Column, Layout, Row, time_text};
use super::store::Store;
use crate::filter::Selection;
use crate::object::{PAGE_SIZE, Page, Position};

/// Maximum length of a line of a JSONL file in bytes.
const MAX_LINE_BYTES: u64 = 1 << 20;

/// A file of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SourceFile {
    pub(crate) place: Place,
    pub(crate) format: Format,
    /// The MD5 of the file in hexadecimal, if the manifest of an inventory contains it.
    pub(crate) md5: Option<String>,
}

/// The files of a lane, in order, with their index in the source.
#[derive(Debug, Clone)]
pub(crate) struct LaneFiles {
    pub(crate) files: Vec<(usize, SourceFile)>,
    pub(crate) layout: Layout,
}

type Pages = mpsc::Sender<Result<Page, SourceError>>;

/// Reads the files from `position` on and sends their pages, until the receiver is dropped.
pub(crate) async fn send_pages(store: Store, lane: LaneFiles, position: Position, selection: Selection, pages: Pages) {
    let (first, mut row, mut byte) = match position {
        Position::Row { file, row, byte } => (file, row, byte),
        _ => (0, 0, None),
    };
    for (index, file) in lane.files.iter().filter(|(index, _)| *index >= first) {
        if *index != first {
            (row, byte) = (0, None);
        }
        let batch = Batch::new(*index, &file.place, row, lane.layout.clone(), selection.clone(), pages.clone());
        match read(&store, file, batch, byte).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                drop(pages.send(Err(error)).await);
                return;
            }
        }
    }
    drop(pages.send(Ok(Page { objects: Vec::new(), seen: 0, after: Position::End })).await);
}

/// Reads one file to its end. Returns `false` if the receiver was dropped.
async fn read(store: &Store, file: &SourceFile, batch: Batch, byte: Option<u64>) -> Result<bool, SourceError> {
    let SourceFile { place, format, md5 } = file;
    let work: Box<dyn FnOnce() -> Result<bool, SourceError> + Send> = match *format {
        Format::Parquet => {
            let file = store.open_seekable(place, md5.as_deref()).await?;
            Box::new(move || batch.read_parquet(file))
        }
        Format::Csv { gzip } => {
            let head = Box::new(Checked::new(store.open(place, 0).await?, md5.as_deref()));
            let rest = match byte {
                Some(byte) => Some((store.open(place, byte).await?, byte)),
                None => None,
            };
            // The decoder reads when it is created, so it is created on the thread that may block.
            Box::new(move || batch.read_csv(unzipped(head, gzip), rest, gzip))
        }
        Format::Jsonl { gzip } => {
            let start = byte.unwrap_or(0);
            let reader = store.open(place, start).await?;
            Box::new(move || batch.read_jsonl(unzipped(reader, gzip), start, gzip))
        }
    };
    tokio::task::spawn_blocking(work).await.map_err(|error| SourceError::file(place, error))?
}

fn unzipped(reader: Box<dyn Read + Send>, gzip: bool) -> Box<dyn Read + Send> {
    if gzip { Box::new(MultiGzDecoder::new(BufReader::new(reader))) } else { reader }
}

/// Collects the rows of a file into pages.
struct Batch {
    file: usize,
    name: String,
    /// The number of rows before the position.
    skip: u64,
    row: u64,
    page: Page,
    layout: Layout,
    selection: Selection,
    pages: Pages,
}

impl Batch {
    fn new(file: usize, place: &Place, skip: u64, layout: Layout, selection: Selection, pages: Pages) -> Self {
        let page = Page { objects: Vec::new(), seen: 0, after: Position::Start };
        Self { file, name: place.to_string(), skip, row: 0, page, layout, selection, pages }
    }

    /// Adds the next row; `byte` is the offset of the one after it. Returns `false` if the receiver was dropped.
    fn add(&mut self, row: Row, byte: Option<u64>) -> Result<bool, SourceError> {
        self.row += 1;
        if self.row <= self.skip {
            return Ok(true);
        }
        let object = row.object(&self.layout).map_err(|problem| self.invalid(problem))?;
        self.page.seen += 1;
        self.page.after = Position::Row { file: self.file, row: self.row, byte };
        self.page.objects.extend(object.filter(|object| self.selection.selects(object)));
        if self.page.seen < PAGE_SIZE as u64 { Ok(true) } else { Ok(self.send()) }
    }

    fn send(&mut self) -> bool {
        if self.page.seen == 0 {
            return true;
        }
        let empty = Page { objects: Vec::new(), seen: 0, after: Position::Start };
        self.pages.blocking_send(Ok(std::mem::replace(&mut self.page, empty))).is_ok()
    }

    fn invalid(&self, problem: String) -> SourceError {
        SourceError::Row { file: self.name.clone(), row: self.row, problem }
    }

    fn unreadable(&self, cause: impl std::fmt::Display) -> SourceError {
        SourceError::file(format!("{}, row {}", self.name, self.row + 1), cause)
    }

    /// `head` is the file from its start. `rest` is the file from the next row on, with its offset, if the position has one.
    fn read_csv(
        mut self,
        head: Box<dyn Read + Send>,
        rest: Option<(Box<dyn Read + Send>, u64)>,
        gzip: bool,
    ) -> Result<bool, SourceError> {
        let open = |reader| csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(reader);
        let (mut reader, mut record) = (open(head), csv::StringRecord::new());
        let mut is_row = reader.read_record(&mut record).map_err(|error| self.unreadable(error))?;
        if !is_row {
            return Ok(true);
        }
        let (columns, is_header) = match &self.layout.columns {
            Some(columns) => (columns.clone(), false),
            None => columns_of(&record).map_err(|problem| SourceError::file(&self.name, problem))?,
        };
        let mut base = 0;
        if let Some((rest, byte)) = rest {
            (reader, base) = (open(rest), byte);
            self.row = self.skip;
            is_row = reader.read_record(&mut record).map_err(|error| self.unreadable(error))?;
        } else if is_header {
            is_row = reader.read_record(&mut record).map_err(|error| self.unreadable(error))?;
        }
        while is_row {
            let mut row = Row::default();
            for (column, text) in columns.iter().zip(&record) {
                row.set(*column, text);
            }
            let byte = (!gzip).then(|| base + reader.position().byte());
            if !self.add(row, byte)? {
                return Ok(false);
            }
            is_row = reader.read_record(&mut record).map_err(|error| self.unreadable(error))?;
        }
        Ok(self.send())
    }

    fn read_jsonl(mut self, reader: Box<dyn Read + Send>, start: u64, gzip: bool) -> Result<bool, SourceError> {
        let (mut reader, mut byte, mut line) = (BufReader::new(reader), start, Vec::new());
        if start > 0 {
            self.row = self.skip;
        }
        loop {
            line.clear();
            let read = (&mut reader).take(MAX_LINE_BYTES).read_until(b'\n', &mut line);
            let length = read.map_err(|error| self.unreadable(error))? as u64;
            if length == 0 {
                return Ok(self.send());
            }
            if length == MAX_LINE_BYTES && line.last() != Some(&b'\n') {
                return Err(self.unreadable(format!("it is longer than {MAX_LINE_BYTES} bytes")));
            }
            byte += length;
            if line.trim_ascii().is_empty() {
                continue;
            }
            let value = serde_json::from_slice(&line).map_err(|error| self.unreadable(json_problem(&error)))?;
            let row = json_row(&value).ok_or_else(|| {
                self.unreadable("it is neither a key nor an object such as {\"bucket\": …, \"key\": …}")
            })?;
            if !self.add(row, (!gzip).then_some(byte))? {
                return Ok(false);
            }
        }
    }

    fn read_parquet(mut self, file: std::fs::File) -> Result<bool, SourceError> {
        let reader = SerializedFileReader::new(file).map_err(|error| SourceError::file(&self.name, error))?;
        if let Some(compression) = other_compression(&reader) {
            let cause = format!("it is compressed with {compression}: only Snappy or uncompressed columns can be read");
            return Err(SourceError::file(&self.name, cause));
        }
        let root = reader.metadata().file_metadata().schema();
        let wanted = root.get_fields().iter().filter(|field| Column::of_name(field.name()) != Column::Other);
        let projection = Type::group_type_builder(root.name()).with_fields(wanted.cloned().collect()).build();
        let projection = projection.map_err(|error| SourceError::file(&self.name, error))?;
        if !projection.get_fields().iter().any(|field| Column::of_name(field.name()) == Column::Key) {
            return Err(SourceError::file(&self.name, "it has no column \"key\""));
        }
        for index in 0..reader.num_row_groups() {
            let group = reader.get_row_group(index).map_err(|error| self.unreadable(error))?;
            let rows = u64::try_from(group.metadata().num_rows()).unwrap_or(0);
            if self.row + rows <= self.skip {
                self.row += rows;
                continue;
            }
            let rows = group.get_row_iter(Some(projection.clone())).map_err(|error| self.unreadable(error))?;
            for row in rows {
                let row = row.map_err(|error| self.unreadable(error))?;
                if !self.add(parquet_row(&row), None)? {
                    return Ok(false);
                }
            }
        }
        Ok(self.send())
    }
}

/// The columns of a file according to its first row, and whether that row is a header. Files without header contain keys,
/// or bucket, key and version.
fn columns_of(first: &csv::StringRecord) -> Result<(Vec<Column>, bool), String> {
    let named: Vec<Column> = first.iter().map(Column::of_name).collect();
    if named.contains(&Column::Key) {
        return Ok((named, true));
    }
    if let Some((name, _)) = first.iter().zip(&named).find(|(_, column)| **column != Column::Other) {
        return Err(format!(
            "its first row is a header with {name:?} and without \"key\": name the column of the keys \"key\""
        ));
    }
    let columns = [Column::Bucket, Column::Key, Column::Version];
    match (first.len(), first.get(0)) {
        (1, _) => Ok((vec![Column::Key], false)),
        (2 | 3, Some(bucket)) if !is_bucket(bucket) => Err(format!(
            "{bucket:?} in its first row cannot be a bucket: a file without a header has keys, or bucket, key and version"
        )),
        (2 | 3, _) => Ok((columns.into_iter().take(first.len()).collect(), false)),
        _ => Err("it has no header with a column \"key\"".to_owned()),
    }
}

/// Whether a bucket of any store can have this name.
fn is_bucket(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
}

/// The error without the number of the line, which is always 1: each line is parsed alone.
fn json_problem(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let problem = text.rsplit_once(" at line ").map_or(text.as_str(), |(problem, _)| problem);
    format!("{problem} at column {}", error.column())
}

/// The compression of the columns that are read, if it is one that cannot be read.
fn other_compression(reader: &SerializedFileReader<std::fs::File>) -> Option<String> {
    let is_read = |column: &&ColumnChunkMetaData| {
        let name = column.column_path().parts().first();
        name.is_some_and(|name| Column::of_name(name) != Column::Other)
    };
    let columns = reader.metadata().row_groups().iter().flat_map(RowGroupMetaData::columns).filter(is_read);
    let other = columns
        .map(ColumnChunkMetaData::compression)
        .find(|compression| !matches!(compression, Compression::UNCOMPRESSED | Compression::SNAPPY))?;
    let text = format!("{other:?}");
    text.split('(').next().map(str::to_owned)
}

fn json_row(value: &serde_json::Value) -> Option<Row> {
    let mut row = Row::default();
    match value {
        serde_json::Value::String(key) => row.set(Column::Key, key),
        serde_json::Value::Object(fields) => {
            for (name, field) in fields {
                match field {
                    serde_json::Value::String(text) => row.set(Column::of_name(name), text),
                    serde_json::Value::Bool(_) | serde_json::Value::Number(_) => {
                        row.set(Column::of_name(name), &field.to_string());
                    }
                    _ => {}
                }
            }
        }
        _ => return None,
    }
    Some(row)
}

fn parquet_row(fields: &ParquetRow) -> Row {
    let mut row = Row::default();
    for (name, field) in fields.get_column_iter() {
        let column = Column::of_name(name);
        match field {
            Field::Str(text) => row.set(column, text),
            Field::Bytes(bytes) => row.set(column, &String::from_utf8_lossy(bytes.data())),
            Field::Bool(is_true) => row.set(column, if *is_true { "true" } else { "false" }),
            Field::Int(number) => row.set(column, &number.to_string()),
            Field::Long(number) => row.set(column, &number.to_string()),
            Field::UInt(number) => row.set(column, &number.to_string()),
            Field::ULong(number) => row.set(column, &number.to_string()),
            Field::TimestampMillis(time) => row.set(column, &time_text(time.div_euclid(1000))),
            Field::TimestampMicros(time) => row.set(column, &time_text(time.div_euclid(1_000_000))),
            _ => {}
        }
    }
    row
}
