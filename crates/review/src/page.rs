//! The review page: one HTML file that needs nothing else.

use std::collections::BTreeSet;
use std::fmt::Write;

use base64::{Engine, engine::general_purpose::STANDARD};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest, Sha256};

use crate::annotation::Page;
use crate::card::{Card, Colours};
use crate::colour;
use crate::gallery::gallery;
use crate::header::header;
use crate::html::Text;
use crate::picture::Picture;

/// A self-contained HTML file for looking through annotations. It loads nothing but linked pictures, and its content
/// security policy forbids loading anything else. It can be read without JavaScript; with it, a phrase and its boxes are
/// highlighted together, the pictures can be filtered by text, phrases and the scores of their boxes, and sorted by these
/// scores, and boxes can be marked right or wrong.
///
/// Text is always shown as text, whatever it contains. The string's size is that of the embedded pictures plus a third.
pub fn page(page: &Page) -> String {
    let Page { title, items, spot_check, failures } = page;
    let colours: Vec<Colours<'_>> = items.iter().map(|item| Colours::of(&item.annotations)).collect();
    let numbered = items.iter().zip(&colours).zip(1..);
    let is_checked = spot_check.is_some();
    let cards: Vec<_> = numbered.map(|((item, colours), number)| Card { item, number, colours, is_checked }).collect();
    let pictures = items.iter().filter_map(|item| item.picture.as_ref());
    let frame = Frame {
        title,
        colours: colours.iter().map(Colours::len).max().unwrap_or(0),
        annotations: items.iter().map(|item| item.annotations.len()).max().unwrap_or(0),
        heights: cards.iter().map(Card::height).collect(),
        pictures: pictures.chain(failures.iter().filter_map(|failure| failure.picture.as_ref())).collect(),
    };
    let content = html! {
        (header(page))
        main {
            @for card in &cards { (card.html()) }
            @if items.is_empty() { p.empty { "There are no annotations to show." } }
            p.empty #unmatched hidden { "No picture matches the filter." }
        }
        (gallery(failures))
        script { (PreEscaped(SCRIPT)) }
    };
    let document = html! { (DOCTYPE) (frame.html(&content)) };
    document.into_string()
}

const STYLE: &str = concat!(include_str!("page.css"), include_str!("parts.css"));

/// One script in three files; its functions are not visible outside.
pub(super) const SCRIPT: &str = concat!(
    "\n\"use strict\";\n(() => {\n",
    include_str!("page.js"),
    include_str!("spot_check.js"),
    include_str!("keys.js"),
    "})();\n"
);

/// What is around the content of every page.
pub(super) struct Frame<'a> {
    pub(super) title: &'a str,
    /// Colours that the cards use.
    pub(super) colours: usize,
    /// Most annotations of one card.
    pub(super) annotations: usize,
    /// The heights of the cards in rem, as their classes name them.
    pub(super) heights: BTreeSet<usize>,
    /// All pictures.
    pub(super) pictures: Vec<&'a Picture>,
}

impl Frame<'_> {
    pub(super) fn html(&self, content: &Markup) -> Markup {
        let style = self.style();
        // Only this style and this script run: text that slipped past the escaping could still do nothing.
        let policy = format!(
            "default-src 'none'; img-src data:{}; style-src '{}'; script-src '{}'; base-uri 'none'; form-action 'none'",
            self.origins(),
            hash(&style),
            hash(SCRIPT)
        );
        html! {
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta http-equiv="Content-Security-Policy" content=(policy);
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    meta name="referrer" content="no-referrer";
                    // Without it a browser requests an icon from the page's server.
                    link rel="icon" href="data:,";
                    title { (Text(self.title)) }
                    style { (PreEscaped(style)) }
                }
                body { (content) }
            }
        }
    }

    /// The stores of linked pictures, each after a space.
    fn origins(&self) -> String {
        let origins: BTreeSet<&str> = self.pictures.iter().filter_map(|picture| picture.origin()).collect();
        origins.into_iter().flat_map(|origin| [" ", origin]).collect()
    }

    /// The style sheet with the rules that depend on the content: colours, and which layer of boxes is shown.
    fn style(&self) -> String {
        let mut style = STYLE.to_owned();
        let hex = |[r, g, b]: colour::Rgb| format!("#{r:02x}{g:02x}{b:02x}");
        for number in 0..self.colours {
            let ground = colour::colour(number);
            let _ = writeln!(style, ".c{number}{{--c:{};--ink:{}}}", hex(ground), hex(colour::ink(ground)));
        }
        for height in &self.heights {
            let _ = writeln!(style, ".h{height}{{contain-intrinsic-size:auto {height}rem}}");
        }
        for nth in 2..=self.annotations {
            let chosen = format!(".card:has(.reading:nth-of-type({nth}) .prompt input:checked) .layer");
            let _ = writeln!(style, "{chosen}{{display:none}}{chosen}:nth-of-type({nth}){{display:block}}");
        }
        style
    }
}

