//! An engine whose counters the test controls.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use engine::{Annotator, EngineSnapshot, Request, ResponseFuture};
use kosmos2::processor::image::{Picture, PixelValues};

use super::Yes;

/// Makes progress `passes` times for each request, with `pass` between, unless it is stuck.
pub(crate) struct Paced {
    pub(crate) passes: u32,
    pub(crate) pass: Duration,
    pub(crate) stall_timeout: Duration,
    pub(crate) canary_interval: Option<Duration>,
    pub(crate) is_stuck: AtomicBool,
    pub(crate) canaries: AtomicUsize,
    pub(crate) submitted: AtomicUsize,
    work: Mutex<(usize, Option<Instant>)>,
}

impl Paced {
    pub(crate) fn new(passes: u32, pass: Duration, stall_timeout: Duration) -> Self {
        let work = Mutex::default();
        let (canary_interval, is_stuck) = (None, AtomicBool::new(false));
        let (canaries, submitted) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Self { passes, pass, stall_timeout, canary_interval, is_stuck, canaries, submitted, work }
    }
}

struct InHand<'a>(&'a Paced);

impl Drop for InHand<'_> {
    fn drop(&mut self) {
        let mut work = self.0.work.lock().unwrap();
        work.0 -= 1;
        if work.0 == 0 {
            work.1 = None;
        }
    }
}

impl Annotator for Paced {
    fn preprocess(&self, picture: &Picture) -> PixelValues {
        Yes.preprocess(picture)
    }

    fn submit(&self, request: Request) -> ResponseFuture<'_> {
        Box::pin(async move {
            self.submitted.fetch_add(1, Ordering::SeqCst);
            {
                let mut work = self.work.lock().unwrap();
                work.0 += 1;
                work.1.get_or_insert_with(Instant::now);
            }
            let _in_hand = InHand(self);
            for _ in 0..self.passes {
                tokio::time::sleep(self.pass).await;
                if self.is_stuck.load(Ordering::SeqCst) {
                    std::future::pending::<()>().await;
                }
                self.work.lock().unwrap().1 = Some(Instant::now());
            }
            Yes.submit(request).await
        })
    }

    fn snapshot(&self) -> Option<EngineSnapshot> {
        let last_progress_age = self.work.lock().unwrap().1.map(|progress| progress.elapsed());
        Some(EngineSnapshot { last_progress_age, ..EngineSnapshot::default() })
    }

    fn stall_timeout(&self) -> Option<Duration> {
        Some(self.stall_timeout)
    }

    fn canary_interval(&self) -> Option<Duration> {
        self.canary_interval
    }

    fn canary(&self) -> Option<Request> {
        self.canaries.fetch_add(1, Ordering::SeqCst);
        Some(Request { pixels: PixelValues::new(vec![0.0; 3], 1)?, queries: Vec::new() })
    }
}
