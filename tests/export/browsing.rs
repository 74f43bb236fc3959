//! The pages in a browser: clicks, keys, marks that are kept, saved and loaded, and how fast the page is.

use std::path::Path;
use std::time::Duration;

use image::GenericImageView;
use serde_json::{Value, json};
use wire::identity::sha256_hex;
use wire::v1::FailureReason;

use crate::browser::Browser;
use crate::filled_stream::TestEnv;
use crate::support::stderr_of;

/// Text of the bar's number of marks.
const MARKED: &str = "document.getElementById('marked').textContent";
const SHOWN: &str = "[...document.querySelectorAll('main .card')].filter((card) => !card.hidden).length";

/// Writes a screenshot where `GROUNDLING_SCREENSHOTS` says, to look at.
fn keep(name: &str, picture: &[u8]) {
    if let Some(folder) = std::env::var_os("GROUNDLING_SCREENSHOTS") {
        std::fs::write(Path::new(&folder).join(name), picture).unwrap();
    }
}

/// Nothing is wider than the window, whatever its size, and something is shown.
async fn assert_fits_every_width(browser: &mut Browser, name: &str) {
    for width in [400, 900, 1600] {
        browser.resize(width, 900).await;
        let wide = browser.shown("document.documentElement.scrollWidth").await;
        assert!(wide.as_u64().unwrap() <= u64::from(width), "{name} is {wide} px wide in a window of {width}");
        let taken = browser.screenshot().await;
        keep(&format!("{name}-{width}.png"), &taken);
        let picture = image::load_from_memory(&taken).unwrap();
        assert_eq!(picture.dimensions(), (width, 900));
        let colours: std::collections::HashSet<_> = picture.to_rgb8().pixels().copied().collect();
        assert!(colours.len() > 100, "{name} has {} colours", colours.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reviewer_marks_boxes_and_gets_their_precision() {
    let Some(mut browser) = Browser::start().await else { return };
    let env = TestEnv::start().await;
    let truth = env.fill_with_scenes().await;
    env.publish_hostile(truth.messages.values().next().unwrap()).await;
    env.publish_failure(Some("lost.jpg"), FailureReason::ObjectNotFound, "the object does not exist").await;
    env.publish_failure(Some("0001.jpg"), FailureReason::UndecodablePicture, "not a picture").await;
    let (_, html) = env.review("page.html", &["--sample", "100"]).await;
    let page = env.dir.path().join("page.html");
    browser.open(&page).await;
    assert_eq!(browser.evaluate("document.title").await, "Annotations of scenes", "text does not run");
    assert_fits_every_width(&mut browser, "review").await;

    // The first key for a mark chooses a box, and marks none that was not chosen.
    let boxes = html.matches("<g class=\"box ").count();
    let focused = "(() => { const at = document.activeElement; return [at.closest('.card').id, at.dataset.b]; })()";
    browser.press("r").await;
    assert_eq!(browser.evaluate(focused).await, json!(["p1", "0-0-0"]));
    assert_eq!(browser.evaluate(MARKED).await, format!("No box of {boxes} is marked yet."));
    browser.press("w").await;
    assert_eq!(browser.evaluate(MARKED).await, format!("1 of {boxes} boxes marked: 0 right, 1 wrong."));
    browser.press("h").await;
    browser.press("u").await;

    // The mouse.
    assert_eq!(browser.evaluate(MARKED).await, format!("No box of {boxes} is marked yet."));
    browser.click("#p1 li:nth-of-type(1) [data-verdict=right]").await;
    browser.click("#p1 li:nth-of-type(2) [data-verdict=right]").await;
    browser.click("#p1 li:nth-of-type(2) [data-verdict=wrong]").await;
    assert_eq!(browser.evaluate(MARKED).await, format!("2 of {boxes} boxes marked: 1 right, 1 wrong."));
    let pressed =
        browser.evaluate("document.querySelector('#p1 [data-verdict=right]').getAttribute('aria-pressed')").await;
    assert_eq!(pressed, "true");
    assert_eq!(browser.evaluate("document.querySelectorAll('.box.right, .box.wrong').length").await, 2);

    // Keys: the second picture's first three boxes, the last of them marked and then not.
    browser.press("k").await;
    browser.evaluate("document.getElementById('p1').focus()").await;
    browser.press("j").await;
    browser.press("l").await;
    assert_eq!(browser.evaluate(focused).await, json!(["p2", "0-0-0"]));
    for key in ["r", "w", "w"] {
        browser.press(key).await;
    }
    browser.press("h").await;
    browser.press("u").await;
    assert_eq!(browser.evaluate(MARKED).await, format!("4 of {boxes} boxes marked: 2 right, 2 wrong."));
    browser.press("?").await;
    assert_eq!(browser.evaluate("document.getElementById('help').open").await, true);
    keep("review-help.png", &browser.screenshot().await);
    browser.press("j").await;
    browser.click("#close").await;
    assert_eq!(browser.evaluate("document.getElementById('help').open").await, false);

    let visible = "getComputedStyle(document.querySelector('#p1 .tag')).display";
    assert_ne!(browser.evaluate(visible).await, "none");
    browser.click("#labels").await;
    assert_eq!(browser.evaluate(visible).await, "none");
    browser.click("#labels").await;

    // Filters and order.
    browser.press("p").await;
    browser.type_text("snow").await;
    let with_phrase = browser.shown(SHOWN).await.as_u64().unwrap();
    let visible = "[...document.querySelectorAll('.card:not([hidden]) .box:not(.out)')].every((box) =>
        box.dataset.phrase.includes('snow'))";
    assert!((1..48).contains(&with_phrase), "{with_phrase}");
    assert_eq!(browser.evaluate(visible).await, true);
    browser.press("Escape").await;
    assert_eq!(browser.shown(SHOWN).await, 49);
    browser.evaluate("(() => { const least = document.getElementById('least'); least.value = '0.97'; least.dispatchEvent(new Event('input')); })()").await;
    let in_range = "[...document.querySelectorAll('.card:not([hidden])')].every((card) =>
        [...card.querySelectorAll('.box')].some((box) => box.dataset.score >= 0.97))";
    assert_eq!(browser.shown(in_range).await, true);
    assert!((1..48).contains(&browser.evaluate(SHOWN).await.as_u64().unwrap()));
    browser.evaluate("(() => { const least = document.getElementById('least'); least.value = '0'; least.dispatchEvent(new Event('input')); })()").await;
    browser.evaluate("(() => { const sort = document.getElementById('sort'); sort.value = 'low'; sort.dispatchEvent(new Event('change')); })()").await;
    let lowest = "[...document.querySelectorAll('.card')].map((card) =>
        Math.min(...[...card.querySelectorAll('.box[data-score]')].map((box) => Number(box.dataset.score))))
        .every((score, at, all) => at === 0 || all[at - 1] <= score)";
    assert_eq!(browser.shown(lowest).await, true);

    // Saved, counted, and kept by the browser.
    browser.click("#save").await;
    let saved = browser.downloaded().await;
    let file = env.dir.path().join("marks.json");
    std::fs::write(&file, &saved).unwrap();
    let output = env.groundling(&["review", "--format", "json", "--judged", file.to_str().unwrap()]).output().await;
    let output = output.unwrap();
    assert!(output.status.success(), "{}", stderr_of(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["all"]["right"], &report["all"]["wrong"]), (&json!(2), &json!(2)), "{report}");
    let saved: Value = serde_json::from_slice(&saved).unwrap();
    let first = truth.messages.values().next().unwrap();
    let of_first = saved["boxes"].as_array().unwrap().iter().find(|one| one["annotation_id"] == first.annotation_id);
    let (one, entity) = (of_first.unwrap(), &first.results[0].entities[0]);
    assert_eq!((&one["task_id"], &one["phrase"]), (&json!("caption"), &json!(entity.phrase)));
    assert_eq!(one["score"].as_f64().unwrap() as f32, entity.boxes[0].score.unwrap());
    let corners = entity.boxes[0].fractions.as_ref().unwrap();
    assert_eq!(one["fractions"], json!([corners.x0, corners.y0, corners.x1, corners.y1]));
    browser.open(&page).await;
    assert_eq!(browser.evaluate(MARKED).await, format!("4 of {boxes} boxes marked: 2 right, 2 wrong."));
    browser.evaluate("localStorage.clear()").await;
    browser.open(&page).await;
    assert_eq!(browser.evaluate(MARKED).await, format!("No box of {boxes} is marked yet."));
    browser.choose_file("#load", &file).await;
    let loaded =
        "new Promise((done) => { const look = () => document.getElementById('kept').textContent.includes('loaded')
        ? done(document.getElementById('kept').textContent) : requestAnimationFrame(look); look(); })";
    assert_eq!(browser.evaluate(loaded).await, "4 of 4 marks loaded.");
    assert_eq!(browser.evaluate(MARKED).await, format!("4 of {boxes} boxes marked: 2 right, 2 wrong."));

    // The failures are below all pictures.
    browser.click("a[href='#failures']").await;
    let until_there = "new Promise((done) => { const look = () => { const { top } =
        document.getElementById('failures-heading').getBoundingClientRect();
        top > 0 && top < innerHeight ? done(true) : requestAnimationFrame(look); }; look(); })";
    assert_eq!(browser.evaluate(until_there).await, true);
    keep("review-failures.png", &browser.screenshot().await);

    // What a finger must hit is large enough, and what a keyboard reaches has a name.
    let small = "[...document.querySelectorAll('.top *, #p1 *')]
        .filter((one) => one.matches('button, input, select, summary, label')).filter((one) => {
        const { width, height } = one.getBoundingClientRect(); return width > 0 && height > 0 && (width < 24 || height < 24); })
        .map((one) => one.outerHTML.slice(0, 80))";
    assert_eq!(browser.evaluate(small).await, json!([]));
    browser.assert_no_errors().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_differences_fits_every_width() {
    let Some(mut browser) = Browser::start().await else { return };
    let env = TestEnv::start().await;
    let truth = env.fill_with_scenes().await;
    for (index, annotation) in truth.messages.values().enumerate() {
        let mut other = annotation.clone();
        (other.dataset, other.annotation_id) = ("scenes-2".into(), sha256_hex(format!("2 {index}").as_bytes()));
        other.results[0].entities.truncate(1);
        env.publish(&other, "").await;
    }
    let page = env.dir.path().join("diff.html");
    let arguments = ["diff", "scenes", "scenes-2", "--largest", "5", "--out", page.to_str().unwrap()];
    let output = env.groundling(&arguments).output().await.unwrap();
    assert!(output.status.success(), "{}", stderr_of(&output));
    browser.open(&page).await;
    assert_eq!(browser.evaluate("document.querySelectorAll('.pair .card').length").await, 10);
    assert_fits_every_width(&mut browser, "diff").await;
    browser.click("#p1 .grow").await;
    assert_eq!(browser.evaluate("document.getElementById('p1').classList.contains('large')").await, true);
    browser.assert_no_errors().await;
}

