//! Errors of the commands for servers that they cannot use: each cause appears once, with the path or permission that it is
//! about.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::support;

use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use sandbox::{EmbeddedS3, NatsOptions, NatsServer};
use support::{demo, groundling};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// Runs a command with these settings. Returns its exit code, stdout and stderr.
async fn run(settings: &str, arguments: &[&str]) -> (Option<i32>, String, String) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("groundling.toml");
    std::fs::write(&file, settings).unwrap();
    let output = groundling().arg("--settings").arg(&file).args(arguments).output().await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn model() -> String {
    demo().model_dir.display().to_string()
}

async fn annotate(settings: &str, picture: &str) -> (Option<i32>, String, String) {
    run(settings, &["annotate", "--model", &model(), "--format", "json-v0", "--max-new-tokens", "2", picture]).await
}

/// A store with one picture and a certificate of a private authority, which is written to `ca.pem`.
async fn https_store(dir: &Path) -> String {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    std::fs::write(dir.join("ca.pem"), ca.pem()).unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.subject_alt_names.push(SanType::IpAddress([127, 0, 0, 1].into()));
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &ca).unwrap();
    let chain = CertificateDer::pem_slice_iter(certificate.pem().as_bytes()).collect::<Result<Vec<_>, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let picture = std::fs::read(&demo().scenes[0].path).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // A client that does not trust the authority disconnects here.
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut request = [0; 8192];
            let _ = stream.read(&mut request).await;
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", picture.len());
            let _ = stream.write_all(&[head.as_bytes(), &picture].concat()).await;
            let _ = stream.shutdown().await;
        }
    });
    format!("https://{address}")
}

#[tokio::test(flavor = "multi_thread")]
async fn annotate_reads_a_store_whose_authority_the_settings_name() {
    let dir: TempDir = tempfile::tempdir().unwrap();
    let endpoint = https_store(dir.path()).await;
    let settings = |ca_file: Option<&str>| {
        let ca_file = ca_file.map(|file| format!("ca_file = {:?}\n", dir.path().join(file))).unwrap_or_default();
        format!("[s3]\nendpoint = \"{endpoint}\"\npath_style = true\nanonymous = true\nattempts = 1\n{ca_file}")
    };
    let (code, result, said) = annotate(&settings(Some("ca.pem")), "s3://b/k").await;
    assert_eq!(code, Some(0), "{said}");
    assert!(result.contains("\"image\":\"s3://b/k\""), "{result}");
    let (code, _, said) = annotate(&settings(None), "s3://b/k").await;
    assert_eq!(code, Some(1), "an unknown authority is not trusted: {said}");
    let (code, _, said) = annotate(&settings(Some("gone.pem")), "s3://b/k").await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("gone.pem") && said.contains("s3.ca_file"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_of_the_store_stands_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = EmbeddedS3::start(dir.path()).await.unwrap();
    let access = store.access();
    let settings = format!(
        "[s3]\nendpoint = {:?}\npath_style = true\naccess_key = {:?}\nsecret_key = {:?}\n",
        access.endpoint, access.access_key, access.secret_key
    );
    let (code, _, said) = annotate(&settings, &format!("s3://{}/missing.jpg", access.bucket)).await;
    assert_eq!(code, Some(1));
    assert_eq!(said.matches("NoSuchKey").count(), 1, "{said}");
    assert!(said.contains("does not exist"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn setup_names_what_keeps_it_from_the_streams() {
    let user = "authorization { users = [ { user: u, password: p, permissions: { publish: { deny: \"$JS.>\" } } } ] }";
    let account = "accounts { A { users: [ { user: u, password: p } ] } }";
    for (extra_config, without_jetstream, words) in [
        (user, false, "no permission to publish to $JS.API.STREAM.INFO.GROUNDLING_JOBS"),
        (account, false, "JetStream is not enabled for this NATS account"),
        ("authorization { user: u, password: p }", true, "JetStream does not answer at $JS.API"),
    ] {
        let extra_config = extra_config.to_owned();
        let options = NatsOptions { extra_config, without_jetstream, ..Default::default() };
        let server = NatsServer::start(&options).await.unwrap();
        // A command that waited for the timeout would not return.
        let settings = format!(
            "[nats]\nurl = {:?}\nuser = \"u\"\npassword = \"p\"\nrequest_timeout = \"1h\"\n",
            server.client_url()
        );
        let (code, _, said) = run(&settings, &["setup"]).await;
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(words), "{said}");
        assert_eq!(said.trim_end().lines().count(), 1, "one sentence: {said}");
    }
    let (code, _, said) = run("[nats]\nurl = \"nats://127.0.0.1:9\"\n", &["setup"]).await;
    assert_eq!(code, Some(1));
    assert_eq!(said.matches("refused").count(), 1, "{said}");
    let extra_config = "authorization { user: u, password: p }".to_owned();
    let server = NatsServer::start(&NatsOptions { extra_config, ..Default::default() }).await.unwrap();
    let (code, _, said) = run(&format!("[nats]\nurl = {:?}\n", server.client_url()), &["setup"]).await;
    assert_eq!(code, Some(1));
    assert_eq!(said.matches("authorization violation").count(), 1, "{said}");
    assert_eq!(said.trim_end().lines().count(), 1, "one sentence: {said}");
    let (code, _, said) = run("[nats]\njetstream_domain = \"a\"\napi_prefix = \"b\"\n", &["setup"]).await;
    assert_eq!(code, Some(2));
    assert!(said.contains("nats.jetstream_domain and nats.api_prefix exclude each other"), "{said}");
}

#[tokio::test]
async fn a_wrong_model_is_named_by_its_path() {
    let picture = demo().scenes[0].path.display().to_string();
    for arguments in [
        &["annotate", "--model", "/nowhere/kosmos-2", &picture][..],
        &["inspect", "image", "--model", "/nowhere/kosmos-2", "--out", "/dev/null", &picture],
        &["bench", "--model", "/nowhere/kosmos-2"],
    ] {
        let (code, _, said) = run("", arguments).await;
        assert_eq!(code, Some(1), "{arguments:?}: {said}");
        assert!(said.contains("/nowhere/kosmos-2"), "{arguments:?}: {said}");
        assert!(said.matches("os error 2").count() <= 1, "{arguments:?}: {said}");
    }
}
