//! Stores that redirect, and keys that try to leave an allowed prefix.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic in a test is the report")]

use crate::common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use aws_sdk_s3::primitives::ByteStream;
use common::{A_WHILE, PATIENCE, TestEnv, bitmap, eventually, job, parts, submit};
use sandbox::SeaweedFs;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use wire::v1::{S3Object, image_job};
use worker::fetch::s3::ObjectStore;
use worker::fetch::{FetchErrorKind, Fetched};
use worker::settings::{S3Settings, Secret};
use worker::{Events, Settings, WorkerParts};

fn object(bucket: &str, key: &str) -> S3Object {
    S3Object { bucket: bucket.into(), key: key.into(), ..Default::default() }
}

fn local(endpoint: String) -> S3Settings {
    S3Settings {
        endpoint: Some(endpoint),
        path_style: true,
        access_key: Some("AK".into()),
        secret_key: Some(Secret::new("SK")),
        allow: vec!["*".into()],
        ..Default::default()
    }
}

/// A loopback listener that passes each connection to `serve`. Returns its address.
async fn listen<F: Future<Output = ()> + Send>(serve: impl Fn(TcpStream) -> F + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let serve = Arc::new(serve);
        while let Ok((stream, _)) = listener.accept().await {
            let serve = Arc::clone(&serve);
            tokio::spawn(async move { serve(stream).await });
        }
    });
    address
}

/// The head of a request.
async fn request(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&head).into_owned()
}

/// A host that must not be contacted, and the number of connections to it.
async fn canary() -> (String, Arc<AtomicUsize>) {
    let came = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&came);
    let address = listen(move |mut stream| {
        count.fetch_add(1, Ordering::SeqCst);
        async move {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\ncanary").await;
        }
    })
    .await;
    (address, came)
}

