//! Refined boxes are more accurate than those of the grid, on the demo's scenes.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic in a test is the report")]

use crate::common;

use common::decoding::{demo, demo_model, scene_pixels};
use common::json;
use kosmos2::Query;
use kosmos2::grounding::BoundingBox;
use kosmos2::options::GenerationOptions;
use serde::Deserialize;

#[derive(Deserialize)]
struct Truth {
    scenes: Vec<Scene>,
}

#[derive(Deserialize)]
struct Scene {
    file: String,
    width: f64,
    height: f64,
    objects: Vec<Object>,
}

#[derive(Deserialize)]
struct Object {
    phrase: String,
    /// In pixels.
    #[serde(rename = "box")]
    corners: [f64; 4],
}

#[test]
fn refined_boxes_lie_closer_to_the_truth_than_those_of_the_grid() {
    let truth: Truth = json(demo().join("scenes/truth.json"));
    let mut model = demo_model();
    let (mut grid, mut refined, mut better, mut worse) = (0.0, 0.0, 0, 0);
    let mut boxes = 0;
    for scene in &truth.scenes {
        let pixels = scene_pixels(&model, &scene.file);
        let mut queries = vec![Query::generate("<grounding> An image of", GenerationOptions::default())];
        let grounding = |object: &Object| {
            Query::generate(
                format!("<grounding><phrase> {}</phrase>", object.phrase).as_str(),
                GenerationOptions::default(),
            )
        };
        queries.extend(scene.objects.iter().map(grounding));
        for text in model.annotate(&pixels, &queries).unwrap() {
            for entity in &text.entities {
                for (coarse, fine) in entity.boxes.iter().zip(&entity.refined_boxes) {
                    let fine = fine.as_ref().expect("a generated box is refined");
                    // The closest object, since a phrase such as "two dogs" names several.
                    let best_overlap = |to: &BoundingBox| {
                        let (width, height) = (scene.width, scene.height);
                        let fractions = scene.objects.iter().map(|Object { corners: [x0, y0, x1, y1], .. }| {
                            BoundingBox { x0: x0 / width, y0: y0 / height, x1: x1 / width, y1: y1 / height }
                        });
                        fractions.map(|truth| to.intersection_over_union(&truth)).fold(0.0, f64::max)
                    };
                    let (a, b) = (best_overlap(coarse), best_overlap(fine));
                    (grid, refined, boxes) = (grid + a, refined + b, boxes + 1);
                    (better, worse) = (better + usize::from(b > a), worse + usize::from(b < a));
                }
            }
        }
    }
    let (grid, refined) = (grid / f64::from(boxes), refined / f64::from(boxes));
    println!("{boxes} boxes: mean IoU {grid:.4} on the grid, {refined:.4} refined; {better} better, {worse} worse");
    assert!(boxes > 200 && grid > 0.8);
    assert!(refined > grid, "{refined} is no better than {grid}");
}
