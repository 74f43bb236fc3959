//! `groundling scaler`: tells KEDA how long the backlog takes.

use std::path::Path;

use anyhow::Context;
use scaler::{Observer, Timing};
use tokio::net::TcpListener;

use crate::args::{ScalerArgs, StoreArgs};
use crate::exit::Outcome;
use crate::settings::Settings;
use crate::stderr;

pub(crate) async fn run(args: ScalerArgs, settings: Option<&Path>) -> anyhow::Result<Outcome> {
    let flags = StoreArgs { nats_url: args.nats_url, s3_endpoint: None };
    let (nats, streams) = Settings::load(settings)?.with_stores(&flags).for_setup()?;
    let (first, second) = ("ending the answers to KEDA", "KEDA asks again");
    let shutdown = worker::signals::shutdown_with_messages(first, second, || stderr::finish(&[]))?;
    let listener = TcpListener::bind(args.listen).await;
    let listener = listener.with_context(|| format!("cannot listen on {}: choose another --listen", args.listen))?;
    tracing::info!(address = %listener.local_addr()?, metric = scaler::METRIC, "the scaler serves KEDA");
    let observer = Observer::new(Timing::default());
    let serving = scaler::serve(listener, observer.clone(), shutdown);
    tokio::select! {
        () = serving => Ok(Outcome::Done),
        failed = observer.run(&nats, &streams) => {
            failed?;
            Ok(Outcome::Done)
        }
    }
}
