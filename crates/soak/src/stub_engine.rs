//! An engine without a model. Its answers are digests of the picture and the query.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use engine::{Annotator, EngineSnapshot, Request, Response, ResponseFuture, Timings};
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
    wedge: Option<Wedge>,
}

/// A device that stops for ever.
#[derive(Debug)]
struct Wedge {
    /// Requests that it still answers.
    remaining: AtomicUsize,
    stall_timeout: Duration,
    work: Mutex<Work>,
}

/// What a wedged device has in hand.
#[derive(Debug, Default)]
struct Work {
    requests: usize,
    last_progress: Option<Instant>,
}

/// A request in hand.
struct InHand<'a>(Option<&'a Wedge>);

impl StubEngine {
    /// A stub that takes this long for each request.
    pub fn new(request_time: Duration) -> Self {
        Self { device: Semaphore::new(1), request_time, wedge: None }
    }

    /// The same, whose device stops for ever after `answered` requests. It counts as stalled after `stall_timeout`.
    #[must_use]
    pub fn with_wedge(self, answered: usize, stall_timeout: Duration) -> Self {
        let wedge = Wedge { remaining: AtomicUsize::new(answered), stall_timeout, work: Mutex::default() };
        Self { wedge: Some(wedge), ..self }
    }
}

impl Annotator for StubEngine {
    fn preprocess(&self, picture: &Picture) -> PixelValues {
        digest_of(picture)
    }

    fn submit(&self, request: Request) -> ResponseFuture<'_> {
        Box::pin(async move {
            let in_hand = InHand::new(self.wedge.as_ref());
            let _device = self.device.acquire().await;
            in_hand.wedge_if_due().await;
            tokio::time::sleep(self.request_time).await;
            let texts = request.queries.iter().map(|query| grounded(&request.pixels, query)).collect();
            Ok(Response { texts, timings: Timings::default() })
        })
    }

    fn snapshot(&self) -> Option<EngineSnapshot> {
        let work = self.wedge.as_ref()?.work();
        let last_progress_age = work.last_progress.map(|progress| progress.elapsed());
        Some(EngineSnapshot { last_progress_age, ..EngineSnapshot::default() })
    }

    fn stall_timeout(&self) -> Option<Duration> {
        Some(self.wedge.as_ref()?.stall_timeout)
    }
}

impl Wedge {
    fn work(&self) -> std::sync::MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<'a> InHand<'a> {
    fn new(wedge: Option<&'a Wedge>) -> Self {
        if let Some(wedge) = wedge {
            let mut work = wedge.work();
            work.requests += 1;
            work.last_progress.get_or_insert_with(Instant::now);
        }
        Self(wedge)
    }

    async fn wedge_if_due(&self) {
        let Some(wedge) = self.0 else { return };
        let count_down = |count: usize| count.checked_sub(1);
        if wedge.remaining.fetch_update(Ordering::SeqCst, Ordering::SeqCst, count_down).is_err() {
            return std::future::pending().await;
        }
        wedge.work().last_progress = Some(Instant::now());
    }
}

impl Drop for InHand<'_> {
    fn drop(&mut self) {
        if let Some(wedge) = self.0 {
            let mut work = wedge.work();
            work.requests -= 1;
            if work.requests == 0 {
                work.last_progress = None;
            }
        }
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
