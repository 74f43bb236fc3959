//! Minimal HTTP requests to servers on 127.0.0.1.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A server that does not respond within this time is not ready.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The status of the response to `method path` from 127.0.0.1:`port`; `None` without a response.
pub(crate) async fn status(port: u16, method: &str, path: &str, body: &str) -> Option<u16> {
    let answer = tokio::time::timeout(RESPONSE_TIMEOUT, status_line(port, method, path, body)).await;
    let line = String::from_utf8(answer.ok()?.ok()?).ok()?;
    line.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()
}

/// The body of the response to a GET of `path` from 127.0.0.1:`port`; `None` if its status is not 200.
pub(crate) async fn body(port: u16, path: &str) -> Option<Vec<u8>> {
    let answer = tokio::time::timeout(RESPONSE_TIMEOUT, full_response(port, path)).await.ok()?.ok()?;
    let head_end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    answer.starts_with(b"HTTP/1.0 200").then(|| answer[head_end + 4..].to_vec())
}

/// Sends an HTTP/1.0 request, so that the body is not chunked and ends with the connection.
async fn full_response(port: u16, path: &str) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\n\r\n").as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(answer)
}

async fn status_line(port: u16, method: &str, path: &str, body: &str) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut line = vec![0; "HTTP/1.1 200".len()];
    stream.read_exact(&mut line).await?;
    Ok(line)
}
