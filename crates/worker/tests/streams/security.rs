//! NATS with TLS, client certificates, nkeys, a credentials file, tokens and passwords; the permissions of `deploy/`;
//! an S3 store with a private certificate authority; and secrets, which must not appear in output.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic in a test is the report")]

use crate::common;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use broker::connection::{connect, jetstream};
use broker::publish::Publisher;
use broker::setup;
use common::{TestEnv, annotation};
use nkeys::KeyPair;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair as TlsKeyPair, SanType};
use sandbox::{NatsOptions, NatsServer};
use serde_json::json;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::fmt::MakeWriter;
use wire::v1::S3Object;
use worker::WorkerError;
use worker::fetch::FetchErrorKind;
use worker::fetch::http::WebReader;
use worker::fetch::s3::ObjectStore;
use worker::settings::{NatsSettings, NatsTls, S3Settings, Secret, StreamSettings};

/// A certificate authority, with certificates as files.
struct Certificates {
    dir: TempDir,
    ca: CertifiedIssuer<'static, TlsKeyPair>,
}

impl Certificates {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, TlsKeyPair::generate().unwrap()).unwrap();
        let made = Self { dir: tempfile::tempdir().unwrap(), ca };
        std::fs::write(made.file("ca.pem"), made.ca.pem()).unwrap();
        for name in ["server", "client"] {
            let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
            params.subject_alt_names.push(SanType::IpAddress([127, 0, 0, 1].into()));
            let key = TlsKeyPair::generate().unwrap();
            let certificate = params.signed_by(&key, &made.ca).unwrap();
            std::fs::write(made.file(&format!("{name}.pem")), certificate.pem()).unwrap();
            std::fs::write(made.file(&format!("{name}.key")), key.serialize_pem()).unwrap();
        }
        made
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn server_config(&self) -> String {
        let [cert, key, ca] = ["server.pem", "server.key", "ca.pem"].map(|name| self.file(name).display().to_string());
        format!("tls {{ cert_file: \"{cert}\", key_file: \"{key}\", ca_file: \"{ca}\", verify: true }}\n")
    }

    fn client_tls(&self) -> NatsTls {
        NatsTls {
            required: true,
            first: false,
            ca_file: Some(self.file("ca.pem")),
            certificate_file: Some(self.file("client.pem")),
            key_file: Some(self.file("client.key")),
        }
    }
}

fn permissions() -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/nats/worker-permissions.conf");
    std::fs::read_to_string(file).unwrap()
}

async fn server(extra_config: String) -> NatsServer {
    NatsServer::start(&NatsOptions { extra_config, ..Default::default() }).await.unwrap()
}

