//! The NATS servers of a run: one, or three as a cluster, each behind a proxy.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, anyhow};
use async_nats::jetstream;
use sandbox::{NatsCluster, NatsOptions, NatsServer};

use crate::proxy::Proxy;

/// The servers and the proxies in front of them, in the same order.
#[derive(Debug)]
pub struct Broker {
    nodes: Vec<NatsServer>,
    /// One for each server: all that workers and the submitter know.
    pub proxies: Vec<Proxy>,
}

impl Broker {
    /// Starts one server or a cluster of them; every message is written through before it is acknowledged.
    ///
    /// # Errors
    /// When a server does not start.
    pub async fn start(size: usize) -> anyhow::Result<Self> {
        let options = NatsOptions { sync_always: true, ..NatsOptions::default() };
        let nodes = match size {
            1 => vec![NatsServer::start(&options).await?],
            size => NatsCluster::start(size, &options).await?.nodes,
        };
        let mut proxies = Vec::new();
        for node in &nodes {
            proxies.push(Proxy::start(address(node)?).await?);
        }
        Ok(Self { nodes, proxies })
    }

    /// Number of servers.
    pub fn size(&self) -> usize {
        self.nodes.len()
    }

    /// The address that goes by way of the proxies.
    pub fn proxied_url(&self) -> String {
        let urls: Vec<String> = self.proxies.iter().map(|proxy| format!("nats://{}", proxy.address())).collect();
        urls.join(",")
    }

    /// A connection past the proxies, for the oracle.
    ///
    /// # Errors
    /// When no server answers.
    pub async fn direct(&self) -> anyhow::Result<jetstream::Context> {
        let servers: Vec<async_nats::ServerAddr> =
            self.nodes.iter().filter_map(|node| node.client_url().parse().ok()).collect();
        let client = async_nats::ConnectOptions::new().retry_on_initial_connect().connect(servers).await?;
        Ok(jetstream::ContextBuilder::new().timeout(Duration::from_secs(10)).build(client))
    }

    /// Which server leads a stream; the only one where there is one.
    pub async fn leader(&self, jetstream: &jetstream::Context, stream: &str) -> usize {
        let leader = match jetstream.get_stream(stream).await {
            Ok(stream) => stream.cached_info().cluster.as_ref().and_then(|cluster| cluster.leader.clone()),
            Err(_) => None,
        };
        leader.and_then(|name| name.strip_prefix('n')?.parse().ok()).filter(|node| *node < self.size()).unwrap_or(0)
    }

    /// SIGKILL to one server; it stays down for `down`, then starts again on its files.
    ///
    /// # Errors
    /// When it does not start again.
    pub async fn crash(&mut self, node: usize, down: Duration) -> anyhow::Result<()> {
        let server = self.nodes.get_mut(node).context("no such server")?;
        server.kill();
        tokio::time::sleep(down).await;
        server.restart().await?;
        Ok(())
    }

    /// SIGTERM to one server, and a new start on its files.
    ///
    /// # Errors
    /// When it does not start again.
    pub async fn restart(&mut self, node: usize) -> anyhow::Result<()> {
        self.nodes.get_mut(node).context("no such server")?.restart().await?;
        Ok(())
    }
}

fn address(node: &NatsServer) -> anyhow::Result<SocketAddr> {
    let url = node.client_url();
    url.strip_prefix("nats://").and_then(|address| address.parse().ok()).ok_or_else(|| anyhow!("{url} is no address"))
}
