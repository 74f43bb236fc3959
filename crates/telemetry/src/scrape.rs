//! The answer to `GET /metrics`.

use prometheus::{Registry, TextEncoder};

/// Renders the metrics in Prometheus' text format. Clones share them.
#[derive(Debug, Clone)]
pub struct Scraper {
    registry: Registry,
}

impl Scraper {
    /// The content type of the answer.
    pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

    pub(crate) fn new(registry: Registry) -> Self {
        Self { registry }
    }

    /// The metrics at present.
    ///
    /// # Errors
    /// One sentence, if a metric cannot be rendered.
    pub fn render(&self) -> Result<String, String> {
        let rendered = TextEncoder::new().encode_to_string(&self.registry.gather());
        rendered.map_err(|error| format!("the metrics cannot be rendered: {error}"))
    }
}
