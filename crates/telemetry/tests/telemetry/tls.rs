//! Collectors with a certificate of their own.

use std::sync::Arc;

use telemetry::settings::{Protocol, TelemetrySettings};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use crate::collector::{Collector, Received, serve};
use crate::everything::{record, start};

/// A collector with TLS, and its authority as PEM.
async fn collector_with_tls() -> (Collector, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["localhost".into()]).unwrap().self_signed(&key).unwrap();
    let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let received = Received::default();
    let store = received.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if let Ok(stream) = acceptor.accept(stream).await {
                tokio::spawn(serve(stream, store.clone(), None));
            }
        }
    });
    (Collector { url, received }, certificate.pem())
}

#[tokio::test]
async fn an_authority_of_the_settings_is_trusted_and_another_one_is_not() {
    let (collector, pem) = collector_with_tls().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ca.pem");
    std::fs::write(&file, pem).unwrap();
    for protocol in [Protocol::HttpProtobuf, Protocol::Grpc] {
        for ca_file in [None, Some(file.clone())] {
            let is_trusted = ca_file.is_some();
            let settings = TelemetrySettings {
                endpoint: Some(collector.url.clone()),
                protocol,
                ca_file,
                traces: false,
                logs: false,
                ..TelemetrySettings::default()
            };
            let before = collector.received.metrics().len();
            let telemetry = start(&settings);
            record(&telemetry);
            telemetry.shutdown().await;
            assert_eq!(collector.received.metrics().len() > before, is_trusted, "{protocol:?}");
        }
    }
}

#[tokio::test]
async fn a_file_without_a_certificate_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("empty.pem");
    std::fs::write(&file, "").unwrap();
    let settings = TelemetrySettings {
        endpoint: Some("https://localhost:4318".into()),
        ca_file: Some(file),
        ..TelemetrySettings::default()
    };
    let service = telemetry::ServiceIdentity { version: String::new(), instance: String::new() };
    let started = telemetry::Telemetry::start(
        &settings,
        telemetry::InstrumentOptions::default(),
        &service,
        &telemetry::LogLayer::default(),
        |_| None,
    );
    let error = started.err().unwrap().to_string();
    assert!(error.starts_with("telemetry.ca_file") && error.contains("empty.pem"), "{error}");
}
