//! One picture of the page with its annotations.

use std::collections::HashMap;

use maud::{Markup, html};

use crate::annotation::{Finish, PageItem, TaskAnswer};
use crate::colour::Assigned;
use crate::entity::Entity;
use crate::html::Text;
use crate::layer::Layer;
use crate::picture::Picture;
use crate::spans::{Piece, cut};

/// The longest phrase that is kept on one line of the text, in characters.
const ONE_LINE: usize = 28;

/// The size of the background that shows the boxes of a missing picture.
const BLANK: (u32, u32) = (400, 300);

/// The colours of the phrases of one card, or of cards that are compared.
pub(super) struct Colours<'a>(HashMap<&'a str, usize>);

impl<'a> Colours<'a> {
    pub(super) fn of(annotations: impl IntoIterator<Item = &'a TaskAnswer>) -> Self {
        let mut assigned = Assigned::default();
        let phrases = annotations.into_iter().flat_map(|one| &one.entities).map(|entity| entity.phrase.as_str());
        Self(phrases.map(|phrase| (phrase, assigned.number(phrase))).collect())
    }

    /// The number of colours.
    pub(super) fn len(&self) -> usize {
        self.0.values().max().map_or(0, |most| most + 1)
    }
}

/// One item as HTML.
pub(super) struct Card<'a> {
    pub(super) item: &'a PageItem,
    /// Unique within the page.
    pub(super) number: usize,
    pub(super) colours: &'a Colours<'a>,
    /// Whether boxes can be marked right or wrong.
    pub(super) is_checked: bool,
}

impl<'a> Card<'a> {
    /// About how high the card is in the grid, in rem, in steps of 2: the browser reserves this space for cards that it has
    /// not laid out yet.
    pub(super) fn height(&self) -> usize {
        let boxes = |one: &TaskAnswer| one.entities.iter().map(|entity| entity.boxes.len()).sum::<usize>();
        let rows = |one: &TaskAnswer| if self.checked_id().is_some() { boxes(one) * 9 / 5 } else { 0 };
        let lines = |one: &TaskAnswer| 5 + one.text.chars().count() / 30 * 9 / 5 + rows(one);
        (21 + self.item.annotations.iter().map(lines).sum::<usize>()).div_ceil(2) * 2
    }

    pub(super) fn html(&self) -> Markup {
        let annotations = &self.item.annotations;
        let name = annotations.first().map_or("", |one| one.name.as_str());
        let (card, heading) = (format!("p{}", self.number), format!("n{}", self.number));
        html! {
            article.card.{ "h" (self.height()) } id=(card) data-annotation=[self.checked_id()] tabindex="-1" aria-labelledby=(heading) {
                header {
                    h2 id=(heading) { a href={ "#" (card) } { bdi.name { (Text(name)) } } }
                    button.grow.js type="button" aria-pressed="false" title="Enlarge (e)"
                        aria-label={ "Enlarge " (Text(name)) } { "Enlarge" }
                }
                (self.stage())
                div.said {
                    @for (index, annotation) in annotations.iter().enumerate() { (self.reading(index, annotation)) }
                    @if annotations.is_empty() { p.none { "This picture has no annotations." } }
                }
            }
        }
    }

    /// The annotation's id, if its boxes can be marked.
    fn checked_id(&self) -> Option<Text<'a>> {
        (self.is_checked && !self.item.annotation_id.is_empty()).then_some(Text(&self.item.annotation_id))
    }

    /// The picture, with a layer of boxes for each annotation.
    fn stage(&self) -> Markup {
        let (width, height) = self.item.picture.as_ref().map_or(BLANK, Picture::size);
        let description = self.item.annotations.first().map_or("", |one| one.text.as_str());
        html! {
            div.stage {
                @if let Some(picture) = &self.item.picture {
                    img src=(picture.address()) alt=(Text(description)) width=(width) height=(height) decoding="async"
                        loading="lazy";
                } @else {
                    p.lost { "The picture is not available." }
                }
                @for (index, annotation) in self.item.annotations.iter().enumerate() {
                    @let task = self.checked_id().map(|_| Text(&annotation.task_id));
                    svg.layer data-task=[task] viewBox={ "0 0 " (width) " " (height) } role="group" aria-label="Boxes" {
                        (Layer::new(&self.entities(index), (width, height)).html())
                    }
                }
            }
        }
    }

    /// One annotation: its prompt, its text with the phrases marked, and the details.
    fn reading(&self, index: usize, annotation: &TaskAnswer) -> Markup {
        let entities = self.entities(index);
        let spans: Vec<_> = annotation.entities.iter().map(|entity| entity.span).collect();
        let (pieces, unplaced) = cut(&annotation.text, &spans);
        let prompt = html! { bdi { (Text(&annotation.prompt)) } };
        html! {
            section.reading {
                @if self.item.annotations.len() > 1 {
                    label.prompt {
                        input type="radio" name={ "r" (self.number) } title="Show the boxes of this annotation"
                            checked[index == 0];
                        (prompt)
                    }
                } @else {
                    p.prompt { (prompt) }
                }
                p.text dir="auto" {
                    @for Piece { text, of } in pieces {
                        @match of.and_then(|number| entities.get(number)) {
                            Some(entity) => (chip(entity, text)),
                            None => (Text(text)),
                        }
                    }
                    @if annotation.text.is_empty() { span.none { "No text." } }
                    @if annotation.finish_reason == Finish::Length {
                        " " span.cut title="The text reached the maximum number of tokens" { "cut off" }
                    }
                }
                @if !unplaced.is_empty() {
                    p.aside {
                        "Not located in the text: "
                        @for entity in unplaced.iter().filter_map(|number| entities.get(*number)) {
                            (chip(entity, &entity.entity.phrase)) " "
                        }
                    }
                }
                @if self.checked_id().is_some() { (checks(&entities)) }
                (details(annotation, &entities))
            }
        }
    }

    fn entities(&self, annotation: usize) -> Vec<Entity<'a>> {
        let entities = self.item.annotations.get(annotation).map_or(&[][..], |one| &one.entities);
        entities
            .iter()
            .enumerate()
            .map(|(number, entity)| Entity {
                entity,
                id: format!("{annotation}-{number}"),
                colour: self.colours.0.get(entity.phrase.as_str()).copied().unwrap_or(0),
            })
            .collect()
    }
}

