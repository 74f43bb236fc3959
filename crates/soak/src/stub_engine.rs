//! An engine without a model. Its answers are digests of the picture and the query.

use std::time::Duration;

use engine::{Annotator, Request, Response, ResponseFuture, Timings};
use kosmos2::Query;
use kosmos2::options::{FinishReason, GroundedText};
use kosmos2::processor::image::{Picture, PixelValues};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

/// Side of the square of pixel values: 3 × 2 × 2 of them hold 12 bytes of a digest.
const SIDE: usize = 2;

/// Answers with digests, one request at a time.
#[derive(Debug)]
pub struct StubEngine {
    device: Semaphore,
    request_time: Duration,
}

impl StubEngine {
    /// A stub that takes this long for each request.
    pub fn new(request_time: Duration) -> Self {
        Self { device: Semaphore::new(1), request_time }
    }
}

impl Annotator for StubEngine {
    fn preprocess(&self, picture: &Picture) -> PixelValues {
        digest_of(picture)
    }

    fn submit(&self, request: Request) -> ResponseFuture<'_> {
        Box::pin(async move {
            let _device = self.device.acquire().await;
            tokio::time::sleep(self.request_time).await;
            let texts = request.queries.iter().map(|query| grounded(&request.pixels, query)).collect();
            Ok(Response { texts, timings: Timings::default() })
        })
    }
}

/// The picture's pixels as a digest, in the shape of pixel values.
pub fn digest_of(picture: &Picture) -> PixelValues {
    let digest = Sha256::digest(picture.rgb.as_raw());
    let values = digest.iter().take(3 * SIDE * SIDE).map(|byte| f32::from(*byte)).collect();
    // 12 values for a square of 2 by 2 with 3 channels.
    PixelValues::new(values, SIDE).unwrap_or_else(|| unreachable!("a digest has 32 bytes"))
}

/// The stub's answer. It is different for each picture and each query.
pub fn text(pixels: &PixelValues, query: &Query) -> String {
    let picture: String = pixels.as_slice().iter().map(|value| format!("{:02x}", *value as u8)).collect();
    let question = Sha256::digest(format!("{query:?}"));
    let question: String = question.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("picture {picture} asked {question}")
}

fn grounded(pixels: &PixelValues, query: &Query) -> GroundedText {
    let text = text(pixels, query);
    GroundedText {
        prompt: "stub".into(),
        prompt_tokens: 1,
        raw_text: text.clone(),
        text,
        token_ids: vec![2],
        logprobs: vec![0.0],
        entities: Vec::new(),
        finish_reason: FinishReason::Stop,
    }
}