/// A content's hash as a content security policy writes it.
fn hash(content: &str) -> String {
    format!("sha256-{}", STANDARD.encode(Sha256::digest(content)))
}

#[cfg(test)]
mod tests {
    use image::{Rgb, RgbImage};

    use super::*;
    use crate::annotation::{FailedItem, Finish, GroundedEntity, PageItem, SpotCheck, TaskAnswer};

    fn entity(phrase: &str, span: (i64, i64), boxes: &[[f64; 4]]) -> GroundedEntity {
        GroundedEntity {
            phrase: phrase.into(),
            span,
            boxes: boxes.to_vec(),
            score: Some(0.75),
            box_scores: vec![Some(0.5)],
        }
    }

    fn item(text: &str, entities: Vec<GroundedEntity>) -> PageItem {
        let picture = Picture::new(&RgbImage::from_pixel(300, 200, Rgb([9, 90, 200]))).ok();
        let annotation = TaskAnswer { name: "a.jpg".into(), text: text.into(), entities, ..TaskAnswer::default() };
        PageItem { annotation_id: "id".into(), picture, annotations: vec![annotation] }
    }

    fn shown(items: Vec<PageItem>) -> String {
        page(&Page { title: "Seen".into(), items, ..Page::default() })
    }

    fn count(html: &str, what: &str) -> usize {
        html.matches(what).count()
    }

