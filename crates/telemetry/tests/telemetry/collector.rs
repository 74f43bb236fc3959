//! A collector in this process, for OTLP/gRPC and OTLP/HTTP on one port.

use std::convert::Infallible;
use std::io::Read;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_server::{LogsService, LogsServiceServer};
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse};
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{ExportMetricsServiceRequest, ExportMetricsServiceResponse};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::Metric;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tonic::body::Body;
use tonic::codec::CompressionEncoding;
use tonic::codegen::Service;

/// What has arrived. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Received(Arc<Mutex<Store>>);

#[derive(Default)]
struct Store {
    spans: Vec<Span>,
    metrics: Vec<Metric>,
    logs: Vec<LogRecord>,
    resources: Vec<Resource>,
    requests: Vec<(String, HeaderMap)>,
}

/// A running collector.
pub(crate) struct Collector {
    pub(crate) url: String,
    pub(crate) received: Received,
}

impl Collector {
    pub(crate) async fn start() -> Self {
        Self::answering(None).await
    }

    /// One that refuses everything with this status.
    pub(crate) async fn refusing(status: StatusCode) -> Self {
        Self::answering(Some(status)).await
    }

    async fn answering(refusal: Option<StatusCode>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let received = Received::default();
        let store = received.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, store.clone(), refusal));
            }
        });
        Self { url, received }
    }
}

/// Answers on one connection, whichever of the protocols it speaks.
pub(crate) async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    received: Received,
    refusal: Option<StatusCode>,
) {
    let service = service_fn(move |request: Request<Incoming>| {
        let received = received.clone();
        async move {
            let (path, headers) = (request.uri().path().to_owned(), request.headers().clone());
            received.0.lock().unwrap().requests.push((path, headers));
            Ok::<_, Infallible>(match refusal {
                Some(status) => {
                    let mut response = Response::new(Body::empty());
                    *response.status_mut() = status;
                    response
                }
                None => received.answer(request).await,
            })
        }
    });
    drop(auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await);
}

impl Received {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let gzip = CompressionEncoding::Gzip;
        match request.uri().path().to_owned().as_str() {
            "/opentelemetry.proto.collector.trace.v1.TraceService/Export" => {
                let mut server = TraceServiceServer::new(self.clone()).accept_compressed(gzip);
                server.call(request).await.unwrap()
            }
            "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export" => {
                let mut server = MetricsServiceServer::new(self.clone()).accept_compressed(gzip);
                server.call(request).await.unwrap()
            }
            "/opentelemetry.proto.collector.logs.v1.LogsService/Export" => {
                let mut server = LogsServiceServer::new(self.clone()).accept_compressed(gzip);
                server.call(request).await.unwrap()
            }
            "/v1/traces" => {
                self.take_spans(ExportTraceServiceRequest::decode(body(request).await).unwrap());
                encoded(&ExportTraceServiceResponse::default())
            }
            "/v1/metrics" => {
                self.take_metrics(ExportMetricsServiceRequest::decode(body(request).await).unwrap());
                encoded(&ExportMetricsServiceResponse::default())
            }
            "/v1/logs" => {
                self.take_logs(ExportLogsServiceRequest::decode(body(request).await).unwrap());
                encoded(&ExportLogsServiceResponse::default())
            }
            other => panic!("nothing is exported to {other}"),
        }
    }

    fn take_spans(&self, request: ExportTraceServiceRequest) {
        let mut store = self.0.lock().unwrap();
        for of_resource in request.resource_spans {
            store.resources.extend(of_resource.resource);
            store.spans.extend(of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans));
        }
    }

    fn take_metrics(&self, request: ExportMetricsServiceRequest) {
        let mut store = self.0.lock().unwrap();
        for of_resource in request.resource_metrics {
            store.resources.extend(of_resource.resource);
            store.metrics.extend(of_resource.scope_metrics.into_iter().flat_map(|scope| scope.metrics));
        }
    }

    fn take_logs(&self, request: ExportLogsServiceRequest) {
        let mut store = self.0.lock().unwrap();
        for of_resource in request.resource_logs {
            store.resources.extend(of_resource.resource);
            store.logs.extend(of_resource.scope_logs.into_iter().flat_map(|scope| scope.log_records));
        }
    }

    pub(crate) fn spans(&self) -> Vec<Span> {
        self.0.lock().unwrap().spans.clone()
    }

    pub(crate) fn metrics(&self) -> Vec<Metric> {
        self.0.lock().unwrap().metrics.clone()
    }

    pub(crate) fn logs(&self) -> Vec<LogRecord> {
        self.0.lock().unwrap().logs.clone()
    }

    pub(crate) fn resources(&self) -> Vec<Resource> {
        self.0.lock().unwrap().resources.clone()
    }

    /// Paths and headers of all requests.
    pub(crate) fn requests(&self) -> Vec<(String, HeaderMap)> {
        self.0.lock().unwrap().requests.clone()
    }

    /// Waits until this is so.
    pub(crate) async fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let wait = async {
            while !is_so(self) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        assert!(tokio::time::timeout(Duration::from_secs(30), wait).await.is_ok(), "{what}");
    }
}

#[tonic::async_trait]
impl TraceService for Received {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        self.take_spans(request.into_inner());
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Received {
    async fn export(
        &self,
        request: tonic::Request<ExportMetricsServiceRequest>,
    ) -> Result<tonic::Response<ExportMetricsServiceResponse>, tonic::Status> {
        self.take_metrics(request.into_inner());
        Ok(tonic::Response::new(ExportMetricsServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl LogsService for Received {
    async fn export(
        &self,
        request: tonic::Request<ExportLogsServiceRequest>,
    ) -> Result<tonic::Response<ExportLogsServiceResponse>, tonic::Status> {
        self.take_logs(request.into_inner());
        Ok(tonic::Response::new(ExportLogsServiceResponse::default()))
    }
}

async fn body(request: Request<Incoming>) -> Bytes {
    let is_gzip = request.headers().get("content-encoding").is_some_and(|encoding| encoding == "gzip");
    let bytes = request.into_body().collect().await.unwrap().to_bytes();
    if !is_gzip {
        return bytes;
    }
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(&bytes[..]).read_to_end(&mut plain).unwrap();
    plain.into()
}

fn encoded(answer: &impl Message) -> Response<Body> {
    Response::new(Body::new(Full::new(Bytes::from(answer.encode_to_vec()))))
}

/// The value of an attribute, as text.
pub(crate) fn attribute(attributes: &[KeyValue], key: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    match found.value.clone()? {
        AnyValue { value: Some(any_value::Value::StringValue(text)) } => Some(text),
        AnyValue { value: Some(any_value::Value::IntValue(number)) } => Some(number.to_string()),
        other => Some(format!("{other:?}")),
    }
}
