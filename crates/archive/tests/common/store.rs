//! A synthetic S3 store. Its bucket `archive` has any number of objects, whose keys are computed when they are listed.
//! Other objects are in memory.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// The key of object `i`. Half of the objects are numbered in one folder, the others in a folder for each day.
pub(crate) fn synthetic_key(i: u64, count: u64) -> String {
    let half = count / 2;
    match i.checked_sub(half) {
        None => format!("all/scene {i:09}.jpg"),
        Some(rest) => {
            let each = (half / 40).max(1);
            format!("days/2024-{:02}-{:02}/{:08}.jpg", rest / each / 28 + 1, rest / each % 28 + 1, rest % each)
        }
    }
}

pub(crate) struct SyntheticStore {
    pub(crate) endpoint: String,
    state: Arc<State>,
    accepting: JoinHandle<()>,
}

struct State {
    count: u64,
    /// Delay of each response to a listing.
    delay: Duration,
    /// Maximum number of keys of a response.
    page: u64,
    listings: AtomicU64,
    objects: Mutex<HashMap<String, Bytes>>,
}

impl SyntheticStore {
    pub(crate) async fn start(count: u64, delay: Duration) -> Self {
        Self::start_with(count, delay, 1000).await
    }

    pub(crate) async fn start_with(count: u64, delay: Duration, page: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(State { count, delay, page, listings: AtomicU64::new(0), objects: Mutex::default() });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&state)));
        Self { endpoint, state, accepting }
    }

    /// Stores an object; `path` is bucket and key.
    pub(crate) fn put(&self, path: &str, bytes: impl Into<Bytes>) {
        self.state.objects.lock().unwrap().insert(format!("/{path}"), bytes.into());
    }

    /// The number of listing requests so far.
    pub(crate) fn listings(&self) -> u64 {
        self.state.listings.load(Ordering::Relaxed)
    }

    /// All keys of the bucket `archive`, in order.
    pub(crate) fn keys(&self) -> Vec<String> {
        (0..self.state.count).map(|i| synthetic_key(i, self.state.count)).collect()
    }
}

impl Drop for SyntheticStore {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// A client of a store that accepts any credentials.
pub(crate) fn client(endpoint: &str) -> Client {
    let http = aws_smithy_http_client::Builder::new().build_http();
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .endpoint_url(endpoint)
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("key", "secret", None, None, "test"))
        .force_path_style(true)
        .http_client(http)
        .build();
    Client::from_conf(config)
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    while let Ok((socket, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let state = Arc::clone(&state);
                async move { Ok::<_, Infallible>(state.answer(&request).await) }
            });
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service).await;
        });
    }
}

impl State {
    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let query: HashMap<String, String> = request
            .uri()
            .query()
            .unwrap_or_default()
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (name.to_owned(), decoded(value)))
            .collect();
        if query.contains_key("list-type") {
            self.listings.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(self.delay).await;
            return Response::new(self.list(&query).into());
        }
        let object = self.objects.lock().unwrap().get(&decoded(request.uri().path())).cloned();
        let Some(object) = object else {
            return Response::builder().status(404).body(Full::default()).unwrap();
        };
        let range = request.headers().get("range").map(|range| range.to_str().unwrap().to_owned());
        let offset: Option<usize> =
            range.map(|range| range.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap());
        let (status, body) = match offset {
            None => (200, object.clone()),
            Some(offset) if offset < object.len() => (206, object.slice(offset..)),
            Some(_) => {
                let error = "<Error><Code>InvalidRange</Code><Message>beyond the end</Message></Error>";
                return Response::builder().status(416).body(error.into()).unwrap();
            }
        };
        let body = if request.method() == "HEAD" { Bytes::new() } else { body };
        Response::builder().status(status).header("etag", format!("\"{}\"", object.len())).body(body.into()).unwrap()
    }

    fn list(&self, query: &HashMap<String, String>) -> String {
        let text = |name: &str| query.get(name).map(String::as_str).unwrap_or_default();
        let (prefix, after) = (text("prefix"), text("start-after"));
        let most = text("max-keys").parse::<u64>().unwrap().min(self.page);
        let first_not_below = |bound: &str| partition(self.count, |i| synthetic_key(i, self.count).as_str() < bound);
        let first_above = |bound: &str| partition(self.count, |i| synthetic_key(i, self.count).as_str() <= bound);
        let mut first = first_not_below(prefix);
        if !after.is_empty() {
            first = first.max(first_above(after));
        }
        let mut contents = String::new();
        let (mut next, mut listed) = (first, 0);
        let is_next = |next: u64| next < self.count && synthetic_key(next, self.count).starts_with(prefix);
        while listed < most && is_next(next) {
            let key = synthetic_key(next, self.count).replace(' ', "+");
            let _ = write!(
                contents,
                "<Contents><Key>{key}</Key><LastModified>2026-11-29T08:00:00.000Z</LastModified><ETag>&quot;{:032x}&quot;</ETag><Size>{}</Size><StorageClass>STANDARD</StorageClass></Contents>",
                next / 2,
                1000 + next % 7
            );
            (next, listed) = (next + 1, listed + 1);
        }
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?><ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Name>archive</Name><EncodingType>url</EncodingType><KeyCount>{listed}</KeyCount><MaxKeys>{most}</MaxKeys><IsTruncated>{}</IsTruncated>{contents}</ListBucketResult>",
            is_next(next)
        )
    }
}

/// The first of `count` numbers for which `is_before` does not hold.
fn partition(count: u64, is_before: impl Fn(u64) -> bool) -> u64 {
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low.midpoint(high);
        if is_before(middle) { low = middle + 1 } else { high = middle }
    }
    low
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let digits: Vec<u8> = rest.by_ref().take(2).collect();
                bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap());
            }
            byte => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).unwrap()
}
