//! A store with prepared responses, for behaviour that a real store rarely shows or that a test cannot provoke.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::sync::Arc;
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A response.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    form: Form,
}

#[derive(Debug, Clone, Copy)]
enum Form {
    Whole,
    Pieces(usize),
    Http10,
    CutAt(usize),
    /// Nothing is sent.
    Stalled,
    /// The head, then a byte every tenth of a second.
    Dripping,
}

/// The interval between two bytes of a dripping response.
const DRIP: Duration = Duration::from_millis(100);

impl Answer {
    pub(crate) fn new(status: u16, body: Vec<u8>) -> Self {
        Self { status, headers: Vec::new(), body, form: Form::Whole }
    }

    pub(crate) fn ok(body: Vec<u8>) -> Self {
        Self::new(200, body)
    }

    /// An S3 error document.
    pub(crate) fn error(status: u16, code: &str, message: &str) -> Self {
        let body = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code><Message>{message}</Message><RequestId>R</RequestId></Error>"
        );
        Self::new(status, body.into_bytes()).header("Content-Type", "application/xml")
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn with_status(self, status: u16) -> Self {
        Self { status, ..self }
    }

    /// With `Transfer-Encoding: chunked`, in chunks of this many bytes.
    pub(crate) fn in_pieces(self, bytes: usize) -> Self {
        Self { form: Form::Pieces(bytes), ..self }
    }

    /// As in HTTP 1.0: the body ends with the connection.
    pub(crate) fn http10(self) -> Self {
        Self { form: Form::Http10, ..self }
    }

    /// The connection stays open and nothing is sent.
    pub(crate) fn stalled() -> Self {
        Self { form: Form::Stalled, ..Self::ok(Vec::new()) }
    }

    /// Sends a byte every tenth of a second.
    pub(crate) fn dripping(self) -> Self {
        Self { form: Form::Dripping, ..self }
    }

    /// Announces the full length, but closes the connection after this many bytes.
    pub(crate) fn cut_at(self, bytes: usize) -> Self {
        Self { form: Form::CutAt(bytes), ..self }
    }

    fn encode(&self) -> Vec<u8> {
        let version = if matches!(self.form, Form::Http10) { "1.0" } else { "1.1" };
        let mut answer = format!("HTTP/{version} {} Said\r\nConnection: close\r\n", self.status).into_bytes();
        for (name, value) in &self.headers {
            answer.extend(format!("{name}: ").into_bytes());
            // Latin-1, as bytes that are not UTF-8 arrive from real stores.
            answer.extend(value.chars().map(|c| u8::try_from(u32::from(c)).unwrap()));
            answer.extend(b"\r\n");
        }
        match self.form {
            Form::Stalled => answer.clear(),
            Form::Dripping => answer.extend(format!("Content-Length: {}\r\n\r\n", self.body.len()).into_bytes()),
            Form::Whole | Form::CutAt(_) => {
                answer.extend(format!("Content-Length: {}\r\n\r\n", self.body.len()).into_bytes());
                let sent = if let Form::CutAt(bytes) = self.form { &self.body[..bytes] } else { &self.body[..] };
                answer.extend(sent);
            }
            Form::Http10 => {
                answer.extend(b"\r\n");
                answer.extend(&self.body);
            }
            Form::Pieces(bytes) => {
                answer.extend(b"Transfer-Encoding: chunked\r\n\r\n");
                for piece in self.body.chunks(bytes) {
                    answer.extend([format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat());
                }
                answer.extend(b"0\r\n\r\n");
            }
        }
        answer
    }
}

/// The head of a request.
#[derive(Debug)]
pub(crate) struct Request(String);

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.0.lines().skip(1).filter_map(|line| line.split_once(": "));
        headers.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// The key, as it is encoded in the request.
    pub(crate) fn key(&self) -> &str {
        let target = self.0.split(' ').nth(1).and_then(|target| target.split('?').next()).unwrap_or_default();
        target.splitn(3, '/').nth(2).unwrap_or_default()
    }

    pub(crate) fn bucket(&self) -> &str {
        self.0.split(' ').nth(1).and_then(|target| target.split('/').nth(1)).unwrap_or_default()
    }
}

/// The store, which listens on a free port.
#[derive(Debug)]
pub(crate) struct FakeStore {
    endpoint: String,
    serving: JoinHandle<()>,
}

impl FakeStore {
    pub(crate) async fn start(answer: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let answer = Arc::new(answer);
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let answer = Arc::clone(&answer);
                tokio::spawn(async move { serve(stream, |request| answer(request)).await });
            }
        });
        Self { endpoint, serving }
    }

    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }
}

impl Drop for FakeStore {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(mut stream: TcpStream, answer: impl Fn(&Request) -> Answer) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let request = Request(String::from_utf8_lossy(&head).into_owned());
    let answer = answer(&request);
    // The client may have closed the connection.
    let _ = stream.write_all(&answer.encode()).await;
    match answer.form {
        Form::Stalled => drop(stream.read_u8().await),
        Form::Dripping => {
            for byte in &answer.body {
                tokio::time::sleep(DRIP).await;
                if stream.write_u8(*byte).await.is_err() {
                    return;
                }
            }
        }
        Form::Whole | Form::Pieces(_) | Form::Http10 | Form::CutAt(_) => {}
    }
    let _ = stream.shutdown().await;
}

/// CRC-32 in the form of S3.
pub(crate) fn crc32(bytes: &[u8]) -> String {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    BASE64_STANDARD.encode(crc.sum().to_be_bytes())
}

/// SHA-256 in the form of S3.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    BASE64_STANDARD.encode(hex::decode(wire::identity::sha256_hex(bytes)).unwrap())
}
