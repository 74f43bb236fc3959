//! The row groups of Parquet files.

use std::fs::File;

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::RowAccessor;

use crate::filled_stream::{TestEnv, files, synthetic};

/// Rows of a row group without pictures.
const GROUP_ROWS: i64 = 5000;

#[tokio::test(flavor = "multi_thread")]
async fn an_annotation_whose_rows_are_in_two_row_groups_is_whole() {
    let env = TestEnv::start().await;
    // Of three results each, so that the first group ends within an annotation.
    let count = GROUP_ROWS as u64 / 3 + 20;
    env.fill(synthetic(count)).await;
    env.exported("out", &["--format", "parquet"]).await;
    let names = files(std::path::Path::new(&env.path("out"))).into_keys();
    let names: Vec<_> = names.filter(|name| name.ends_with(".parquet")).collect();
    let [name] = &names[..] else { panic!("{names:?}") };
    let reader = SerializedFileReader::new(File::open(env.path(&format!("out/{name}"))).unwrap()).unwrap();
    let groups: Vec<_> = reader.metadata().row_groups().iter().map(|group| group.num_rows()).collect();
    assert_eq!(groups, [GROUP_ROWS, count as i64 * 3 - GROUP_ROWS]);

    let schema = reader.metadata().file_metadata().schema_descr().root_schema().clone();
    let column = |name: &str| schema.get_fields().iter().position(|field| field.name() == name).unwrap();
    let [id, sequence, key, model, task, text] =
        ["annotation_id", "stream_sequence", "key", "model", "task_id", "text"].map(column);
    let mut rows = reader.get_row_iter(None).unwrap();
    for (index, annotation) in synthetic(count).enumerate() {
        for result in &annotation.results {
            let row = rows.next().unwrap().unwrap();
            let text_of = |column| row.get_string(column).unwrap().as_str();
            assert_eq!(text_of(id), annotation.annotation_id);
            assert_eq!(row.get_long(sequence).unwrap(), index as i64 + 1);
            let object = annotation.picture.as_ref().and_then(|picture| picture.object.as_ref());
            assert_eq!(text_of(key), object.unwrap().key);
            assert_eq!(text_of(model), annotation.model.as_ref().unwrap().name);
            assert_eq!((text_of(task), text_of(text)), (&*result.task_id, &*result.text));
        }
    }
    assert!(rows.next().is_none());
}
