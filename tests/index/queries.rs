//! The queries of the documentation find what is in the scenes.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use super::databases::Database;
use crate::filled_stream::{TestEnv, Truth, scenes};

/// The SQL of a database in `docs/results.md`, query by query.
fn documented(database: &str) -> Vec<String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/results.md");
    let text = std::fs::read_to_string(file).unwrap();
    let (_, section) = text.split_once(&format!("### Queries in {database}")).unwrap();
    let section = section.split_once("\n### ").map_or(section, |(section, _)| section);
    let section = section.split_once("\n## ").map_or(section, |(section, _)| section);
    let blocks: Vec<_> =
        section.split("```sql\n").skip(1).map(|block| block.split("```").next().unwrap().to_owned()).collect();
    assert!(!blocks.is_empty());
    blocks
}

/// The scenes in which an object is left of another one, by the boxes of the objects.
fn scenes_with(left: &str, right: &str) -> BTreeSet<String> {
    let side = |object: &Value, side: usize| object["box"][side].as_u64().unwrap();
    let is_left = |scene: &Value| {
        let objects = scene["objects"].as_array().unwrap();
        let named = |name: &str| objects.iter().filter(|object| object["name"] == name).collect::<Vec<_>>();
        named(left).iter().any(|a| named(right).iter().any(|b| side(a, 2) < side(b, 0)))
    };
    scenes().iter().filter(|scene| is_left(scene)).map(|scene| scene["file"].as_str().unwrap().to_owned()).collect()
}

/// The scenes in which an annotation has a box of one category left of a box of another one, both with scores above 0.5.
fn annotated_with(truth: &Truth, left: &str, right: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for annotation in truth.messages.values() {
        let boxes = |name: &str| {
            let entities = annotation.results.iter().flat_map(|result| &result.entities);
            let named =
                entities.filter(|entity| truth.categories.get(&entity.phrase).is_some_and(|found| found == name));
            let boxes =
                named.flat_map(|entity| &entity.boxes).filter(|found| found.score.is_some_and(|score| score > 0.5));
            boxes.map(|found| found.fractions.unwrap()).collect::<Vec<_>>()
        };
        let (lefts, rights) = (boxes(left), boxes(right));
        if lefts.iter().any(|a| rights.iter().any(|b| a.x0.max(a.x1) < b.x0.min(b.x1))) {
            let picture = annotation.picture.as_ref().unwrap();
            found.insert(picture.object.as_ref().unwrap().key.clone());
        }
    }
    found
}

fn first_column(rows: Vec<Vec<String>>) -> BTreeSet<String> {
    rows.into_iter().map(|mut row| row.remove(0)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documented_queries_find_the_scenes_that_the_truth_names() {
    let env = TestEnv::start().await;
    let truth = env.fill_with_scenes().await;
    let expected = scenes_with("snowman", "fire");
    assert_eq!(expected, BTreeSet::from(["0000.jpg".to_owned()]));
    let databases = Database::both(&env).await;
    for (database, name) in databases.iter().zip(["PostgreSQL", "SQLite"]) {
        let summary = database.indexed(&env, &["--dataset", "scenes"]).await;
        let found = ["annotations", "results", "boxes", "repeats", "unreadable"].map(|count| summary[count].as_u64());
        assert_eq!(found, [48, 144, truth.boxes() as u64, 0, 0].map(Some), "{summary}");
        let queries = documented(name);
        assert_eq!(first_column(database.rows(&queries[0]).await), expected, "{name}");
        for query in &queries {
            assert!(!database.rows(query).await.is_empty(), "{name}: {query}");
        }
        // The prompt of a grounding names a snowman wherever there is none.
        let asked_for = "select count(*) from ~results where task = 'ground' and text like '%snowman%'";
        assert!(database.number(asked_for).await > 0);
        let tasks: BTreeSet<_> = database.rows(&queries[1]).await.into_iter().map(|row| row[1].clone()).collect();
        assert!(!tasks.is_empty() && !tasks.contains("ground"), "{name}: {tasks:?}");
        // The same query for each pair of objects.
        let mut pairs = 0;
        for scene in scenes() {
            let names: Vec<_> =
                scene["objects"].as_array().unwrap().iter().map(|o| o["name"].as_str().unwrap().to_owned()).collect();
            for left in &names {
                for right in names.iter().filter(|right| *right != left) {
                    let quoted = |name: &str| match database {
                        Database::Postgres(_) => format!("'{name}'"),
                        Database::Sqlite(_) => format!("'\"{name}\"'"),
                    };
                    let query = queries[0].replace("'snowman'", &quoted(left)).replace("'fire'", &quoted(right));
                    let found = first_column(database.rows(&query).await);
                    assert_eq!(found, annotated_with(&truth, left, right), "{name}: {left}, {right}");
                    pairs += usize::from(!found.is_empty());
                }
            }
        }
        assert!(pairs > 40, "{pairs}");
    }
    let [postgres, sqlite] = databases;
    assert_eq!(postgres.contents().await, sqlite.contents().await);
    // The other dataset, and then nothing new. Its annotations have the ids of the first one's.
    for database in [&postgres, &sqlite] {
        let summary = database.indexed(&env, &[]).await;
        assert_eq!((summary["annotations"].as_u64(), summary["repeats"].as_u64()), (Some(0), Some(58)), "{summary}");
        let summary = database.indexed(&env, &[]).await;
        assert_eq!(summary["read"], 0, "{summary}");
    }
}
