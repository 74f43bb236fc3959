//! The review page: one HTML file that needs nothing else.

use std::fmt::Write;

use base64::{Engine, engine::general_purpose::STANDARD};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest, Sha256};

use crate::annotation::{Page, PageItem};
use crate::card::Card;
use crate::colour;
use crate::html::Text;

/// A self-contained HTML file for looking through annotations. It loads nothing, and its content security policy forbids
/// loading anything. It can be read without JavaScript; with it, a phrase and its boxes are highlighted together, and
/// the pictures can be filtered by text.
///
/// Text is always shown as text, whatever it contains. The string's size is that of the embedded pictures plus a third.
pub fn page(page: &Page) -> String {
    let Page { title, items } = page;
    let cards: Vec<Card<'_>> = items.iter().zip(1..).map(|(item, number)| Card::new(item, number)).collect();
    let style = style(&cards);
    // Only this style and this script run: text that slipped past the escaping could still do nothing.
    let policy = format!(
        "default-src 'none'; img-src data:; style-src '{}'; script-src '{}'; base-uri 'none'; form-action 'none'",
        hash(&style),
        hash(SCRIPT)
    );
    let document = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(policy);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="referrer" content="no-referrer";
                // Without it a browser requests an icon from the page's server.
                link rel="icon" href="data:,";
                title { (Text(title)) }
                style { (PreEscaped(style)) }
            }
            body {
                (header(title, items))
                main {
                    @for card in &cards { (card.html()) }
                    @if items.is_empty() { p.empty { "There are no annotations to show." } }
                    p.empty #unmatched hidden { "No picture matches the filter." }
                }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    };
    document.into_string()
}

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The bar at the top: title, counts, filter and switches.
fn header(title: &str, items: &[PageItem]) -> Markup {
    let annotations = || items.iter().flat_map(|item| &item.annotations);
    let phrases: usize = annotations().map(|one| one.entities.len()).sum();
    let counted = |n: usize, one: &str, many: &str| format!("{n} {}", if n == 1 { one } else { many });
    html! {
        header.top {
            h1 dir="auto" { (Text(title)) }
            p.counts {
                (counted(items.len(), "picture", "pictures")) " · "
                (counted(annotations().count(), "text", "texts")) " · "
                (counted(phrases, "grounded phrase", "grounded phrases"))
                span #matched role="status" {}
            }
            @if !items.is_empty() {
                div.tools {
                    input.js #filter type="search" placeholder="Filter by text" aria-label="Filter by text"
                        autocomplete="off" spellcheck="false";
                    label { input #boxes type="checkbox" checked; " boxes" }
                    label { input #labels type="checkbox" checked; " labels" }
                    p.keys.js {
                        kbd { "/" } " filter " kbd { "j" } kbd { "k" } " next, previous "
                        kbd { "e" } " enlarge " kbd { "Tab" } " phrases"
                    }
                }
            }
        }
    }
}

/// The style sheet with the rules that depend on the content: colours, and which layer of boxes is shown.
fn style(cards: &[Card<'_>]) -> String {
    let mut style = STYLE.to_owned();
    let hex = |[r, g, b]: colour::Rgb| format!("#{r:02x}{g:02x}{b:02x}");
    for number in 0..cards.iter().map(Card::colours).max().unwrap_or(0) {
        let ground = colour::colour(number);
        let _ = writeln!(style, ".c{number}{{--c:{};--ink:{}}}", hex(ground), hex(colour::ink(ground)));
    }
    for nth in 2..=cards.iter().map(|card| card.item.annotations.len()).max().unwrap_or(0) {
        let chosen = format!(".card:has(.reading:nth-of-type({nth}) .prompt input:checked) .layer");
        let _ = writeln!(style, "{chosen}{{display:none}}{chosen}:nth-of-type({nth}){{display:block}}");
    }
    style
}

/// A content's hash as a content security policy writes it.
fn hash(content: &str) -> String {
    format!("sha256-{}", STANDARD.encode(Sha256::digest(content)))
}

#[cfg(test)]
mod tests {
    use image::{Rgb, RgbImage};

    use super::*;
    use crate::annotation::{Annotated, Finish, Labelled};
    use crate::picture::Picture;

    fn entity(phrase: &str, span: (i64, i64), boxes: &[[f64; 4]]) -> Labelled {
        Labelled { phrase: phrase.into(), span, boxes: boxes.to_vec(), score: Some(0.75), box_scores: vec![Some(0.5)] }
    }

    fn item(text: &str, entities: Vec<Labelled>) -> PageItem {
        let picture = Picture::new(&RgbImage::from_pixel(300, 200, Rgb([9, 90, 200]))).ok();
        let annotation = Annotated { name: "a.jpg".into(), text: text.into(), entities, ..Annotated::default() };
        PageItem { picture, annotations: vec![annotation] }
    }

    fn shown(items: Vec<PageItem>) -> String {
        page(&Page { title: "Seen".into(), items })
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
        assert!(html.contains(r#"<g class="box c0" data-e="0-0" tabindex="0" role="img" aria-label="two foxes, score 0.50"><rect class="rim" x="0.0" y="0.0" width="150.0" height="100.0"></rect>"#));
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
        let html = page(&Page { title: hostile.into(), items: vec![one] });
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
        let mut odd: Vec<Labelled> = spans.iter().map(|span| entity("naß", *span, &boxes)).collect();
        odd[0].score = Some(f32::NAN);
        let mut one = item("naß", odd);
        one.annotations[0].finish_reason = Finish::Length;
        one.annotations.push(Annotated::default());
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
        one.annotations.push(Annotated { text: "a fox".into(), entities: vec![fox], ..Annotated::default() });
        let html = shown(vec![one]);
        assert_eq!((count(&html, "<svg "), count(&html, "type=\"radio\""), count(&html, " checked>")), (2, 2, 3));
        assert!(html.contains(".layer:nth-of-type(2){display:block}"));
        assert!(html.contains(r#"<mark class="c1" data-e="0-1""#) && html.contains(r#"<mark class="c1" data-e="1-0""#));
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
