//! One picture of the page, with what was said about it.

use crate::colour::Assigned;
use crate::html::Text;
use crate::layer::Layer;
use crate::spans::{Piece, cut};
use crate::{Annotated, Finish, Labelled, PageItem};
use std::collections::HashMap;
use std::fmt::{Display, Formatter, Result};

/// Up to so many characters a phrase is kept on one line of the text.
const ONE_PIECE: usize = 28;

/// A missing picture's size: where its boxes are shown nevertheless.
const BLANK: (u32, u32) = (400, 300);

/// One item as HTML; `number` counts the items from 1.
pub(super) struct Card<'a> {
    pub(super) item: &'a PageItem,
    pub(super) number: usize,
    colours: HashMap<&'a str, usize>,
}

/// One phrase in one annotation of one card.
pub(super) struct Entity<'a> {
    pub(super) entity: &'a Labelled,
    /// Its name among the card's phrases, by which the script finds its parts.
    pub(super) id: String,
    pub(super) colour: usize,
}

impl<'a> Card<'a> {
    pub(super) fn new(item: &'a PageItem, number: usize) -> Self {
        let mut assigned = Assigned::default();
        let phrases = item.annotations.iter().flat_map(|one| &one.entities).map(|entity| entity.phrase.as_str());
        let colours = phrases.map(|phrase| (phrase, assigned.number(phrase))).collect();
        Self { item, number, colours }
    }

