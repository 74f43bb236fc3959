//! `groundling diff`: two datasets of the same pictures.

use serde_json::{Value, json};
use wire::identity::sha256_hex;
use wire::v1::ImageAnnotation;

use crate::filled_stream::{DATASET, TestEnv, Truth};
use crate::reviewing::HOSTILE;
use crate::support::stderr_of;

const OTHER: &str = "scenes-2";

impl TestEnv {
    async fn diff(&self, arguments: &[&str]) -> Value {
        let arguments = [&["diff", DATASET, OTHER, "--format", "json"], arguments].concat();
        let output = self.groundling(&arguments).output().await.unwrap();
        assert!(output.status.success(), "{}", stderr_of(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

/// The annotations of the scenes by another recipe: the first is missing, the second has another text, the third lost a
/// phrase and gained one, scores of the fifth are lower, and the boxes of the sixth are half as wide.
fn other_recipe(truth: &Truth) -> Vec<ImageAnnotation> {
    let others = truth.messages.values().enumerate().skip(1).map(|(index, annotation)| {
        let mut other = ImageAnnotation {
            annotation_id: sha256_hex(format!("other {index}").as_bytes()),
            dataset: OTHER.into(),
            ..annotation.clone()
        };
        match index {
            1 => {
                other.results[0].text = "Something else.".into();
                other.results[0].answer = "Something else.".into();
            }
            2 => other.results[0].entities[0].phrase = HOSTILE.into(),
            5 => {
                for entity in other.results.iter_mut().flat_map(|result| &mut result.entities) {
                    for fractions in entity.boxes.iter_mut().filter_map(|found| found.fractions.as_mut()) {
                        fractions.x1 = (fractions.x0 + fractions.x1) / 2.0;
                    }
                }
            }
            4 => {
                for entity in other.results.iter_mut().flat_map(|result| &mut result.entities) {
                    entity.boxes.iter_mut().for_each(|found| found.score = found.score.map(|score| score - 0.25));
                }
            }
            _ => {}
        }
        other
    });
    others.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_recipes_are_compared_picture_by_picture() {
    let env = TestEnv::start().await;
    let truth = env.fill_with_scenes().await;
    for other in other_recipe(&truth) {
        env.publish(&other, "").await;
    }
    let page = env.path("diff.html");
    let found = env.diff(&["--largest", "2", "--out", &page]).await;
    let counts =
        ["pictures", "pictures_only_a", "pictures_only_b", "results", "texts_equal", "phrases_gained", "phrases_lost"];
    assert_eq!(counts.map(|name| found[name].as_u64().unwrap()), [47, 1, 0, 141, 140, 1, 1], "{found}");
    // Lower scores alone are no other annotation.
    assert_eq!(found["pictures_equal"], 44);
    let boxes = |annotation: &ImageAnnotation| -> u64 {
        annotation.results.iter().flat_map(|result| &result.entities).map(|entity| entity.boxes.len() as u64).sum()
    };
    let annotations: Vec<_> = truth.messages.values().collect();
    let all: u64 = annotations.iter().skip(1).map(|annotation| boxes(annotation)).sum();
    assert_eq!((found["boxes_a"].as_u64(), found["boxes_b"].as_u64()), (Some(all), Some(all)));
    let lost = annotations[2].results[0].entities[0].boxes.len() as u64;
    assert_eq!(found["boxes_matched"].as_u64().unwrap(), all - lost);
    let halved = boxes(annotations[5]) as f64;
    let mean = found["iou_mean"].as_f64().unwrap();
    assert!((mean - (1.0 - 0.5 * halved / (all - lost) as f64)).abs() < 1e-9, "{found}");
    assert!(found["score_difference_mean"].as_f64().unwrap() < 0.0);
    let largest = found["largest"].as_array().unwrap();
    let names: Vec<&str> = largest.iter().map(|one| one["picture"].as_str().unwrap()).collect();
    let key = |index: usize| &annotations[index].picture.as_ref().unwrap().object.as_ref().unwrap().key;
    assert!(names.len() == 2 && names[0].ends_with(key(5).as_str()), "halved boxes differ most: {found}");
    assert!((largest[0]["distance"].as_f64().unwrap() - 0.5).abs() < 1e-9);
    assert_eq!((&largest[1]["gained"], names[1].ends_with(key(2).as_str())), (&json!([HOSTILE.to_lowercase()]), true));

    let html = std::fs::read_to_string(&page).unwrap();
    assert_eq!((html.matches("<article ").count(), html.matches("src=\"data:image/jpeg").count()), (4, 4));
    assert_eq!((html.matches("<script>").count(), html.matches("<section class=\"pair\"").count()), (1, 2));
    assert!(html.contains("a: scenes") && html.contains("b: scenes-2"));

    let text = env.groundling(&["diff", DATASET, OTHER]).output().await.unwrap();
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("  texts equal: 140 of 141 (99.3 %)\n"), "{text}");
    let same = env.groundling(&["diff", DATASET, DATASET]).output().await.unwrap();
    assert_eq!((same.status.code(), stderr_of(&same).contains("name two")), (Some(2), true));
}
