//! A NATS server with a leaf node.

use std::time::{Duration, Instant};

use crate::error::SandboxError;
use crate::nats::{NatsOptions, NatsServer};
use crate::ports::free_address;

/// The port for leaf nodes is chosen before it is bound, so another program may take it.
const START_ATTEMPTS: u32 = 4;
/// How long the leaf node may take to connect.
const CONNECT_LIMIT: Duration = Duration::from_secs(30);

/// A hub with JetStream in the domain `hub`, and a leaf node connected to it.
#[derive(Debug)]
pub struct NatsLeaf {
    /// The hub.
    pub hub: NatsServer,
    /// The leaf node.
    pub leaf: NatsServer,
}

impl NatsLeaf {
    /// The domain of the hub's JetStream.
    pub const HUB_DOMAIN: &str = "hub";

    /// Starts both and waits until the leaf node is connected. `leaf` has the options of the leaf node, without the remote.
    ///
    /// # Errors
    /// As for [`NatsServer::start`].
    pub async fn start(leaf: &NatsOptions) -> Result<Self, SandboxError> {
        let mut attempt = 1;
        loop {
            match Self::launch(leaf).await {
                Err(SandboxError::EndedEarly { .. }) if attempt < START_ATTEMPTS => attempt += 1,
                ended => return ended,
            }
        }
    }

    async fn launch(leaf: &NatsOptions) -> Result<Self, SandboxError> {
        let port = free_address().map_err(SandboxError::io("find a free port for leaf nodes"))?.port();
        let hub = NatsServer::start(&NatsOptions {
            domain: Some(Self::HUB_DOMAIN.to_owned()),
            extra_config: format!("server_name: hub\nleafnodes {{\n  listen: \"127.0.0.1:{port}\"\n}}\n"),
            ..NatsOptions::default()
        })
        .await?;
        let remote = format!(
            "server_name: leaf\nleafnodes {{\n  remotes: [ {{ url: \"nats-leaf://127.0.0.1:{port}\" }} ]\n}}\n{}",
            leaf.extra_config
        );
        let leaf = NatsServer::start(&NatsOptions { extra_config: remote, ..leaf.clone() }).await?;
        let started = Instant::now();
        while hub.leaf_count().await != Some(1) {
            if started.elapsed() > CONNECT_LIMIT {
                let log = "the leaf node did not connect to the hub".to_owned();
                return Err(SandboxError::NotReady { name: "nats-server", waited: CONNECT_LIMIT, log });
            }
            tokio::time::sleep(crate::process::POLL).await;
        }
        Ok(Self { hub, leaf })
    }
}
