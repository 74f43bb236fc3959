//! The marks of a page, as its button "Save marks" writes them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What the field `format` of a file says.
const FORMAT: &str = "groundling-judgements";

/// The version of the files that are read.
const VERSION: u64 = 1;

/// A file of marks.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Judgements {
    /// The id of the page.
    pub page: String,
    /// The dataset.
    pub dataset: String,
    /// Boxes of the page, marked or not.
    pub boxes_on_page: u64,
    /// The marked boxes.
    pub boxes: Vec<JudgedBox>,
}

/// A marked box.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct JudgedBox {
    /// The annotation's id.
    pub annotation_id: String,
    /// The task's id.
    pub task_id: String,
    /// Index of the phrase among those of the task's result.
    pub entity: u64,
    /// Index of the box among those of the phrase.
    #[serde(rename = "box")]
    pub index: u64,
    /// The phrase.
    pub phrase: String,
    /// The box's score, from 0 to 1; `None` if it has none.
    pub score: Option<f64>,
    /// Whether the box is right.
    pub verdict: Verdict,
}

/// A reader's mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The box shows what the phrase says.
    Right,
    /// It does not.
    Wrong,
}

/// The bytes are no file of marks.
#[derive(Debug, thiserror::Error)]
pub enum JudgementsError {
    /// They are not JSON with the fields of such a file.
    #[error("not a file of marks: {0}; save one with the button of a page that `groundling review` wrote")]
    Fields(serde_json::Error),
    /// They are JSON of another kind or of a later version.
    #[error("not a file of marks of version {VERSION}: the format is {format:?}, version {version}")]
    Format {
        /// What the field `format` says.
        format: String,
        /// What the field `version` says.
        version: u64,
    },
    /// A score is not between 0 and 1.
    #[error("the score of a box of the annotation {annotation_id} is {score}, not between 0 and 1")]
    Score {
        /// The annotation's id.
        annotation_id: String,
        /// The score.
        score: f64,
    },
}

/// The marked boxes of several files.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Merged {
    /// Each box once.
    pub boxes: Vec<JudgedBox>,
    /// Boxes that are right in one file and wrong in another. They are not among `boxes`.
    pub disagreements: u64,
}

#[derive(Deserialize)]
struct Head {
    #[serde(default)]
    format: String,
    #[serde(default)]
    version: u64,
}

impl Judgements {
    /// Reads a file.
    ///
    /// # Errors
    /// [`JudgementsError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, JudgementsError> {
        let Head { format, version } = serde_json::from_slice(bytes).map_err(JudgementsError::Fields)?;
        if format != FORMAT || version != VERSION {
            return Err(JudgementsError::Format { format, version });
        }
        let read: Self = serde_json::from_slice(bytes).map_err(JudgementsError::Fields)?;
        for one in &read.boxes {
            if let Some(score) = one.score.filter(|score| !(0.0..=1.0).contains(score)) {
                return Err(JudgementsError::Score { annotation_id: one.annotation_id.clone(), score });
            }
        }
        Ok(read)
    }
}

/// Joins files of marks. A box that several of them have counts once; one about which they disagree does not count.
pub fn merge(files: impl IntoIterator<Item = Judgements>) -> Merged {
    let mut known = BTreeMap::<(String, String, u64, u64), (JudgedBox, bool)>::new();
    for one in files.into_iter().flat_map(|file| file.boxes) {
        let key = (one.annotation_id.clone(), one.task_id.clone(), one.entity, one.index);
        known
            .entry(key)
            .and_modify(|(first, agrees)| *agrees &= first.verdict == one.verdict)
            .or_insert_with(|| (one, true));
    }
    let (agreed, disputed): (Vec<_>, Vec<_>) = known.into_values().partition(|(_, agrees)| *agrees);
    Merged { boxes: agreed.into_iter().map(|(one, _)| one).collect(), disagreements: disputed.len() as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(boxes: &str) -> String {
        format!(
            r#"{{"format":"groundling-judgements","version":1,"page":"p","dataset":"d","boxes_on_page":9,"boxes":[{boxes}]}}"#
        )
    }

    fn marked(number: u64, score: &str, verdict: &str) -> String {
        format!(
            r#"{{"annotation_id":"a","task_id":"t","entity":0,"box":{number},"phrase":"a fox","fractions":[0,0,1,1],"score":{score},"verdict":"{verdict}"}}"#
        )
    }

    #[test]
    fn what_is_no_file_of_marks_is_an_error_that_says_why() {
        let read = Judgements::parse(file(&marked(2, "0.5", "wrong")).as_bytes()).unwrap();
        assert_eq!((read.boxes_on_page, read.boxes[0].index, read.boxes[0].score), (9, 2, Some(0.5)));
        assert_eq!(read.boxes[0].verdict, Verdict::Wrong);
        for (bytes, said) in [
            ("<html>".to_owned(), "not a file of marks: expected value"),
            ("{}".to_owned(), "the format is \"\", version 0"),
            (file("").replace("\"version\":1", "\"version\":2"), "version 2"),
            (file(&marked(0, "1.5", "right")), "is 1.5, not between 0 and 1"),
            (file(&marked(0, "0.5", "maybe")), "unknown variant `maybe`"),
            (file("{}"), "missing field `annotation_id`"),
        ] {
            let error = Judgements::parse(bytes.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn a_box_of_several_files_counts_once_and_not_at_all_if_they_disagree() {
        let files = [
            [marked(0, "0.5", "right"), marked(1, "null", "wrong")].join(","),
            [marked(0, "0.5", "right"), marked(1, "null", "right"), marked(2, "1", "wrong")].join(","),
        ];
        let merged = merge(files.map(|boxes| Judgements::parse(file(&boxes).as_bytes()).unwrap()));
        assert_eq!(merged.boxes.iter().map(|one| one.index).collect::<Vec<_>>(), [0, 2]);
        assert_eq!(merged.disagreements, 1);
    }
}
