//! Downloads from the hub.

use std::path::Path;

use models::{Availability, Environment, ModelErrorKind};
use sandbox::{HubFile, HubRequest, ModelHub};

use crate::{COMMIT, NEXT_COMMIT, environment, model, names, supply, weights};

const MODEL: &str = "hf://o/n";

struct Setting {
    hub: ModelHub,
    cache: tempfile::TempDir,
}

impl Setting {
    async fn start() -> Self {
        let hub = ModelHub::start("o/n", model().path(), COMMIT).await.unwrap();
        Self { hub, cache: tempfile::tempdir().unwrap() }
    }

    fn environment(&self) -> Environment {
        self.with(&[])
    }

    fn with(&self, more: &[(&str, &str)]) -> Environment {
        environment(self.cache.path(), &[&[("HF_ENDPOINT", self.hub.endpoint())], more].concat())
    }

    /// Downloads the model and checks its weights.
    async fn get(&self, source: &str) -> std::path::PathBuf {
        let supply = supply(source, &self.environment(), false);
        let dir = supply.directory().await.unwrap();
        assert_eq!(
            std::fs::read(dir.join("model.safetensors")).unwrap(),
            self.hub.state().files["model.safetensors"].bytes
        );
        assert_eq!(supply.progress().done(), supply.progress().total());
        dir
    }

    fn blobs(&self) -> Vec<String> {
        names(&self.cache.path().join("huggingface/hub/models--o--n/blobs"))
    }
}

fn of_weights(requests: &[HubRequest]) -> Vec<&HubRequest> {
    requests.iter().filter(|request| !request.is_hub).collect()
}

#[tokio::test]
async fn a_model_is_downloaded_once_with_only_the_files_that_are_read() {
    let setting = Setting::start().await;
    let availability = supply(MODEL, &setting.environment(), false).availability().await.unwrap();
    assert_eq!(availability, Availability::ToDownload { commit: COMMIT.into(), bytes: 300_026 });
    assert!(!setting.cache.path().join("huggingface").exists(), "looking changed the cache");
    let dir = setting.get(MODEL).await;
    assert_eq!(dir, setting.cache.path().join("huggingface/hub/models--o--n/snapshots").join(COMMIT));
    assert_eq!(names(&dir), ["config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json"]);
    assert!(setting.blobs().iter().all(|name| !name.contains('.')), "{:?}", setting.blobs());
    setting.hub.take_requests();
    assert_eq!(setting.get(MODEL).await, dir);
    let requests = setting.hub.take_requests();
    assert!(matches!(&requests[..], [one] if one.path.starts_with("/api/models/o/n/revision/main")), "{requests:?}");
    // A full commit needs no request.
    assert_eq!(setting.get(&format!("{MODEL}@{COMMIT}")).await, dir);
    assert_eq!(setting.hub.take_requests(), []);
}

#[tokio::test]
async fn the_token_goes_to_the_hub_and_not_to_the_host_of_large_files() {
    let setting = Setting::start().await;
    setting.hub.state().token = Some("hush".into());
    let supply = supply(MODEL, &setting.with(&[("HF_TOKEN", "hush")]), false);
    supply.directory().await.unwrap();
    for request in setting.hub.take_requests() {
        let expected = request.is_hub.then(|| "Bearer hush".to_owned());
        assert_eq!(request.authorization, expected, "{request:?}");
    }
    assert!(!format!("{supply:?}").contains("hush"));
}

#[tokio::test]
async fn an_interrupted_download_goes_on_where_it_stopped() {
    let setting = Setting::start().await;
    // The small files come whole; the weights are cut twice.
    setting.hub.state().cut_after = vec![usize::MAX, usize::MAX, usize::MAX, 100_000, 100_000];
    setting.get(MODEL).await;
    let requests = setting.hub.take_requests();
    let ranges: Vec<_> = of_weights(&requests).iter().map(|request| request.range.clone()).collect();
    assert_eq!(ranges, [None, Some("bytes=100000-".into()), Some("bytes=200000-".into())]);
}

#[tokio::test]
async fn a_server_without_ranges_sends_the_file_again() {
    let setting = Setting::start().await;
    {
        let mut state = setting.hub.state();
        state.ignores_ranges = true;
        state.cut_after = vec![usize::MAX, usize::MAX, usize::MAX, 100_000];
    }
    setting.get(MODEL).await;
    assert_eq!(of_weights(&setting.hub.take_requests()).len(), 2);
}

#[tokio::test]
async fn what_is_damaged_is_never_used() {
    let setting = Setting::start().await;
    // The digest stays that of the right bytes.
    setting.hub.state().files.get_mut("model.safetensors").unwrap().bytes[1000] ^= 1;
    let error = supply(MODEL, &setting.environment(), false).directory().await.unwrap_err();
    assert_eq!(error.kind(), ModelErrorKind::Damaged);
    assert!(error.to_string().contains("model.safetensors") && error.to_string().contains("SHA-256"), "{error}");
    assert_eq!(of_weights(&setting.hub.take_requests()).len(), 2, "it is downloaded once more");
    let offline = supply(MODEL, &setting.environment(), true).directory().await.unwrap_err();
    assert_eq!(offline.kind(), ModelErrorKind::Offline);
    // A small file, by git's id.
    let mut right = HubFile::new(weights(7), true);
    std::mem::swap(setting.hub.state().files.get_mut("model.safetensors").unwrap(), &mut right);
    setting.hub.state().files.get_mut("config.json").unwrap().bytes[0] ^= 1;
    std::fs::remove_dir_all(setting.cache.path()).unwrap();
    let error = supply(MODEL, &setting.environment(), false).directory().await.unwrap_err();
    assert!(error.to_string().contains("config.json") && error.to_string().contains("git SHA-1"), "{error}");
}