/// Prints the times; they depend on the machine.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn frame_times_of_a_page_of_five_hundred_pictures() {
    let Some(mut browser) = Browser::start().await else { return };
    let env = TestEnv::start().await;
    let truth = env.fill_with_scenes().await;
    let annotations: Vec<_> = truth.messages.values().collect();
    let more = (0..460).map(|number| {
        let mut annotation = annotations[number % annotations.len()].clone();
        annotation.annotation_id = sha256_hex(format!("more {number}").as_bytes());
        annotation
    });
    env.fill(more).await;
    let (summary, _) = env.review("page.html", &["--sample", "500"]).await;
    assert_eq!(summary["annotations"], 500);
    browser.open(&env.dir.path().join("page.html")).await;
    let loaded = "performance.getEntriesByType('navigation')[0].loadEventEnd";
    let loaded = browser.evaluate(loaded).await;
    let mut times = browser.frame_times(120, Duration::from_secs(60)).await;
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    println!(
        "{} bytes, loaded after {loaded} ms; {} frames while scrolling: median {:.1} ms, 95 % {:.1} ms, 99 % {:.1} ms, longest {:.1} ms",
        summary["bytes"],
        times.len(),
        at(0.5),
        at(0.95),
        at(0.99),
        at(1.0)
    );
    let measured = |what: &str, change: &str| {
        let code = format!(
            "new Promise((done) => {{ const start = performance.now(); {change};
                requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - start))); }})"
        );
        (what.to_owned(), code)
    };
    let set = |id: &str, value: &str, event: &str| {
        format!(
            "const at = document.getElementById('{id}'); at.value = '{value}'; at.dispatchEvent(new Event('{event}'))"
        )
    };
    for (what, code) in [
        measured("filter by phrase", &set("phrase", "snow", "input")),
        measured("no filter", &set("phrase", "", "input")),
        measured("lowest score 0.9", &set("least", "0.9", "input")),
        measured("no lowest score", &set("least", "0", "input")),
        measured("sort", &set("sort", "low", "change")),
        measured("mark", "document.querySelector('.verdict').click()"),
    ] {
        println!("{what}: {:.0} ms", browser.evaluate(&code).await.as_f64().unwrap());
    }
}
