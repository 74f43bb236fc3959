//! What a comparison found, as text and as JSON.

use archive::diff::{Diff, Difference, IOU_LEVELS, Mean, Pictured, Totals};
use serde_json::{Map, Value, json};

use crate::args::Format;
use crate::review_args::DiffArgs;
use crate::stderr::escape_control;
use crate::stdout;

pub(super) fn print(args: &DiffArgs, found: &Diff) -> anyhow::Result<()> {
    let Diff { totals, largest } = found;
    if args.format == Format::Json {
        let mut fields = counts(totals);
        fields.extend(object(json!({
            "a": args.a, "b": args.b,
            "pictures": totals.pictures, "pictures_equal": totals.pictures_equal,
            "pictures_only_a": totals.pictures_only_a, "pictures_only_b": totals.pictures_only_b,
            "objects_changed": totals.objects_changed, "replaced": totals.replaced, "unreadable": totals.unreadable,
            "largest": largest.iter().map(picture).collect::<Vec<_>>(),
        })));
        return stdout::write_json(&fields);
    }
    stdout::write_line(format_args!("{} (a) and {} (b)", args.a, args.b))?;
    for (name, value) in summary(totals) {
        stdout::write_line(format_args!("  {name}: {value}"))?;
    }
    for one in largest {
        let line = format!("{}: {}", one.name, differences(&one.difference).join(", "));
        stdout::write_line(format_args!("{}", escape_control(&line)))?;
    }
    Ok(())
}

/// Name and value of what is stated about all pictures.
pub(super) fn summary(totals: &Totals) -> Vec<(String, String)> {
    let Totals { pictures, pictures_equal, results, texts_equal, .. } = totals;
    let phrases = format!(
        "{} in a, {} in b: {} gained, {} lost",
        totals.phrases_a, totals.phrases_b, totals.phrases_gained, totals.phrases_lost
    );
    let mut lines = vec![
        ("pictures of both", format!("{pictures}, {pictures_equal} of them with equal annotations")),
        ("pictures of a only, of b only", format!("{}, {}", totals.pictures_only_a, totals.pictures_only_b)),
        ("texts equal", of(*texts_equal, *results)),
        ("phrases", phrases),
        ("boxes", format!("{} in a, {} in b, {} matched", totals.boxes_a, totals.boxes_b, totals.iou.count)),
        ("mean IoU of matched boxes", mean(&totals.iou)),
        ("mean box score", format!("{} in a, {} in b", mean(&totals.score_a), mean(&totals.score_b))),
        ("mean score difference of matched boxes", signed(&totals.score_difference)),
    ];
    if totals.results_only_a + totals.results_only_b > 0 {
        let tasks = format!("{} in a, {} in b", totals.results_only_a, totals.results_only_b);
        lines.push(("results of tasks that the other does not have", tasks));
    }
    for (count, what) in [
        (totals.objects_changed, "objects with other bytes in b"),
        (totals.replaced, "annotations that a later one of the same picture replaces"),
        (totals.unreadable, "messages that are not annotations"),
    ] {
        if count > 0 {
            lines.push((what, count.to_string()));
        }
    }
    lines.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// What differs between the annotations of one picture, in a few words each.
pub(super) fn differences(difference: &Difference) -> Vec<String> {
    let Difference { counts, gained, lost, distance } = difference;
    let mut words = vec![format!("distance {distance:.3}")];
    if counts.texts_equal < counts.results {
        words.push(format!("texts differ: {}", of(counts.results - counts.texts_equal, counts.results)));
    }
    words.extend(gained.iter().map(|phrase| format!("+ {phrase}")));
    words.extend(lost.iter().map(|phrase| format!("− {phrase}")));
    if counts.boxes_a + counts.boxes_b > 0 {
        words.push(format!("boxes {} and {}, {} matched", counts.boxes_a, counts.boxes_b, counts.iou.count));
    }
    if counts.iou.count > 0 {
        words.push(format!("mean IoU {}", mean(&counts.iou)));
    }
    if counts.score_difference.count > 0 {
        words.push(format!("score {}", signed(&counts.score_difference)));
    }
    words
}

fn picture(one: &Pictured) -> Value {
    let Difference { counts: totals, gained, lost, distance } = &one.difference;
    let mut fields = counts(totals);
    fields.extend(object(json!({
        "picture": one.name, "sequences": one.sequences, "distance": distance, "gained": gained, "lost": lost,
    })));
    Value::Object(fields)
}

/// What is counted for one picture and for all.
fn counts(totals: &Totals) -> Map<String, Value> {
    let levels = IOU_LEVELS.iter().zip(totals.iou_levels);
    let levels: Map<String, Value> = levels.map(|(level, count)| (level.to_string(), json!(count))).collect();
    object(json!({
        "results": totals.results, "texts_equal": totals.texts_equal,
        "results_only_a": totals.results_only_a, "results_only_b": totals.results_only_b,
        "phrases_a": totals.phrases_a, "phrases_b": totals.phrases_b,
        "phrases_gained": totals.phrases_gained, "phrases_lost": totals.phrases_lost,
        "boxes_a": totals.boxes_a, "boxes_b": totals.boxes_b, "boxes_matched": totals.iou.count,
        "iou_mean": totals.iou.mean(), "iou_at_least": levels,
        "score_mean_a": totals.score_a.mean(), "score_mean_b": totals.score_b.mean(),
        "score_difference_mean": totals.score_difference.mean(),
    }))
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

fn of(count: u64, all: u64) -> String {
    let share = if all > 0 { format!(" ({:.1} %)", count as f64 / all as f64 * 100.0) } else { String::new() };
    format!("{count} of {all}{share}")
}

fn mean(mean: &Mean) -> String {
    mean.mean().map_or("–".to_owned(), |mean| format!("{mean:.3}"))
}

fn signed(mean: &Mean) -> String {
    mean.mean().map_or("–".to_owned(), |mean| format!("{mean:+.3}"))
}
