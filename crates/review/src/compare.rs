//! A page that shows two annotations of each picture side by side.

use std::collections::BTreeSet;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::annotation::PageItem;
use crate::card::{Card, Colours};
use crate::header::{counted, switches};
use crate::html::Text;
use crate::page::{Frame, SCRIPT};

/// What a page of comparisons shows.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ComparisonPage {
    /// The page's title and heading.
    pub title: String,
    /// What the left and the right side are.
    pub sides: [String; 2],
    /// Name and value of what is shown above the pictures.
    pub summary: Vec<(String, String)>,
    /// The pictures, in the order in which they are shown.
    pub pairs: Vec<Pair>,
}

/// Two annotations of one picture.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Pair {
    /// The picture's name for people: a file name or an address.
    pub name: String,
    /// What differs, in a few words each.
    pub differences: Vec<String>,
    /// Left and right.
    pub items: [PageItem; 2],
}

/// A self-contained HTML file, like [`page()`](crate::page()).
pub fn comparison_page(page: &ComparisonPage) -> String {
    let annotations = |pair: &Pair| pair.items.iter().map(|item| item.annotations.len()).max().unwrap_or(0);
    let colours: Vec<Colours<'_>> =
        page.pairs.iter().map(|pair| Colours::of(pair.items.iter().flat_map(|item| &item.annotations))).collect();
    let frame = Frame {
        title: &page.title,
        colours: colours.iter().map(Colours::len).max().unwrap_or(0),
        annotations: page.pairs.iter().map(annotations).max().unwrap_or(0),
        heights: BTreeSet::new(),
        pictures: page.pairs.iter().flat_map(|pair| &pair.items).filter_map(|item| item.picture.as_ref()).collect(),
    };
    let content = html! {
        header.top {
            h1 dir="auto" { (Text(&page.title)) }
            p.counts { (counted(page.pairs.len(), "picture", "pictures")) ", the largest differences first" }
            div.tools { (switches()) }
        }
        main.pairs {
            @if !page.summary.is_empty() {
                section.summary aria-label="Summary" {
                    dl { @for (name, value) in &page.summary { div { dt { (Text(name)) } dd { (Text(value)) } } } }
                }
            }
            @for ((number, pair), colours) in page.pairs.iter().enumerate().zip(&colours) {
                (side_by_side(page, pair, number, colours))
            }
            @if page.pairs.is_empty() { p.empty { "There are no differences to show." } }
        }
        script { (PreEscaped(SCRIPT)) }
    };
    let document = html! { (DOCTYPE) (frame.html(&content)) };
    document.into_string()
}

fn side_by_side(page: &ComparisonPage, pair: &Pair, number: usize, colours: &Colours<'_>) -> Markup {
    let heading = format!("pair{number}");
    html! {
        section.pair aria-labelledby=(heading) {
            h2 #(heading) { bdi { (Text(&pair.name)) } }
            @if !pair.differences.is_empty() {
                ul.differences { @for one in &pair.differences { li { (Text(one)) } } }
            }
            @for (side, item) in pair.items.iter().enumerate() {
                div.side {
                    h3 { bdi { (Text(page.sides.get(side).map_or("", String::as_str))) } }
                    (Card { item, number: 2 * number + side + 1, colours, is_checked: false }.html())
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::annotation::{GroundedEntity, TaskAnswer};

    #[test]
    fn a_phrase_has_one_colour_on_both_sides_and_hostile_text_stays_text() {
        let hostile = "</script><script>alert(1)</script>\"'<img src=x onerror=alert(1)>";
        let side = |phrases: &[&str]| PageItem {
            annotations: vec![TaskAnswer {
                name: hostile.into(),
                text: "a fox".into(),
                entities: phrases
                    .iter()
                    .map(|phrase| GroundedEntity {
                        phrase: (*phrase).into(),
                        boxes: vec![[0.1; 4]],
                        ..GroundedEntity::default()
                    })
                    .collect(),
                ..TaskAnswer::default()
            }],
            ..PageItem::default()
        };
        let html = comparison_page(&ComparisonPage {
            title: hostile.into(),
            sides: [hostile.into(), "b".into()],
            summary: vec![(hostile.into(), hostile.into())],
            pairs: vec![Pair {
                name: hostile.into(),
                differences: vec![hostile.into()],
                items: [side(&["a hen", "a fox"]), side(&["a fox", hostile])],
            }],
        });
        assert_eq!(html.matches("<script>").count(), 1);
        assert_eq!((html.matches("<img ").count(), html.matches("</script>").count()), (0, 1));
        // The fox has the same colour, though it is not the same phrase of both sides.
        assert_eq!(html.matches("<g class=\"box c1\"").count(), 2);
        assert!(html.contains("id=\"p1\"") && html.contains("id=\"p2\"") && html.contains("default-src 'none'"));
        assert!(comparison_page(&ComparisonPage::default()).contains("There are no differences to show."));
    }
}
