//! Writes what has become of each picture: rows or text, drawings, and the page.

use std::path::PathBuf;

use kosmos2::options::GroundedText;
use serde::Serialize;

use super::drawings::Drawings;
use super::failure::Failure;
use super::filter::Filter;
use super::page_writer::PageWriter;
use super::prepare::{Ended, View};
use super::progress::Progress;
use super::recipe::{Recipe, failure_row};
use super::row_files::RowFiles;
use crate::annotate_args::{AnnotateFormat, OutputArgs};
use crate::errors::plain;
use crate::report::{self, JsonV0Row};
use crate::sources::input::{Input, Source};
use crate::sources::skipped::{Reason, Skipped};
use crate::stdout;

/// Where rows are written.
pub(super) enum Rows {
    Stdout,
    Files(RowFiles),
}

impl Rows {
    fn write(&mut self, row: &impl Serialize, progress: &Progress) -> anyhow::Result<()> {
        match self {
            Self::Stdout => progress.print(|| stdout::write_json(row)),
            Self::Files(files) => files.write(row),
        }
    }
}

/// Writes results.
pub(super) struct Results {
    recipe: Recipe,
    filter: Filter,
    format: AnnotateFormat,
    model_name: String,
    rows: Rows,
    drawings: Option<Drawings>,
    page: Option<(PathBuf, PageWriter)>,
    /// Objects that a search found by a name without an extension.
    not_pictures: Skipped,
}

impl Results {
    pub(super) fn new(
        recipe: Recipe,
        filter: Filter,
        format: AnnotateFormat,
        model_name: String,
        rows: Rows,
        drawings: Option<Drawings>,
        args: &OutputArgs,
    ) -> Self {
        let page = args.page.clone().map(|path| (path, PageWriter::default()));
        Self { recipe, filter, format, model_name, rows, drawings, page, not_pictures: Skipped::default() }
    }

    /// Writes the results of a picture and counts it.
    ///
    /// # Errors
    /// The results cannot be written.
    pub(super) fn add(&mut self, input: &Input, ended: Ended, progress: &mut Progress) -> anyhow::Result<()> {
        match ended {
            Ended::Annotated(view, answers) => self.annotated(input, *view, answers, progress),
            Ended::Present(row) => {
                if let (Some((_, page)), Some((row, picture))) = (&mut self.page, row) {
                    page.add(&row, picture);
                }
                progress.count(|counts| counts.skip(Reason::AlreadyDone, 1));
                Ok(())
            }
            Ended::NoPicture => {
                self.not_pictures.add(Reason::NotAPicture, || input.source.name());
                progress.count(|counts| counts.skip(Reason::NotAPicture, 1));
                Ok(())
            }
            Ended::Failed(failure) => self.failed(&input.source, &failure, progress),
        }
    }

    fn annotated(
        &mut self,
        input: &Input,
        view: View,
        mut answers: Vec<GroundedText>,
        progress: &mut Progress,
    ) -> anyhow::Result<()> {
        let name = input.source.name();
        answers.iter_mut().for_each(|answer| self.filter.apply(answer));
        let mut errors = Vec::new();
        for (index, answer) in answers.iter().enumerate() {
            let prompt = (answers.len() > 1).then_some(index + 1);
            let drawing = self.drawings.as_mut().zip(view.picture.as_ref()).map(|(drawings, picture)| {
                let drawn = review::draw(&picture.rgb, &report::grounded_entities(answer));
                drawings.write(&input.mirror, prompt, &drawn)
            });
            let drawing = drawing.and_then(|written| written.map_err(|error| errors.push(error)).ok());
            let row = JsonV0Row::new(&name, &self.model_name, answer).with_drawing(drawing.as_deref());
            match self.format {
                AnnotateFormat::Text => progress.print(|| row.print_text())?,
                AnnotateFormat::JsonV0 => progress.print(|| row.print_json())?,
                AnnotateFormat::Json => {}
            }
        }
        if self.format == AnnotateFormat::Json || self.page.is_some() {
            let row = self.recipe.annotation(&name, view.facts, answers);
            if self.format == AnnotateFormat::Json {
                self.rows.write(&row, progress)?;
            }
            if let Some((_, page)) = &mut self.page {
                page.add(&row, view.for_page);
            }
        }
        for error in &errors {
            progress.message(&Failure::internal(&plain(error.as_ref())).named(&name));
        }
        progress.count(|counts| if errors.is_empty() { counts.done += 1 } else { counts.failed += 1 });
        Ok(())
    }

    /// Writes the failure of a picture, or of a directory or prefix, and counts it.
    ///
    /// # Errors
    /// The row cannot be written.
    pub(super) fn failed(&mut self, source: &Source, failure: &Failure, progress: &mut Progress) -> anyhow::Result<()> {
        progress.message(&failure.named(&source.name()));
        progress.count(|counts| counts.failed += 1);
        if self.format == AnnotateFormat::Json {
            self.rows.write(&failure_row(source, failure), progress)?;
        }
        Ok(())
    }

    /// Completes the files. Returns messages for the user.
    ///
    /// # Errors
    /// A file cannot be written.
    pub(super) fn finish(self) -> anyhow::Result<Vec<String>> {
        let mut messages: Vec<_> = self.not_pictures.message("names without an extension").into_iter().collect();
        if let Rows::Files(files) = self.rows {
            files.finish()?;
        }
        if let Some(drawings) = self.drawings {
            messages.push(format!("drawings: {}", drawings.dir().display()));
        }
        if let Some((path, page)) = self.page {
            messages.extend(page.write(&path)?);
            messages.push(format!("page: {}", path.display()));
        }
        Ok(messages)
    }
}
