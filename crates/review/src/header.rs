//! The bar at the top of a page, and the list of its keys.

use maud::{Markup, html};

use crate::annotation::{Page, SpotCheck};
use crate::html::Text;

/// The keys of the page and what they do; the last ones are for pages whose boxes can be marked.
const KEYS: [(&str, &[&str], bool); 11] = [
    ("Next, previous picture", &["j", "k"], false),
    ("Next, previous box", &["l", "h"], false),
    ("Mark the box right, and go to the next one", &["r"], true),
    ("Mark the box wrong, and go to the next one", &["w"], true),
    ("Remove the mark of the box", &["u"], true),
    ("Enlarge the picture", &["e"], false),
    ("Filter by text", &["/"], false),
    ("Filter by phrase", &["p"], false),
    ("Phrases and boxes in order", &["Tab"], false),
    ("This list", &["?"], false),
    ("Leave the filter or this list", &["Esc"], false),
];

/// Title, counts, filters and switches.
pub(super) fn header(page: &Page) -> Markup {
    let annotations = || page.items.iter().flat_map(|item| &item.annotations);
    let phrases: usize = annotations().map(|one| one.entities.len()).sum();
    html! {
        header.top {
            h1 dir="auto" { (Text(&page.title)) }
            p.counts {
                (counted(page.items.len(), "picture", "pictures")) " · "
                (counted(annotations().count(), "text", "texts")) " · "
                (counted(phrases, "grounded phrase", "grounded phrases"))
                span #matched role="status" aria-live="polite" {}
                @if !page.failures.is_empty() {
                    " · " a href="#failures" { (counted(page.failures.len(), "failure", "failures")) }
                }
            }
            @if !page.items.is_empty() { (tools()) }
            @if let Some(check) = &page.spot_check { (spot_check(check)) }
        }
        (help(page.spot_check.is_some()))
    }
}

pub(super) fn counted(n: usize, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

fn tools() -> Markup {
    html! {
        div.tools {
            input.js #filter type="search" placeholder="Filter by text" aria-label="Filter by text"
                autocomplete="off" spellcheck="false";
            input.js #phrase type="search" placeholder="Filter by phrase" aria-label="Filter by phrase"
                autocomplete="off" spellcheck="false";
            label.js {
                "Box score " input #least type="number" min="0" max="1" step="0.05" value="0"
                    aria-label="Lowest box score shown";
                " to " input #most type="number" min="0" max="1" step="0.05" value="1"
                    aria-label="Highest box score shown";
            }
            label.js {
                "Sort "
                select #sort aria-label="Order of the pictures" {
                    option value="given" { "as given" }
                    option value="low" { "least certain first" }
                    option value="high" { "most certain first" }
                }
            }
            (switches())
            p.keys.js {
                kbd { "/" } " filter " kbd { "j" } kbd { "k" } " next, previous "
                kbd { "e" } " enlarge " button.plain #keys type="button" aria-haspopup="dialog" { kbd { "?" } " all keys" }
            }
        }
    }
}

/// What hides boxes and labels.
pub(super) fn switches() -> Markup {
    html! {
        label { input #boxes type="checkbox" checked; " boxes" }
        label { input #labels type="checkbox" checked; " labels" }
    }
}

/// The bar with the number of marks, and the buttons that save and load them.
fn spot_check(check: &SpotCheck) -> Markup {
    html! {
        div.tools.marks.js #check data-page=(Text(&check.page_id)) data-dataset=(Text(&check.dataset)) {
            span #marked role="status" aria-live="polite" { "No box is marked yet." }
            span #kept {}
            span.keys { kbd { "l" } " next box " kbd { "r" } " right " kbd { "w" } " wrong " kbd { "u" } " no mark" }
            button.plain #save type="button" { "Save marks" }
            label.plain { "Load marks" input #load type="file" accept=".json,application/json"; }
        }
    }
}

fn help(has_marks: bool) -> Markup {
    html! {
        dialog #help aria-labelledby="help-heading" {
            h2 #help-heading { "Keys" }
            dl {
                @for (what, keys, of_marks) in KEYS {
                    @if has_marks || !of_marks {
                        div { dt { @for key in keys { kbd { (key) } } } dd { (what) } }
                    }
                }
            }
            p { "Least certain first: the picture whose lowest box score is the lowest comes first. Pictures without scores come last." }
            button.plain #close type="button" { "Close" }
        }
    }
}
