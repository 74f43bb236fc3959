//! One picture of the page with its annotations.

use std::collections::HashMap;

use maud::{Markup, html};

use crate::annotation::{Annotated, Finish, PageItem};
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

/// One item as HTML; `number` counts the items from 1.
pub(super) struct Card<'a> {
    pub(super) item: &'a PageItem,
    number: usize,
    colours: HashMap<&'a str, usize>,
}

impl<'a> Card<'a> {
    pub(super) fn new(item: &'a PageItem, number: usize) -> Self {
        let mut assigned = Assigned::default();
        let phrases = item.annotations.iter().flat_map(|one| &one.entities).map(|entity| entity.phrase.as_str());
        let colours = phrases.map(|phrase| (phrase, assigned.number(phrase))).collect();
        Self { item, number, colours }
    }

    /// The number of colours that the card uses.
    pub(super) fn colours(&self) -> usize {
        self.colours.values().max().map_or(0, |most| most + 1)
    }

    pub(super) fn html(&self) -> Markup {
        let annotations = &self.item.annotations;
        let name = annotations.first().map_or("", |one| one.name.as_str());
        let (card, heading) = (format!("p{}", self.number), format!("n{}", self.number));
        html! {
            article.card id=(card) tabindex="-1" aria-labelledby=(heading) {
                header {
                    h2 id=(heading) { a href={ "#" (card) } { bdi.name { (Text(name)) } } }
                    button.grow.js type="button" aria-pressed="false" title="Enlarge (e)" { "Enlarge" }
                }
                (self.stage())
                div.said {
                    @for (index, annotation) in annotations.iter().enumerate() { (self.reading(index, annotation)) }
                    @if annotations.is_empty() { p.none { "This picture has no annotations." } }
                }
            }
        }
    }

    /// The picture, with a layer of boxes for each annotation.
    fn stage(&self) -> Markup {
        let (width, height) = self.item.picture.as_ref().map_or(BLANK, Picture::size);
        let description = self.item.annotations.first().map_or("", |one| one.text.as_str());
        html! {
            div.stage {
                @if let Some(picture) = &self.item.picture {
                    img src=(picture.address()) alt=(Text(description)) width=(width) height=(height) decoding="async";
                } @else {
                    p.lost { "The picture is not available." }
                }
                @for index in 0..self.item.annotations.len() {
                    svg.layer viewBox={ "0 0 " (width) " " (height) } role="group" aria-label="Boxes" {
                        (Layer::new(&self.entities(index), (width, height)).html())
                    }
                }
            }
        }
    }

    /// One annotation: its prompt, its text with the phrases marked, and the details.
    fn reading(&self, index: usize, annotation: &Annotated) -> Markup {
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
                colour: self.colours.get(entity.phrase.as_str()).copied().unwrap_or(0),
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
                small title="Score of the phrase" { (format_args!("{score:.2}")) }
            }
        }
    }
}

/// What is folded up at first: the raw text, and the numbers of each phrase.
fn details(annotation: &Annotated, entities: &[Entity<'_>]) -> Markup {
    html! {
        details {
            summary { "Raw text and numbers" }
            pre dir="auto" { (Text(&annotation.raw_text)) }
            @if !entities.is_empty() {
                div.wide {
                    table {
                        thead { tr { th { "Phrase" } th { "Span" } th { "Score" } th { "Boxes" } } }
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
