//! Reads web addresses from small servers with prepared responses.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic in a test is the report")]

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use worker::fetch::FetchErrorKind;
use worker::fetch::http::WebReader;

fn reader() -> WebReader {
    WebReader::new(1000, Duration::from_secs(2)).unwrap()
}

async fn kind(address: &str) -> FetchErrorKind {
    reader().read(address).await.expect_err("should not be read").kind()
}

/// A server that answers each path with `answer`, or not at all if that is `None`.
async fn server(answer: fn(&str) -> Option<String>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let mut silent = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0; 4096];
            let read = stream.read(&mut request).await.unwrap_or(0);
            let path = String::from_utf8_lossy(&request[..read]).split(' ').nth(1).unwrap_or("/").to_owned();
            match answer(&path) {
                Some(text) => drop(stream.write_all(text.as_bytes()).await),
                None => silent.push(stream),
            }
        }
    });
    address
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

fn redirect(to: &str) -> String {
    format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
}

#[tokio::test]
async fn an_address_is_read_whole_and_redirects_are_followed() {
    let site = server(|path| Some(if path == "/a" { redirect("/b?x=1") } else { ok(path) })).await;
    assert_eq!(&reader().read(&format!("{site}/c")).await.unwrap()[..], b"/c");
    assert_eq!(&reader().read(&format!("{site}/a")).await.unwrap()[..], b"/b?x=1");
}

#[tokio::test]
async fn more_bytes_than_allowed_are_refused_whether_announced_or_not() {
    let site = server(|path| {
        let body = "x".repeat(1001);
        Some(match path {
            "/announced" => ok(&body),
            _ => format!("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{body}"),
        })
    })
    .await;
    assert_eq!(kind(&format!("{site}/announced")).await, FetchErrorKind::TooLarge);
    assert_eq!(kind(&format!("{site}/unannounced")).await, FetchErrorKind::TooLarge);
}

#[tokio::test]
async fn refusals_are_told_apart() {
    let site = server(|path| {
        let status = path.trim_start_matches('/');
        Some(format!("HTTP/1.1 {status} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"))
    })
    .await;
    for (status, wanted) in [
        (404, FetchErrorKind::NotFound),
        (403, FetchErrorKind::Denied),
        (429, FetchErrorKind::Throttled),
        (503, FetchErrorKind::Unavailable),
    ] {
        assert_eq!(kind(&format!("{site}/{status}")).await, wanted, "{status}");
    }
}

#[tokio::test]
async fn a_silent_server_is_given_up_in_time() {
    let site = server(|_| None).await;
    assert_eq!(kind(&site).await, FetchErrorKind::Unavailable);
}

#[tokio::test]
async fn circles_and_other_schemes_are_bad_addresses() {
    let site = server(|path| Some(if path == "/file" { redirect("file:///etc/passwd") } else { redirect(path) })).await;
    assert_eq!(kind(&format!("{site}/round")).await, FetchErrorKind::BadAddress);
    assert_eq!(kind(&format!("{site}/file")).await, FetchErrorKind::BadAddress);
    for address in ["ftp://host/a", "nonsense", "http://"] {
        assert_eq!(kind(address).await, FetchErrorKind::BadAddress, "{address}");
    }
}
