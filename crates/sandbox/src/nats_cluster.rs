//! A cluster of NATS servers.

use futures::future::try_join_all;

use crate::error::SandboxError;
use crate::nats::{NatsOptions, NatsServer};
use crate::ports::free_ports;

/// The ports of routes are chosen before they are bound, so another program may take one.
const START_ATTEMPTS: u32 = 4;

/// A running cluster on 127.0.0.1. Its servers are named `n0`, `n1` and so on.
#[derive(Debug)]
pub struct NatsCluster {
    /// The servers, ordered by name. Each can be killed and restarted on its own.
    pub nodes: Vec<NatsServer>,
}

/// The routes of one server of a cluster.
#[derive(Debug, Clone)]
pub struct NodeRoutes {
    /// The port on which it listens for the others.
    pub listen: u16,
    /// The address that it advertises for that, if it is different.
    pub advertise: Option<String>,
    /// The addresses (host and port) of the others. Its own may be among them.
    pub dial: Vec<String>,
}

impl NatsCluster {
    /// Starts a server for each entry of `routes` and waits until JetStream is ready on each.
    ///
    /// # Errors
    /// [`SandboxError::EndedEarly`] if a port is in use, and the errors of [`NatsServer::start`].
    pub async fn start_routed(routes: Vec<NodeRoutes>, options: &NatsOptions) -> Result<Self, SandboxError> {
        let nodes = routes.into_iter().enumerate().map(|(i, node)| {
            let advertise = node.advertise.map(|address| format!("  advertise: \"{address}\"\n")).unwrap_or_default();
            let dial: Vec<String> = node.dial.iter().map(|address| format!("nats://{address}")).collect();
            let extra_config = format!(
                "server_name: n{i}\ncluster {{\n  name: sandbox\n  listen: \"127.0.0.1:{}\"\n{advertise}  no_advertise: true\n  routes: [{}]\n}}\n{}",
                node.listen,
                dial.join(", "),
                options.extra_config
            );
            let log = options.log.as_ref().map(|log| log.with_extension(format!("n{i}.log")));
            // Each server has a folder of its own.
            let options = NatsOptions { data_dir: None, log, extra_config, ..options.clone() };
            async move { NatsServer::start(&options).await }
        });
        // Concurrently: JetStream is ready only when most servers run.
        Ok(Self { nodes: try_join_all(nodes).await? })
    }

    /// Starts `size` servers and waits until JetStream is ready on each. The cluster may have no leader yet, so creating the
    /// first streams may need retries.
    ///
    /// # Errors
    /// As for [`NatsServer::start`].
    pub async fn start(size: usize, options: &NatsOptions) -> Result<Self, SandboxError> {
        let mut attempt = 1;
        loop {
            match Self::launch(size, options).await {
                Err(SandboxError::EndedEarly { .. }) if attempt < START_ATTEMPTS => attempt += 1,
                ended => return ended,
            }
        }
    }

    async fn launch(size: usize, options: &NatsOptions) -> Result<Self, SandboxError> {
        let ports = free_ports(size).map_err(SandboxError::io("find free ports for the NATS cluster"))?;
        let dial: Vec<String> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let node = |&listen: &u16| NodeRoutes { listen, advertise: None, dial: dial.clone() };
        Self::start_routed(ports.iter().map(node).collect(), options).await
    }
}