fn reach(server: &NatsServer) -> NatsSettings {
    let url = server.client_url().to_owned();
    NatsSettings { url, request_timeout: Duration::from_secs(3), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_with_the_permissions_of_deploy_works_and_may_do_nothing_else() {
    let certificates = Certificates::new();
    let (admin, user) = (KeyPair::new_user(), KeyPair::new_user());
    let server = server(format!(
        "{}{}authorization {{ users = [ {{ nkey: {} }}, {{ nkey: {}, permissions: $GROUNDLING_WORKER }} ] }}",
        permissions(),
        certificates.server_config(),
        admin.public_key(),
        user.public_key(),
    ))
    .await;
    let reached = reach(&server);
    let with = |key: &KeyPair| NatsSettings {
        nkey: Some(Secret::new(key.seed().unwrap())),
        tls: certificates.client_tls(),
        ..reached.clone()
    };
    let streams = StreamSettings::default();
    let client = connect(&with(&admin), "admin").await.unwrap();
    let env = TestEnv {
        jetstream: jetstream(&client, &with(&admin)),
        client,
        nats: with(&user),
        streams: streams.clone(),
        server,
    };
    setup::setup(&env.jetstream, &streams).await.unwrap();

    // A job that succeeds and one that fails.
    common::submit(&env, &common::job("good", common::bitmap())).await;
    common::submit(&env, &common::job("bad", b"no picture".to_vec())).await;
    let mut running = common::Running::start(&env);
    running.event().await;
    running.event().await;
    let report = running.end().await;
    assert_eq!((report.finished, report.failed, report.retried), (1, 1, 0));

    let client = connect(&with(&user), "worker").await.unwrap();
    let limited = jetstream(&client, &with(&user));
    let publisher = Publisher::new(limited.clone(), &streams.annotations, &streams.failed);
    let outcome = common::annotated("x");
    assert_eq!(
        publisher.find_published(&outcome, Duration::from_secs(60)).await.unwrap(),
        None,
        "it may look for an outcome"
    );
    publisher.annotation("groundling.annotations.cats".into(), &annotation("x")).await.unwrap();
    for subject in ["groundling.jobs.cats", "elsewhere", "groundling.annotations.a.b"] {
        let refused = limited.publish(subject, "x".into()).await.unwrap().await;
        assert!(refused.is_err(), "{subject}");
    }
    assert_eq!(env.messages_in(&streams.jobs).await, 0);
    assert!(limited.delete_stream(&streams.jobs).await.is_err());
    assert!(limited.get_stream("OTHER").await.is_err());
    let jobs = env.jetstream.get_stream(&streams.jobs).await.unwrap();
    assert!(limited.get_stream(&streams.jobs).await.unwrap().purge().await.is_err());
    assert!(jobs.consumer_info(&streams.consumer).await.is_ok());
}

#[tokio::test]
async fn without_the_authority_the_certificate_or_the_key_there_is_no_connection() {
    let certificates = Certificates::new();
    let user = KeyPair::new_user();
    let users = format!("authorization {{ users = [ {{ nkey: {} }} ] }}", user.public_key());
    let server = server(format!("{}{users}", certificates.server_config())).await;
    let seed = Some(Secret::new(user.seed().unwrap()));
    let right = NatsSettings { nkey: seed.clone(), tls: certificates.client_tls(), ..reach(&server) };
    connect(&right, "right").await.unwrap();
    let stranger = Some(Secret::new(KeyPair::new_user().seed().unwrap()));
    let other = Certificates::new();
    let wrong = [
        ("no authority", NatsSettings { tls: NatsTls { ca_file: None, ..right.tls.clone() }, ..right.clone() }),
        (
            "no certificate",
            NatsSettings {
                tls: NatsTls { certificate_file: None, key_file: None, ..right.tls.clone() },
                ..right.clone()
            },
        ),
        (
            "another's certificate",
            NatsSettings { tls: NatsTls { ca_file: right.tls.ca_file.clone(), ..other.client_tls() }, ..right.clone() },
        ),
        ("no key", NatsSettings { nkey: None, ..right.clone() }),
        ("another's key", NatsSettings { nkey: stranger, ..right.clone() }),
    ];
    let with_tls = |tls: NatsTls| NatsSettings { tls, ..right.clone() };
    let text = certificates.file("text.pem");
    std::fs::write(&text, "no PEM").unwrap();
    for file in [&text, &certificates.file("gone.pem")] {
        for tls in [
            NatsTls { ca_file: Some(file.clone()), ..right.tls.clone() },
            NatsTls { certificate_file: Some(file.clone()), ..right.tls.clone() },
            NatsTls { key_file: Some(file.clone()), ..right.tls.clone() },
        ] {
            let error = connect(&with_tls(tls), "file").await.map(drop).unwrap_err();
            assert!(error.to_string().contains(&file.display().to_string()), "{error}");
        }
    }
    for (what, settings) in wrong {
        let error = connect(&settings, "wrong").await.map(drop).unwrap_err();
        assert!(!error.is_temporary(), "{what}: {error:?}");
        let error = error.to_string();
        assert!(error.starts_with("no connection to NATS"), "{what}: {error}");
        assert!(!error.contains(&user.seed().unwrap()), "{what}");
    }
}

#[tokio::test]
async fn a_token_and_a_password_let_in_and_wrong_ones_do_not() {
    let by_token = server("authorization { token: \"s3cret-token\" }".into()).await;
    let token = |token: &str| NatsSettings { token: Some(Secret::new(token)), ..reach(&by_token) };
    connect(&token("s3cret-token"), "t").await.unwrap();
    assert!(connect(&token("other"), "t").await.is_err());
    let by_password = server("authorization { user: \"bob\", password: \"s3cret-password\" }".into()).await;
    let user = |password: &str| NatsSettings {
        user: Some("bob".into()),
        password: Some(Secret::new(password)),
        ..reach(&by_password)
    };
    connect(&user("s3cret-password"), "p").await.unwrap();
    assert!(connect(&user("other"), "p").await.is_err());
}

/// A NATS JWT, signed by an nkey.
fn jwt(claims: serde_json::Value, signer: &KeyPair) -> String {
    let part = |value: &serde_json::Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let text = format!("{}.{}", part(&json!({"typ": "JWT", "alg": "ed25519-nkey"})), part(&claims));
    let signature = signer.sign(text.as_bytes()).unwrap();
    format!("{text}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
}

#[tokio::test]
async fn a_credentials_file_lets_in() {
    let (operator, account, user) = (KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_user());
    let claims = |name: &str, subject: &KeyPair, issuer: &KeyPair, nats: serde_json::Value| {
        json!({"jti": name, "iat": 1_700_000_000, "iss": issuer.public_key(), "name": name,
               "sub": subject.public_key(), "nats": nats})
    };
    let of_operator = claims("op", &operator, &operator, json!({"type": "operator", "version": 2}));
    let limits = json!({"subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true,
                        "conn": -1, "leaf": -1});
    let of_account = claims("acc", &account, &operator, json!({"type": "account", "version": 2, "limits": limits}));
    let of_user =
        claims("usr", &user, &account, json!({"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1}));
    let system = KeyPair::new_account();
    let of_system = claims("sys", &system, &operator, json!({"type": "account", "version": 2, "limits": limits}));
    let config = format!(
        "operator: {}\nsystem_account: {}\nresolver: MEMORY\nresolver_preload: {{ {}: {}, {}: {} }}\n",
        jwt(of_operator, &operator),
        system.public_key(),
        account.public_key(),
        jwt(of_account, &operator),
        system.public_key(),
        jwt(of_system, &operator)
    );
    let server = server(config).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("worker.creds");
    std::fs::write(
        &file,
        format!(
            "-----BEGIN NATS USER JWT-----\n{}\n------END NATS USER JWT------\n\n-----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
            jwt(of_user, &account),
            user.seed().unwrap()
        ),
    )
    .unwrap();
    let client = connect(&NatsSettings { credentials_file: Some(file), ..reach(&server) }, "creds").await.unwrap();
    client.flush().await.unwrap();
    assert!(connect(&reach(&server), "none").await.is_err());
    let gone = NatsSettings { credentials_file: Some(dir.path().join("gone.creds")), ..reach(&server) };
    assert!(connect(&gone, "gone").await.map(drop).unwrap_err().to_string().contains("gone.creds"));
}

/// Answers every TLS connection with one S3 object.
async fn https_store(certificates: &Certificates) -> String {
    let pem = |name: &str| std::fs::read(certificates.file(name)).unwrap();
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
    let chain = CertificateDer::pem_slice_iter(&pem("server.pem")).collect::<Result<Vec<_>, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(&pem("server.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut request = [0; 8192];
                let _ = stream.read(&mut request).await;
                let answer = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nETag: \"e\"\r\nConnection: close\r\n\r\nabc";
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
            });
        }
    });
    format!("https://{address}")
}

#[tokio::test]
async fn a_store_with_an_authority_of_its_own_is_read_only_by_who_trusts_it() {
    let certificates = Certificates::new();
    let trusting = S3Settings {
        endpoint: Some(https_store(&certificates).await),
        path_style: true,
        anonymous: true,
        allow: vec!["*".into()],
        attempts: 1,
        ca_file: Some(certificates.file("ca.pem")),
        ..Default::default()
    };
    let object = S3Object { bucket: "b".into(), key: "k".into(), ..Default::default() };
    let read = ObjectStore::open(&trusting).await.unwrap().read(&object).await.unwrap();
    assert_eq!(&read.bytes[..], b"abc");
    let stranger = S3Settings { ca_file: None, ..trusting.clone() };
    let error = ObjectStore::open(&stranger).await.unwrap().read(&object).await.unwrap_err();
    assert_eq!(error.kind(), FetchErrorKind::Unavailable);
    for (name, content) in [("empty.pem", ""), ("key.pem", "no certificate")] {
        let file = certificates.file(name);
        std::fs::write(&file, content).unwrap();
        let error = ObjectStore::open(&S3Settings { ca_file: Some(file), ..trusting.clone() }).await.unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
    }
}

/// Captures all log lines.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// A credentials file in the format of `nsc`, with this seed.
fn credentials(dir: &TempDir, jwt: &str, seed: &str) -> PathBuf {
    let file = dir.path().join("worker.creds");
    let text = format!(
        "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    );
    std::fs::write(&file, text).unwrap();
    file
}

#[tokio::test]
async fn secrets_appear_in_no_log_no_error_and_no_debug_text() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(log.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let (nkey, seed) = (KeyPair::new_user().seed().unwrap(), KeyPair::new_user().seed().unwrap());
    let secrets =
        ["hush-password", "hush-token", "hush-secret-key", "hush-session", "hush-jwt", &nkey, &seed, "hush-url"];
    let by_password = server("authorization { user: \"bob\", password: \"right\" }".into()).await;
    let stranger = KeyPair::new_user().public_key();
    let by_nkey = server(format!("authorization {{ users = [ {{ nkey: {stranger} }} ] }}")).await;
    let dir = tempfile::tempdir().unwrap();
    let mut told = String::new();
    let s3 = S3Settings {
        endpoint: Some("http://127.0.0.1:9".into()),
        path_style: true,
        access_key: Some("AK".into()),
        secret_key: Some(Secret::new(secrets[2])),
        session_token: Some(Secret::new(secrets[3])),
        allow: vec!["*".into()],
        attempts: 1,
        ..Default::default()
    };
    let (reached, strict) = (reach(&by_password), reach(&by_nkey));
    let with_url = |scheme: &str| {
        let rest = reached.url.trim_start_matches("nats://");
        NatsSettings { url: format!("{scheme}bob:{}@{rest}", secrets[7]), ..reached.clone() }
    };
    let broken = dir.path().join("broken.creds");
    std::fs::write(&broken, format!("no credentials but {seed}")).unwrap();
    let ways = [
        NatsSettings { user: Some("bob".into()), password: Some(Secret::new(secrets[0])), ..reached.clone() },
        NatsSettings { token: Some(Secret::new(secrets[1])), ..reached.clone() },
        NatsSettings { nkey: Some(Secret::new(nkey.as_str())), ..strict.clone() },
        NatsSettings { nkey: Some(Secret::new(format!("{nkey}x"))), ..strict.clone() },
        NatsSettings { credentials_file: Some(credentials(&dir, secrets[4], &seed)), ..strict },
        NatsSettings { credentials_file: Some(broken), ..reached.clone() },
        with_url("nats://"),
        with_url("//"),
    ];
    for nats in ways {
        // The debug text of settings includes addresses; settings with a secret in an address are rejected.
        let settings = worker::Settings { nats, s3: s3.clone(), ..Default::default() };
        if !settings.nats.url.contains('@') {
            told.push_str(&format!("{settings:?} {:#?} {}", settings, serde_json::to_string(&settings).unwrap()));
        }
        let parts = common::parts(settings);
        let running = worker::run(parts, CancellationToken::new());
        let ended = tokio::time::timeout(Duration::from_secs(30), running).await;
        let error: WorkerError = ended.expect("it should end").unwrap_err();
        told.push_str(&format!("{error} {error:?}\n"));
    }
    let object = S3Object { bucket: "b".into(), key: "k".into(), ..Default::default() };
    let store = ObjectStore::open(&s3).await.unwrap();
    let error = store.read(&object).await.unwrap_err();
    told.push_str(&format!("{error} {error:?} {store:?}\n"));
    let endpoint = Some(format!("http://AK:{}@127.0.0.1:9", secrets[7]));
    told.push_str(&S3Settings { endpoint, ..s3 }.problems().concat());
    let web = WebReader::new(1000, Duration::from_secs(5)).unwrap();
    for address in ["http://bob:{}@127.0.0.1:9/x", "ftp://bob:{}@127.0.0.1/x", "http://bob:{}@/", "bob:{}@x"] {
        let error = web.read(&address.replace("{}", secrets[7])).await.unwrap_err();
        told.push_str(&format!("{error} {error:?}\n"));
    }
    told.push_str(&String::from_utf8_lossy(&log.0.lock().unwrap()));
    for sentence in
        ["no connection to NATS", "s3://b/k", "NATS credentials file", "nats.url", "s3.endpoint", "a user or password"]
    {
        assert!(told.contains(sentence), "{sentence} does not appear");
    }
    for secret in secrets {
        let lines: Vec<&str> = told.lines().filter(|line| line.contains(secret)).collect();
        assert!(lines.is_empty(), "{secret} in: {lines:#?}");
    }
}