    #[test]
    fn a_phrase_is_marked_in_the_text_and_framed_in_the_picture_in_one_colour() {
        let html = shown(vec![item(
            "🧊 two foxes sit",
            vec![entity("two foxes", (2, 11), &[[0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0]])],
        )]);
        assert!(html.contains(r#"🧊 <mark class="c0" data-e="0-0" tabindex="0">two foxes<small title="2 boxes">×2"#));
        assert!(html.contains(r#"<g class="box c0" data-e="0-0" data-b="0-0-0" data-score="0.5" data-phrase="two foxes" tabindex="0" role="img" aria-label="two foxes, box score 0.50"><rect class="rim" x="0.0" y="0.0" width="150.0" height="100.0"></rect>"#));
        assert_eq!((count(&html, r#"<g class="box c0""#), count(&html, r#"<g class="tag c0""#)), (2, 2));
        assert!(html.contains(".c0{--c:#") && !html.contains(".c1{--c:#"));
    }

    #[test]
    fn nothing_is_loaded_from_outside_and_only_the_pages_own_script_may_run() {
        let html = shown(vec![item("a fox", vec![entity("a fox", (0, 5), &[[0.1, 0.1, 0.9, 0.9]])])]);
        assert!(!html.contains("://") && !html.contains("url(") && !html.contains("@import"));
        for attribute in ["src=\"", "href=\""] {
            for address in html.split(attribute).skip(1) {
                assert!(address.starts_with("data:") || address.starts_with('#'), "{}", &address[..20]);
            }
        }
        let content = |element: &str| {
            let start = html.find(&format!("<{element}>")).unwrap() + element.len() + 2;
            &html[start..html.find(&format!("</{element}>")).unwrap()]
        };
        for (rule, element) in [("script-src", "script"), ("style-src", "style")] {
            assert!(html.contains(&format!("{rule} '{}';", hash(content(element)))), "{element}");
        }
        // A style attribute would be refused by the policy.
        assert!(!html.contains(" style=") && html.contains("default-src 'none'"));
    }

    #[test]
    fn hostile_text_stays_text_wherever_it_stands() {
        let hostile = "</script></title><script>alert(1)</script>\"' onload=alert(1) x='<img src=x onerror=alert(1)>";
        let mut one =
            item(hostile, vec![entity(hostile, (0, 20), &[[0.0, 0.2, 1.0, 1.0]]), entity(hostile, (-1, 5), &[])]);
        let said = &mut one.annotations[0];
        (said.name, said.prompt, said.raw_text) = (hostile.into(), hostile.into(), hostile.into());
        one.annotations.push(one.annotations[0].clone());
        let html = page(&Page {
            title: hostile.into(),
            items: vec![PageItem { annotation_id: hostile.into(), ..one }],
            spot_check: Some(SpotCheck { page_id: hostile.into(), dataset: hostile.into() }),
            failures: vec![FailedItem {
                name: hostile.into(),
                reason: hostile.into(),
                message: hostile.into(),
                facts: vec![("job", hostile.into())],
                ..FailedItem::default()
            }],
        });
        assert_eq!((count(&html, "<script>"), count(&html, "</script>"), count(&html, "</title>")), (1, 1, 1));
        assert_eq!(count(&html, "<img "), 1);
        // Attributes stand in double quotes, and those of the text are escaped, so it cannot leave one.
        assert!(!html.contains("\"' onload") && html.contains("&quot;' onload=alert(1)"));
        // Heading, prompt, text, raw text and the table's phrases, each twice; the title, twice; the alternative text;
        // boxes and labels.
        for escaped in ["&lt;script&gt;alert(1)&lt;/script&gt;", "&lt;img src=x onerror=alert(1)&gt;"] {
            assert!(count(&html, escaped) >= 15, "{} times {escaped}", count(&html, escaped));
        }
    }

    #[test]
    fn odd_spans_and_boxes_are_shown_as_far_as_they_go() {
        let spans = [(-3, 2), (4, 1), (0, 99), (2, 2), (0, 1), (i64::MIN, i64::MAX)];
        let boxes = [[f64::NAN; 4], [2.0, 2.0, -1.0, -1.0], [f64::INFINITY; 4], [0.5; 4]];
        let mut odd: Vec<GroundedEntity> = spans.iter().map(|span| entity("naß", *span, &boxes)).collect();
        odd[0].score = Some(f32::NAN);
        let mut one = item("naß", odd);
        one.annotations[0].finish_reason = Finish::Length;
        one.annotations.push(TaskAnswer::default());
        one.picture = None;
        let html = shown(vec![one, PageItem::default()]);
        assert!(html.contains(">n<small") && html.contains("Not located in the text: <mark"));
        assert!(html.contains("cut off") && html.contains("The picture is not available."));
        assert!(html.contains("No text.") && html.contains("This picture has no annotations."));
        assert_eq!(count(&html, "<mark "), 6);
        assert_eq!(count(&html, "aria-label=\"naß"), 6 * 3, "all boxes but the one without numbers");
    }

    #[test]
    fn each_of_several_prompts_has_its_layer_and_its_choice() {
        let fox = entity("a fox", (0, 5), &[[0.1, 0.1, 0.9, 0.9]]);
        let mut one = item("a fox", vec![entity("a hen", (0, 1), &[]), fox.clone()]);
        one.annotations.push(TaskAnswer { text: "a fox".into(), entities: vec![fox], ..TaskAnswer::default() });
        let html = shown(vec![one]);
        assert_eq!((count(&html, "<svg "), count(&html, "type=\"radio\""), count(&html, " checked>")), (2, 2, 3));
        assert!(html.contains(".layer:nth-of-type(2){display:block}"));
        assert!(html.contains(r#"<mark class="c1" data-e="0-1""#) && html.contains(r#"<mark class="c1" data-e="1-0""#));
    }

    #[test]
    fn scores_of_phrases_and_of_boxes_are_named() {
        let mut fox = entity("a fox", (0, 5), &[[0.1, 0.1, 0.9, 0.9], [0.2, 0.2, 0.3, 0.3]]);
        fox.box_scores = vec![Some(0.25), None];
        let html = shown(vec![item("a fox", vec![fox])]);
        assert!(html.contains("<small title=\"Score of the phrase\">phrase 0.75</small>"));
        assert!(html.contains(">a fox (box 0.25)</text>") && html.contains(">a fox (phrase 0.75)</text>"));
        assert!(html.contains("aria-label=\"a fox, box score 0.25\"") && html.contains("a fox, phrase score 0.75"));
        assert!(html.contains("<th>Phrase score</th>") && html.contains("box score</th>"));
        // Only the box's own score counts for the filter and the order.
        assert_eq!(count(&html, "data-score=\"0.25\""), 1);
        assert_eq!(count(&html, "data-score="), 1);
    }

    #[test]
    fn controls_have_names_and_targets_of_24_pixels_and_hints_are_shown_at_every_width() {
        let html = shown(vec![item("a fox", Vec::new())]);
        assert!(html.contains("aria-label=\"Enlarge a.jpg\">Enlarge</button>"));
        for control in ["filter", "phrase", "least", "most", "sort"] {
            let start = html.find(&format!("id=\"{control}\"")).unwrap();
            assert!(html[start..start + 200].contains("aria-label=\""), "{control}");
        }
        assert!(STYLE.contains("button, input, select, summary, .tools label, label.prompt { min-height: 24px }"));
        assert!(!STYLE.contains(".keys { display: none }"));
    }

    #[test]
    fn boxes_can_be_marked_only_in_a_spot_check_and_with_an_annotation_id() {
        let boxes = [[0.1, 0.25, 0.9, 0.9], [0.5, 0.5, 1.0, 1.0]];
        let one = item("two foxes", vec![entity("two foxes", (0, 9), &boxes)]);
        let anonymous = PageItem { annotation_id: String::new(), ..one.clone() };
        let check = SpotCheck { page_id: "p".into(), dataset: "d".into() };
        let html = page(&Page { items: vec![one.clone(), anonymous], spot_check: Some(check), ..Page::default() });
        assert_eq!((count(&html, "data-annotation=\"id\""), count(&html, " data-verdict=")), (1, 4));
        assert!(html.contains(
            r#"<li class="c0" data-e="0-0" data-b="0-0-0" data-at="0.1 0.25 0.9 0.9" data-score="0.5" data-phrase="two foxes">"#
        ));
        assert!(html.contains(r#"aria-label="Wrong: two foxes, box 2">Wrong</button>"#));
        assert!(html.contains(r#"data-page="p" data-dataset="d""#) && html.contains("Mark the box wrong"));
        let html = shown(vec![one]);
        assert_eq!((count(&html, " data-verdict="), count(&html, " data-annotation=")), (0, 0));
        assert!(!html.contains("Mark the box wrong") && html.contains("This list"));
    }

    #[test]
    fn the_origins_of_linked_pictures_are_the_only_ones_that_are_allowed() {
        let linked = |address: &str| PageItem {
            picture: Some(Picture::linked(address.into(), 4, 3)),
            ..item("a fox", Vec::new())
        };
        let html = shown(vec![linked("https://b/1?X=1&Y=2"), linked("https://b/2"), linked("http://a:1/3")]);
        assert!(html.contains("img-src data: http://a:1 https://b; style-src"));
        assert!(html.contains("src=\"https://b/1?X=1&amp;Y=2\""));
    }

    #[test]
    fn failures_are_counted_by_reason_and_shown_with_their_pictures() {
        let picture = Picture::new(&RgbImage::from_pixel(30, 20, Rgb([9, 90, 200]))).ok();
        let failure = |reason: &str, picture| FailedItem {
            picture,
            name: "s3://b/k".into(),
            reason: reason.into(),
            message: "not there".into(),
            facts: vec![("deliveries", "3".into())],
        };
        let failures =
            vec![failure("object_not_found", None), failure("x", picture), failure("object_not_found", None)];
        let html = page(&Page { failures, ..Page::default() });
        assert!(html.contains("2 <code>object_not_found</code> · 1 <code>x</code>"));
        assert_eq!((count(&html, "No picture to show."), count(&html, "<img ")), (2, 1));
        assert!(html.contains("3 failures</a>") && html.contains("<dt>deliveries</dt><dd><bdi>3</bdi></dd>"));
    }

    #[test]
    fn a_page_of_nothing_says_so() {
        let html = page(&Page::default());
        assert!(html.contains("There are no annotations to show.") && html.contains("0 pictures · 0 texts"));
        assert!(!html.contains("type=\"search\""));
    }

    #[test]
    fn a_crowd_of_boxes_leaves_the_picture_visible() {
        let boxes: Vec<[f64; 4]> =
            (0..40).map(|n| f64::from(n) / 50.0).map(|at| [at, at, at + 0.2, at + 0.2]).collect();
        let html = shown(vec![item("a crowd", vec![entity("a crowd", (0, 7), &boxes)])]);
        let (seen, waiting) = (count(&html, r#"<g class="tag c0""#), count(&html, r#"<g class="tag waits c0""#));
        assert!(seen > 2 && seen < 30, "{seen}");
        assert_eq!(seen + waiting, 40);
    }
}