/// A phrase in the text, highlighted.
fn chip(Entity { entity, id, colour }: &Entity<'_>, text: &str) -> Markup {
    let boxes = entity.boxes.len();
    let long = text.chars().count() > ONE_LINE;
    html! {
        mark.{ "c" (colour) }.long[long] data-e=(id) tabindex="0" {
            (Text(text))
            @if boxes > 1 { small title={ (boxes) " boxes" } { "×" (boxes) } }
            @if let Some(score) = entity.score.filter(|score| score.is_finite()) {
                small title="Score of the phrase" { (format_args!("phrase {score:.2}")) }
            }
        }
    }
}

/// A row for each box, with the buttons that mark it.
fn checks(entities: &[Entity<'_>]) -> Markup {
    if entities.iter().all(|entity| entity.entity.boxes.is_empty()) {
        return html! {};
    }
    html! {
        ul.checks.js aria-label="Boxes to mark" {
            @for one in entities {
                @for (nth, corners) in one.entity.boxes.iter().enumerate() { (check(one, nth, corners)) }
            }
        }
    }
}

fn check(one: &Entity<'_>, nth: usize, corners: &[f64; 4]) -> Markup {
    let Entity { entity, id, colour } = one;
    let several = entity.boxes.len() > 1;
    let score = entity.box_scores.get(nth).copied().flatten().filter(|score| score.is_finite());
    let [x0, y0, x1, y1] = corners;
    html! {
        li.{ "c" (colour) } data-e=(id) data-b=(one.box_id(nth)) data-at={ (x0) " " (y0) " " (x1) " " (y1) }
            data-score=[score] data-phrase=(Text(&entity.phrase)) {
            i {}
            span.what {
                bdi { (Text(&entity.phrase)) }
                @if several { " " (nth + 1) }
                @if let Some(score) = score { small title="Score of the box" { (format_args!("{score:.2}")) } }
            }
            @for (verdict, shown) in [("right", "Right"), ("wrong", "Wrong")] {
                button.verdict type="button" data-verdict=(verdict) aria-pressed="false"
                    aria-label={ (shown) ": " (Text(&entity.phrase)) @if several { ", box " (nth + 1) } } { (shown) }
            }
        }
    }
}

/// What is folded up at first: the raw text, and the numbers of each phrase.
fn details(annotation: &TaskAnswer, entities: &[Entity<'_>]) -> Markup {
    html! {
        details {
            summary { "Raw text and numbers" }
            pre dir="auto" { (Text(&annotation.raw_text)) }
            @if !entities.is_empty() {
                div.wide {
                    table {
                        thead {
                            tr {
                                th { "Phrase" }
                                th { "Span" }
                                th { "Phrase score" }
                                th { "Boxes: left, top, right, bottom · box score" }
                            }
                        }
                        tbody { @for entity in entities { (row(entity)) } }
                    }
                }
            }
            p {
                @match annotation.finish_reason {
                    Finish::Stop => "The model ended the text.",
                    Finish::Length => "The text was cut at the maximum number of tokens.",
                }
            }
        }
    }
}

/// The row of one phrase in the details' table.
fn row(Entity { entity, colour, .. }: &Entity<'_>) -> Markup {
    let (start, end) = entity.span;
    let score = entity.score.map_or("–".into(), |score| format!("{score:.3}"));
    html! {
        tr {
            td { i.{ "c" (colour) } {} bdi { (Text(&entity.phrase)) } }
            td { (start) "–" (end) }
            td { (score) }
            td {
                @for (nth, [x0, y0, x1, y1]) in entity.boxes.iter().enumerate() {
                    div {
                        (format_args!("{x0:.3} {y0:.3} {x1:.3} {y1:.3}"))
                        @if let Some(score) = entity.box_scores.get(nth).copied().flatten() {
                            (format_args!(" · {score:.3}"))
                        }
                    }
                }
            }
        }
    }
}
