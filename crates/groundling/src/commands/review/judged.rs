//! `groundling review --judged`: the precision of the marked boxes.

use std::path::PathBuf;

use anyhow::Context;
use review::{Band, Interval, Judgements, Merged, Precision, Share, Threshold, merge};
use serde_json::{Value, json};

use crate::args::Format;
use crate::counted::counted;
use crate::exit::Outcome;
use crate::review_args::ReviewArgs;
use crate::stderr::escape_control;
use crate::stdout;

pub(super) fn report(args: &ReviewArgs) -> anyhow::Result<Outcome> {
    let read = |path: &PathBuf| -> anyhow::Result<Judgements> {
        let shown = || path.display().to_string();
        Judgements::parse(&std::fs::read(path).with_context(shown)?).with_context(shown)
    };
    let files = args.judged.iter().map(read).collect::<anyhow::Result<Vec<_>>>()?;
    let mut datasets: Vec<String> = files.iter().map(|file| file.dataset.clone()).collect();
    datasets.sort();
    datasets.dedup();
    let merged = merge(files);
    let precision = Precision::of(&merged.boxes, args.target);
    match args.format {
        Format::Json => stdout::write_json(&as_json(&datasets, &merged, &precision))?,
        Format::Text => stdout::write(format_args!("{}", as_text(&datasets, &merged, &precision)))?,
    }
    Ok(Outcome::Done)
}

fn as_json(datasets: &[String], merged: &Merged, precision: &Precision) -> Value {
    let threshold = |one: &Option<Threshold>| one.map(|one| with(share(&one.share), "score", one.score));
    let band = |band: &Band| with(with(share(&band.share), "to", band.to), "from", band.from);
    json!({
        "datasets": datasets, "disagreements": merged.disagreements, "interval": "wilson 95 %",
        "all": share(&precision.all), "without_score": share(&precision.without_score),
        "bands": precision.bands.iter().map(band).collect::<Vec<_>>(),
        "target": precision.target, "estimated": threshold(&precision.estimated),
        "assured": threshold(&precision.assured), "boxes_needed": precision.needed,
        "sample_too_small": precision.is_too_small(),
    })
}

fn share(share: &Share) -> Value {
    json!({
        "boxes": share.judged(), "right": share.right, "wrong": share.wrong, "precision": share.precision(),
        "interval": share.interval(),
    })
}

fn with(mut value: Value, name: &str, number: f64) -> Value {
    if let Some(fields) = value.as_object_mut() {
        fields.insert(name.to_owned(), json!(number));
    }
    value
}

fn as_text(datasets: &[String], merged: &Merged, precision: &Precision) -> String {
    let mut lines = vec![format!("{}: {}", escape_control(&datasets.join(", ")), words(&precision.all))];
    if merged.disagreements > 0 {
        let them = if merged.disagreements == 1 { "it" } else { "them" };
        let boxes = counted(merged.disagreements, "box");
        lines.push(format!("{boxes} left out: the files disagree about {them}"));
    }
    for band in precision.bands.iter().rev().filter(|band| band.share.judged() > 0) {
        lines.push(format!("  score {:.1} to {:.1}: {}", band.from, band.to, words(&band.share)));
    }
    if precision.without_score.judged() > 0 {
        lines.push(format!("  without score: {}", words(&precision.without_score)));
    }
    let percent = format!("{:.4}", precision.target * 100.0);
    let percent = percent.trim_end_matches('0').trim_end_matches('.');
    lines.push(match &precision.estimated {
        Some(Threshold { score, share }) => {
            format!("estimated: from the score {score} on, at least {percent} % are right: {}", words(share))
        }
        None => format!("estimated: there is no score from which on {percent} % of the marked boxes are right"),
    });
    lines.push(match &precision.assured {
        Some(Threshold { score, share }) => {
            format!("assured: from the score {score} on, the lower bound is at least {percent} %: {}", words(share))
        }
        None if precision.is_too_small() => format!(
            "assured: the sample is too small to tell: {} with a score marked, at least {} are needed even if all are right",
            counted(precision.with_score(), "box"),
            precision.needed
        ),
        None => format!("assured: no score reaches a lower bound of {percent} %; mark more boxes with high scores"),
    });
    lines.push("The intervals in parentheses are Wilson's, 95 %.\n".to_owned());
    lines.join("\n")
}

/// `181 of 200 boxes right, 90.5 % (85.6 % to 93.9 %)`
fn words(share: &Share) -> String {
    let counts = format!("{} of {} right", share.right, counted(share.judged(), "box"));
    match (share.precision(), share.interval()) {
        (Some(precision), Some(Interval { low, high })) => {
            format!("{counts}, {:.1} % ({:.1} % to {:.1} %)", precision * 100.0, low * 100.0, high * 100.0)
        }
        _ => counts,
    }
}