#[tokio::test]
async fn no_redirect_leads_a_worker_to_another_host() {
    let (elsewhere, came) = canary().await;
    let host = elsewhere.trim_start_matches("http://").to_owned();
    let codes = ["", "PermanentRedirect", "TemporaryRedirect", "Redirect", "AuthorizationHeaderMalformed"];
    for status in ["300", "301", "302", "303", "307", "308", "400"] {
        for code in codes.iter().filter(|code| status != "400" || **code == "AuthorizationHeaderMalformed") {
            // Every form of an S3 redirect.
            let body = format!(
                "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>Use {host}</Message><Bucket>b</Bucket><Endpoint>{host}</Endpoint><Region>eu-west-1</Region></Error>"
            );
            let answer = format!(
                "HTTP/1.1 {status} Elsewhere\r\nLocation: {elsewhere}/b/k\r\nx-amz-bucket-region: eu-west-1\r\nContent-Type: application/xml\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
            let store = listen(move |mut stream| {
                let answer = answer.clone();
                async move {
                    request(&mut stream).await;
                    let _ = stream.write_all(answer.as_bytes()).await;
                }
            })
            .await;
            let store = ObjectStore::open(&local(store)).await.unwrap();
            let error = store.read(&object("b", "k")).await.unwrap_err();
            assert_eq!(error.kind(), FetchErrorKind::Misconfigured, "{status} {code}: {error}");
            if status != "400" {
                assert!(error.to_string().contains("redirects are not followed"), "{status} {code}: {error}");
            }
        }
    }
    assert_eq!(came.load(Ordering::SeqCst), 0, "the other host was contacted");
}

/// Keys that are ordinary names to S3, although they look like paths or addresses.
fn keys() -> Vec<String> {
    let mut keys: Vec<String> = [
        "a/../b",
        "../../etc/passwd",
        "..",
        ".",
        "./x",
        "/leading",
        "//two",
        "a//b",
        "trailing/",
        "ünï/日本/\u{1f98a}.jpg",
        "u\u{308}",
        "q?x=1&y=2",
        "?versionId=x",
        "h#frag",
        "p%2e%2e%2fx",
        "%",
        "%zz",
        "%00",
        "a b+c&d=e;f",
        "tab\there",
        "line\r\nHost: elsewhere",
        "\"quotes'`<>",
        "back\\slash\\..\\x",
        "*",
        "~user",
        "a:b@c",
        "{}|^[]",
    ]
    .map(str::to_owned)
    .into();
    // Stores on top of a file system also limit the length of each segment.
    let long = format!("{}{}", format!("{}/", "k".repeat(203)).repeat(5), "kkkk");
    keys.extend([long, "k".repeat(1024), "é".repeat(512), "a/".repeat(512)]);
    keys
}

#[tokio::test]
async fn every_key_goes_over_the_wire_as_itself() {
    let (heads, mut seen) = mpsc::unbounded_channel();
    let endpoint = listen(move |mut stream| {
        let heads = heads.clone();
        async move {
            heads.send(request(&mut stream).await).unwrap();
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx").await;
        }
    })
    .await;
    let host = endpoint.trim_start_matches("http://").to_owned();
    let store = ObjectStore::open(&local(endpoint)).await.unwrap();
    for key in keys() {
        store.read(&object("bucket", &key)).await.unwrap();
        let head = seen.recv().await.unwrap();
        let target = head.split(' ').nth(1).unwrap();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        assert_eq!(query, "x-id=GetObject", "{key:?}");
        let decoded = decoded(path);
        assert_eq!(decoded.strip_prefix("/bucket/"), Some(key.as_str()), "{target}");
        let hosts: Vec<&str> = head.lines().filter(|line| line.to_lowercase().starts_with("host:")).collect();
        assert_eq!(hosts.len(), 1, "{hosts:?}");
        assert!(hosts[0].ends_with(&host), "{hosts:?}");
    }
}

/// Decodes percent-encoding once.
fn decoded(path: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), path.as_bytes());
    while let Some((&byte, after)) = rest.split_first() {
        if byte == b'%' {
            let digits = std::str::from_utf8(&after[..2]).unwrap();
            bytes.push(u8::from_str_radix(digits, 16).unwrap());
            rest = &after[2..];
        } else {
            bytes.push(byte);
            rest = after;
        }
    }
    String::from_utf8(bytes).unwrap()
}

/// A store on top of a file system may not support every key, but no key may return another object's bytes.
#[tokio::test]
async fn a_real_store_gives_every_key_its_own_bytes_or_none() {
    let server = SeaweedFs::start().await.unwrap();
    let access = server.admin();
    let settings = S3Settings {
        access_key: Some(access.access_key.clone()),
        secret_key: Some(Secret::new(access.secret_key.clone())),
        ..local(access.endpoint.clone())
    };
    let store = ObjectStore::open(&settings).await.unwrap();
    let (mut stored, mut came_back) = (Vec::new(), Vec::new());
    for key in keys() {
        let body = ByteStream::from(key.clone().into_bytes());
        let put = store.client().put_object().bucket(&access.bucket).key(&key).body(body).send().await;
        if put.is_ok() {
            stored.push(key);
        }
    }
    for key in &stored {
        match store.read(&object(&access.bucket, key)).await {
            Ok(Fetched { bytes, .. }) if bytes == key.as_bytes() => came_back.push(key.as_str()),
            other => eprintln!("{:.60}: {other:?}", key),
        }
    }
    for plain in ["ünï/日本/\u{1f98a}.jpg", "q?x=1&y=2", "h#frag", "p%2e%2e%2fx", "%", "a b+c&d=e;f", "?versionId=x"]
    {
        assert!(came_back.contains(&plain), "{plain:?} is not among {came_back:?}");
    }
    assert!(came_back.iter().any(|key| key.len() == 1024), "no key of 1024 bytes: {came_back:?}");
}