#[tokio::test]
async fn damage_of_an_earlier_download_is_mended() {
    let setting = Setting::start().await;
    let digest = setting.hub.state().files["model.safetensors"].digest.clone();
    let blobs = setting.cache.path().join("huggingface/hub/models--o--n/blobs");
    std::fs::create_dir_all(&blobs).unwrap();
    std::fs::write(blobs.join(format!("{digest}.incomplete")), [0; 1000]).unwrap();
    setting.get(MODEL).await;
    // Contents that another tool stored are checked before they are used.
    std::fs::remove_dir_all(blobs.join("../manifests")).unwrap();
    std::fs::write(blobs.join(&digest), vec![0; 300_000]).unwrap();
    setting.get(MODEL).await;
}

#[tokio::test]
async fn a_branch_moves_and_contents_that_stay_are_not_downloaded_again() {
    let setting = Setting::start().await;
    setting.get(MODEL).await;
    setting.hub.state().revisions.insert("main".into(), NEXT_COMMIT.into());
    setting.hub.state().files.insert("config.json".into(), HubFile::new(b"{ }".to_vec(), false));
    setting.hub.take_requests();
    let dir = setting.get(MODEL).await;
    assert!(dir.ends_with(NEXT_COMMIT));
    let files: Vec<_> =
        setting.hub.take_requests().into_iter().filter(|request| request.path.contains("resolve")).collect();
    assert!(matches!(&files[..], [one] if one.path.ends_with("/config.json")), "{files:?}");
    // The earlier commit is still there.
    assert!(setting.get(&format!("{MODEL}@{COMMIT}")).await.ends_with(COMMIT));
}

#[tokio::test]
async fn offline_uses_the_last_commit_and_says_what_is_missing() {
    let setting = Setting::start().await;
    let error = supply(MODEL, &setting.environment(), true).directory().await.unwrap_err();
    assert_eq!(error.kind(), ModelErrorKind::Offline);
    assert!(error.to_string().contains("hf://o/n@main is not downloaded"), "{error}");
    let dir = setting.get(MODEL).await;
    setting.hub.take_requests();
    assert_eq!(supply(MODEL, &setting.environment(), true).directory().await.unwrap(), dir);
    assert_eq!(supply(MODEL, &setting.with(&[("HF_HUB_OFFLINE", "1")]), false).directory().await.unwrap(), dir);
    assert_eq!(setting.hub.take_requests(), []);
    // A hub that does not answer is as good as none.
    setting.hub.state().status = Some(503);
    assert_eq!(setting.get(MODEL).await, dir);
    // A file that has disappeared makes the model incomplete.
    std::fs::remove_file(dir.join("config.json")).unwrap();
    let error = supply(MODEL, &setting.environment(), true).directory().await.unwrap_err();
    assert_eq!(error.kind(), ModelErrorKind::Offline);
}

#[tokio::test]
async fn listings_without_digests_are_completed_by_the_headers_of_the_files() {
    let setting = Setting::start().await;
    setting.hub.state().lists_names_only = true;
    setting.hub.state().renamed_from = Some("old/name".into());
    // The redirects of a renamed repository stay at the hub.
    let supply = supply("hf://old/name", &setting.environment(), false);
    let dir = supply.directory().await.unwrap();
    assert_eq!(std::fs::read(dir.join("model.safetensors")).unwrap(), weights(7));
    let heads = setting.hub.take_requests().into_iter().filter(|request| request.method == "HEAD");
    assert!(heads.clone().count() >= 4 && heads.into_iter().all(|request| request.is_hub));
}

#[tokio::test]
async fn shards_come_with_their_index_and_a_folder_is_a_model_of_its_own() {
    let setting = Setting::start().await;
    {
        let mut state = setting.hub.state();
        let whole = state.files.remove("model.safetensors").unwrap();
        state.files.insert("README.md".into(), whole);
        for name in ["config.json", "tokenizer.json", "preprocessor_config.json"] {
            let file = state.files[name].clone();
            state.files.insert(format!("sub/dir/{name}"), file);
        }
        let index = br#"{"weight_map": {"a": "x-1.safetensors", "b": "x-2.safetensors"}}"#.to_vec();
        state.files.insert("sub/dir/model.safetensors.index.json".into(), HubFile::new(index, false));
        for number in 1..=3 {
            state.files.insert(format!("sub/dir/x-{number}.safetensors"), HubFile::new(weights(number), true));
        }
    }
    let dir = supply("hf://o/n/sub/dir", &setting.environment(), false).directory().await.unwrap();
    assert!(dir.ends_with(Path::new(COMMIT).join("sub/dir")));
    assert_eq!(
        names(&dir),
        [
            "config.json",
            "model.safetensors.index.json",
            "preprocessor_config.json",
            "tokenizer.json",
            "x-1.safetensors",
            "x-2.safetensors"
        ]
    );
    assert_eq!(std::fs::read(dir.join("x-2.safetensors")).unwrap(), weights(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_at_once_one_downloads() {
    let setting = Setting::start().await;
    let environment = setting.environment();
    let get = || {
        let supply = supply(MODEL, &environment, false);
        tokio::spawn(async move { supply.directory().await.unwrap() })
    };
    let both: Vec<_> = (0..4).map(|_| get()).collect();
    for one in both {
        assert!(one.await.unwrap().ends_with(COMMIT));
    }
    assert_eq!(of_weights(&setting.hub.take_requests()).len(), 1);
}
