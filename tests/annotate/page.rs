//! `--page` and `--draw`.

use std::fs;

use crate::support::stderr_of;
use crate::{annotate, files_below, folder, json_lines};

#[tokio::test]
async fn a_page_has_the_pictures_of_this_run_and_of_the_one_that_it_continues() {
    let dir = folder(&["a.jpg", "b.jpg", "sub/c.jpg"]);
    fs::write(dir.path().join("bad.jpg"), "no picture").unwrap();
    let home = tempfile::tempdir().unwrap();
    let (page, rows) = (home.path().join("review.html"), home.path().join("rows.jsonl"));
    let articles = || fs::read_to_string(&page).unwrap().matches("<article ").count();
    let mut command = annotate();
    let output = command.arg("--page").arg(&page).arg(dir.path()).output().await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr_of(&output).contains("page: ") && !output.stdout.is_empty(), "{}", stderr_of(&output));
    assert_eq!(articles(), 3, "the picture that failed is not on the page");
    let html = fs::read_to_string(&page).unwrap();
    assert!(html.contains("a.jpg</bdi>") && html.contains("src=\"data:image/jpeg;base64,"));
    // The page shows the answers of the rows that an earlier run wrote.
    let run = async || {
        let mut command = annotate();
        command.args(["--resume", "--out"]).arg(&rows).arg("--page").arg(&page).arg(dir.path());
        command.output().await.unwrap()
    };
    run().await;
    fs::remove_file(&page).unwrap();
    let output = run().await;
    assert!(stderr_of(&output).contains("0 done, 1 failed, 3 skipped (already done), "), "{}", stderr_of(&output));
    assert_eq!(fs::read_to_string(&page).unwrap(), html);
}

#[tokio::test]
async fn a_page_replaces_nothing_but_a_page() {
    let dir = folder(&["a.jpg"]);
    let (picture, missing) = (dir.path().join("a.jpg"), dir.path().join("none/page.html"));
    let before = fs::read(&picture).unwrap();
    for (page, problem) in [(&picture, "exists and is not a page"), (&missing, "none does not exist")] {
        let output = annotate().arg(&picture).arg("--page").arg(page).output().await.unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(stderr_of(&output).contains(problem) && output.stdout.is_empty(), "{}", stderr_of(&output));
    }
    let page = dir.path().join("page");
    let output = annotate().arg(&picture).arg("--page").arg(&page).arg("--out").arg(&page).output().await.unwrap();
    assert!(stderr_of(&output).contains("--out has the same name"), "{}", stderr_of(&output));
    assert_eq!(fs::read(&picture).unwrap(), before);
}

#[tokio::test]
async fn each_run_has_its_own_folder_of_drawings() {
    let dir = folder(&["a.jpg", "sub/a.jpg"]);
    let drawn = dir.path().join("boxes");
    for run in ["run-1", "run-2"] {
        let mut command = annotate();
        let output =
            command.args(["--format", "json-v0", "--draw"]).arg(&drawn).arg(dir.path()).output().await.unwrap();
        assert!(output.status.success(), "{}", stderr_of(&output));
        let drawings: Vec<_> = json_lines(&output).iter().map(|line| line["drawing"].clone()).collect();
        let expected = ["a.jpg.png", "sub/a.jpg.png"].map(|name| drawn.join(run).join(name).display().to_string());
        assert_eq!(drawings, expected);
        assert!(
            stderr_of(&output).contains(&format!("drawings: {}", drawn.join(run).display())),
            "{}",
            stderr_of(&output)
        );
    }
    assert_eq!(files_below(&drawn).len(), 4);
}