#[tokio::test]
async fn no_form_of_a_way_up_leads_out_of_an_allowed_prefix() {
    let server = SeaweedFs::start().await.unwrap();
    let access = server.admin();
    let all = S3Settings {
        access_key: Some(access.access_key.clone()),
        secret_key: Some(Secret::new(access.secret_key.clone())),
        ..local(access.endpoint.clone())
    };
    let writer = ObjectStore::open(&all).await.unwrap();
    for (key, body) in [("secret", "secret"), ("safe/open", "open"), ("safety", "secret")] {
        let body = ByteStream::from(body.as_bytes().to_vec());
        writer.client().put_object().bucket(&access.bucket).key(key).body(body).send().await.unwrap();
    }
    let reader =
        ObjectStore::open(&S3Settings { allow: vec![format!("{}/safe/", access.bucket)], ..all }).await.unwrap();
    let open = reader.read(&object(&access.bucket, "safe/open")).await.unwrap();
    assert_eq!(&open.bytes[..], b"open");
    for key in [
        "secret",
        "safety",
        "safe",
        "/safe/open",
        "safe/../secret",
        "safe/./../secret",
        "safe//../secret",
        "safe/x/../../secret",
    ] {
        let error = reader.read(&object(&access.bucket, key)).await.unwrap_err();
        assert_eq!(error.kind(), FetchErrorKind::NotAllowed, "{key}");
    }
    for key in [
        "safe/%2e%2e/secret",
        "safe/%2E%2E%2Fsecret",
        "safe/..%2fsecret",
        "safe/.%2e/secret",
        "safe/%252e%252e/secret",
        "safe/..\\secret",
        "safe\\..\\secret",
        "safe/\u{ff0e}\u{ff0e}/secret",
        "safe/\u{2025}/secret",
        "safe/..;/secret",
        "safe/..\0/secret",
        "safe/.. /secret",
        "safe/..?/../secret",
        "safe/..#/secret",
        "safe/\t../secret",
    ] {
        let read = reader.read(&object(&access.bucket, key)).await;
        assert!(read.is_err(), "{key:?} was read: {read:?}");
    }
}

/// The store responds only when the test allows it, while a job holds the memory for the largest object.
#[tokio::test(flavor = "multi_thread")]
async fn an_inline_picture_waits_for_room_as_any_other() {
    let (go, asked) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let (waiting, seen) = (Arc::clone(&go), Arc::clone(&asked));
    let endpoint = listen(move |mut stream| {
        let (go, asked) = (Arc::clone(&waiting), Arc::clone(&seen));
        async move {
            request(&mut stream).await;
            asked.add_permits(1);
            go.acquire().await.unwrap().forget();
            let body = bitmap();
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            let _ = stream.write_all(&[head.as_bytes(), &body].concat()).await;
        }
    })
    .await;
    let env = TestEnv::ready().await;
    let s3 = S3Settings { max_object_bytes: 1 << 20, ..local(endpoint) };
    let mut settings = Settings { nats: env.nats.clone(), streams: env.streams.clone(), s3, ..Default::default() };
    settings.worker.max_bytes_in_flight = 1 << 20;
    let (sender, mut events) = mpsc::channel(10);
    let parts = WorkerParts { events: Events::to(sender), ..parts(settings) };
    let stop = CancellationToken::new();
    let running = tokio::spawn(worker::run(parts, stop.clone()));
    let from_store = image_job::Source::S3(object("b", "k"));
    let from_store = wire::v1::ImageJob { source: Some(from_store), ..job("from the store", Vec::new()) };
    submit(&env, &from_store).await;
    asked.acquire().await.unwrap().forget();
    submit(&env, &job("inline", bitmap())).await;
    eventually("both are active", || async { env.consumer_info().await.num_ack_pending == 2 }).await;
    let early = tokio::time::timeout(A_WHILE, events.recv()).await;
    assert!(early.is_err(), "{early:?} while all memory was reserved");
    go.add_permits(1);
    for _ in 0..2 {
        tokio::time::timeout(PATIENCE, events.recv()).await.expect("both end").unwrap();
    }
    stop.cancel();
    assert_eq!(running.await.unwrap().unwrap().finished, 2);
}