    /// How many colours the card uses.
    pub(super) fn colours(&self) -> usize {
        self.colours.values().max().map_or(0, |most| most + 1)
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

    fn size(&self) -> (u32, u32) {
        self.item.picture.as_ref().map_or(BLANK, crate::Picture::size)
    }
}

impl Display for Card<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let name = self.item.annotations.first().map_or("", |one| one.name.as_str());
        let n = self.number;
        writeln!(f, r#"<article class="card" id="p{n}" tabindex="-1" aria-labelledby="n{n}">"#)?;
        writeln!(f, r##"<header><h2 id="n{n}"><a href="#p{n}"><bdi class="name">{}</bdi></a></h2>"##, Text(name))?;
        writeln!(
            f,
            r#"<button type="button" class="grow js" aria-pressed="false" title="Enlarge (e)">Enlarge</button></header>"#
        )?;
        self.stage(f)?;
        writeln!(f, r#"<div class="said">"#)?;
        for (at, annotation) in self.item.annotations.iter().enumerate() {
            self.reading(f, at, annotation)?;
        }
        if self.item.annotations.is_empty() {
            writeln!(f, r#"<p class="none">Nothing was said about this picture.</p>"#)?;
        }
        writeln!(f, "</div>\n</article>")
    }
}

impl Card<'_> {
    /// The picture and a layer of boxes for each annotation.
    fn stage(&self, f: &mut Formatter<'_>) -> Result {
        let (w, h) = self.size();
        writeln!(f, r#"<div class="stage">"#)?;
        match &self.item.picture {
            Some(picture) => {
                let said = self.item.annotations.first().map_or("", |one| one.text.as_str());
                let address = picture.address();
                writeln!(f, r#"<img src="{address}" alt="{}" width="{w}" height="{h}" decoding="async">"#, Text(said))?;
            }
            None => writeln!(f, r#"<p class="lost">The picture is not at hand.</p>"#)?,
        }
        for at in 0..self.item.annotations.len() {
            writeln!(f, r#"<svg class="layer" viewBox="0 0 {w} {h}" role="group" aria-label="Boxes">"#)?;
            write!(f, "{}", Layer::new(&self.entities(at), (w, h)))?;
            writeln!(f, "</svg>")?;
        }
        writeln!(f, "</div>")
    }

    /// One annotation: its prompt, its text with the phrases marked, and all the rest on demand.
    fn reading(&self, f: &mut Formatter<'_>, at: usize, annotation: &Annotated) -> Result {
        let entities = self.entities(at);
        writeln!(f, r#"<section class="reading">"#)?;
        let prompt = Text(&annotation.prompt);
        if self.item.annotations.len() > 1 {
            let chosen = if at == 0 { " checked" } else { "" };
            let n = self.number;
            writeln!(
                f,
                r#"<label class="prompt"><input type="radio" name="r{n}" title="Show the boxes of this one"{chosen}><bdi>{prompt}</bdi></label>"#
            )?;
        } else {
            writeln!(f, r#"<p class="prompt"><bdi>{prompt}</bdi></p>"#)?;
        }
        let spans: Vec<_> = annotation.entities.iter().map(|entity| entity.span).collect();
        let (pieces, homeless) = cut(&annotation.text, &spans);
        write!(f, r#"<p class="text" dir="auto">"#)?;
        for Piece { text, of } in pieces {
            match of.and_then(|number| entities.get(number)) {
                Some(one) => chip(f, one, text)?,
                None => write!(f, "{}", Text(text))?,
            }
        }
        if annotation.text.is_empty() {
            write!(f, r#"<span class="none">No text.</span>"#)?;
        }
        if annotation.finish_reason == Finish::Length {
            write!(f, r#" <span class="cut" title="The limit of tokens was reached">cut off</span>"#)?;
        }
        writeln!(f, "</p>")?;
        let homeless: Vec<&Entity<'_>> = homeless.iter().filter_map(|number| entities.get(*number)).collect();
        if !homeless.is_empty() {
            write!(f, r#"<p class="aside">Without a place in the text: "#)?;
            for one in homeless {
                chip(f, one, &one.entity.phrase)?;
                write!(f, " ")?;
            }
            writeln!(f, "</p>")?;
        }
        details(f, annotation, &entities)?;
        writeln!(f, "</section>")
    }
}

/// A phrase in the text.
fn chip(f: &mut Formatter<'_>, one: &Entity<'_>, text: &str) -> Result {
    let Entity { entity, id, colour } = one;
    let boxes = entity.boxes.len();
    let long = if text.chars().count() > ONE_PIECE { " long" } else { "" };
    write!(f, r#"<mark class="c{colour}{long}" data-e="{id}" tabindex="0">{}"#, Text(text))?;
    if boxes > 1 {
        write!(f, r#"<small title="{boxes} boxes">×{boxes}</small>"#)?;
    }
    if let Some(score) = entity.score.filter(|score| score.is_finite()) {
        write!(f, r#"<small title="Score of the phrase">{score:.2}</small>"#)?;
    }
    write!(f, "</mark>")
}

/// What is shown on demand: the raw text, and the numbers of each phrase.
fn details(f: &mut Formatter<'_>, annotation: &Annotated, entities: &[Entity<'_>]) -> Result {
    writeln!(f, "<details><summary>Raw text and numbers</summary>")?;
    writeln!(f, r#"<pre dir="auto">{}</pre>"#, Text(&annotation.raw_text))?;
    if !entities.is_empty() {
        writeln!(f, r#"<div class="wide"><table><thead><tr><th>Phrase<th>Span<th>Score<th>Boxes</tr></thead><tbody>"#)?;
        for Entity { entity, colour, .. } in entities {
            let (start, end) = entity.span;
            let score = entity.score.map_or("–".into(), |score| format!("{score:.3}"));
            write!(
                f,
                r#"<tr><td><i class="c{colour}"></i><bdi>{}</bdi><td>{start}–{end}<td>{score}<td>"#,
                Text(&entity.phrase)
            )?;
            for (nth, [x0, y0, x1, y1]) in entity.boxes.iter().enumerate() {
                let score = entity.box_scores.get(nth).copied().flatten();
                let score = score.map(|score| format!(" · {score:.3}")).unwrap_or_default();
                write!(f, "<div>{x0:.3} {y0:.3} {x1:.3} {y1:.3}{score}</div>")?;
            }
            writeln!(f, "</tr>")?;
        }
        writeln!(f, "</tbody></table></div>")?;
    }
    let why = match annotation.finish_reason {
        Finish::Stop => "The model ended the text.",
        Finish::Length => "The limit of tokens cut the text.",
    };
    writeln!(f, "<p>{why}</p></details>")
}
