//! An engine whose answers follow from picture and question alone, at once.

use std::time::Duration;

use engine::{Annotator, Request, Response, ResponseFuture, Timings};
use kosmos2::Query;
use kosmos2::options::{FinishReason, GroundedText};
use kosmos2::processor::image::{Picture, PixelValues};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

/// Side of the square of "pixel values": 12 of them hold 12 bytes of a digest.
const SIDE: usize = 2;

/// Answers with digests, one request at a time, as a device would.
#[derive(Debug)]
pub struct Stub {
    device: Semaphore,
    pace: Duration,
}

impl Stub {
    /// A stub that takes this long for each request.
    pub fn new(pace: Duration) -> Self {
        Self { device: Semaphore::new(1), pace }
    }
}

impl Annotator for Stub {
    fn preprocess(&self, picture: &Picture) -> PixelValues {
        digest_of(picture)
    }

    fn submit(&self, request: Request) -> ResponseFuture<'_> {
        Box::pin(async move {
            let _device = self.device.acquire().await;
            tokio::time::sleep(self.pace).await;
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

/// What the stub says about a picture: nothing that another picture or question could lead to.
pub fn text(pixels: &PixelValues, query: &Query) -> String {
    let picture: String = pixels.as_slice().iter().map(|value| format!("{:02x}", *value as u8)).collect();
    let asked = Sha256::digest(format!("{query:?}"));
    let asked: String = asked.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("picture {picture} asked {asked}")
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
