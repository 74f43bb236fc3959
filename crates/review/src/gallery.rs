//! The failures of the page.

use std::collections::BTreeMap;

use maud::{Markup, html};

use crate::annotation::FailedItem;
use crate::html::Text;
use crate::picture::Picture;

/// The section of the failures; nothing without any.
pub(super) fn gallery(failures: &[FailedItem]) -> Markup {
    if failures.is_empty() {
        return html! {};
    }
    let mut reasons = BTreeMap::<&str, usize>::new();
    for failure in failures {
        *reasons.entry(&failure.reason).or_default() += 1;
    }
    html! {
        section.failures #failures aria-labelledby="failures-heading" tabindex="-1" {
            h2 #failures-heading { "Failures" }
            p.counts {
                @for (index, (reason, count)) in reasons.iter().enumerate() {
                    @if index > 0 { " · " }
                    (count) " " code { (Text(reason)) }
                }
            }
            ul { @for failure in failures { (item(failure)) } }
        }
    }
}

fn item(failure: &FailedItem) -> Markup {
    html! {
        li.failure {
            div.shown {
                @if let Some(picture) = &failure.picture {
                    (shown(picture, &failure.name))
                } @else {
                    p.none { "No picture to show." }
                }
            }
            div.why {
                p.reason { code { (Text(&failure.reason)) } }
                p { bdi.name { (Text(&failure.name)) } }
                p.text dir="auto" { (Text(&failure.message)) }
                dl {
                    @for (name, value) in &failure.facts {
                        div { dt { (name) } dd { bdi { (Text(value)) } } }
                    }
                }
            }
        }
    }
}

fn shown(picture: &Picture, name: &str) -> Markup {
    let (width, height) = picture.size();
    html! {
        img src=(picture.address()) alt={ "The picture of the failed job " (Text(name)) } width=(width) height=(height)
            decoding="async" loading="lazy";
    }
}
