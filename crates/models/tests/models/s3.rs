//! Models in an S3 store.

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use models::{Availability, Environment, ModelErrorKind, Supply};
use sandbox::{S3Access, SeaweedFs};

use crate::{environment, model, names, source, weights};

fn client(access: &S3Access) -> Client {
    let http = aws_smithy_http_client::Builder::new().build_http();
    let credentials = Credentials::new(&access.access_key, &access.secret_key, None, None, "test");
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(access.region.clone()))
        .endpoint_url(&access.endpoint)
        .credentials_provider(credentials)
        .http_client(http)
        .force_path_style(true)
        .build();
    Client::from_conf(config)
}

async fn upload(store: &SeaweedFs, key: &str, bytes: Vec<u8>) {
    let put = client(store.admin()).put_object().bucket(&store.admin().bucket).key(key).body(bytes.into());
    put.send().await.unwrap();
}

fn supply(text: &str, environment: &Environment, store: &SeaweedFs, offline: bool) -> Supply {
    Supply::new(source(text), environment, Some(client(store.read_only())), offline).unwrap()
}

#[tokio::test]
async fn a_model_of_a_store_is_downloaded_once_and_again_when_it_changes() {
    let (mut store, cache, files) = (SeaweedFs::start().await.unwrap(), tempfile::tempdir().unwrap(), model());
    for name in names(files.path()) {
        upload(&store, &format!("models/kosmos/{name}"), std::fs::read(files.path().join(&name)).unwrap()).await;
    }
    let environment = environment(cache.path(), &[]);
    let model = format!("s3://{}/models/kosmos/", store.admin().bucket);
    let get = async || supply(&model, &environment, &store, false).directory().await.unwrap();
    let availability = supply(&model, &environment, &store, false).availability().await.unwrap();
    assert!(matches!(availability, Availability::ToDownload { bytes: 300_026, .. }), "{availability:?}");
    let dir = get().await;
    assert!(dir.ends_with("kosmos"), "{}", dir.display());
    assert_eq!(names(&dir), ["config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json"]);
    assert_eq!(std::fs::read(dir.join("model.safetensors")).unwrap(), weights(7));
    assert_eq!(get().await, dir);
    // The manifest has the digests.
    let manifests = cache
        .path()
        .join("groundling/models")
        .join(format!("s3--{}--models--kosmos", store.admin().bucket))
        .join("manifests");
    let manifest = std::fs::read_to_string(manifests.join(&names(&manifests)[0])).unwrap();
    assert_eq!(manifest.matches("\"sha256\"").count(), 4, "{manifest}");
    assert!(manifest.contains("\"md5\""), "{manifest}");

    upload(&store, "models/kosmos/model.safetensors", weights(8)).await;
    let next = get().await;
    assert_ne!(next, dir);
    assert_eq!(std::fs::read(next.join("model.safetensors")).unwrap(), weights(8));

    // A model that has changed in the store is downloaded again.
    upload(&store, "models/kosmos/model.safetensors", weights(9)).await;
    let changed = supply(&model, &environment, &store, false);
    let Availability::ToDownload { .. } = changed.availability().await.unwrap() else { panic!("it is not here") };
    let third = get().await;
    assert_eq!(std::fs::read(third.join("model.safetensors")).unwrap(), weights(9));

    for (address, kind, part) in [
        (format!("s3://{}/nothing", store.admin().bucket), ModelErrorKind::NotFound, "has no objects"),
        ("s3://no-such-bucket/k".to_owned(), ModelErrorKind::Denied, "s3:ListBucket"),
    ] {
        let error = supply(&address, &environment, &store, false).directory().await.unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
        assert_eq!(error.kind(), kind, "{error}");
    }
    let admin = Supply::new(source("s3://no-such-bucket/k"), &environment, Some(client(store.admin())), false).unwrap();
    let error = admin.directory().await.unwrap_err();
    assert!(error.to_string().contains("does not exist"), "{error}");

    store.stop().await.unwrap();
    // Without the store, the last model is used.
    assert_eq!(supply(&model, &environment, &store, false).directory().await.unwrap(), third);
    assert_eq!(supply(&model, &environment, &store, true).directory().await.unwrap(), third);
    let error = supply("s3://other/k", &environment, &store, true).directory().await.unwrap_err();
    assert_eq!(error.kind(), ModelErrorKind::Offline);
}
