//! Proxies between the servers of a cluster, so that one of them can be cut off from the others.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Context;
use sandbox::NodeRoutes;

use crate::proxy::{Break, Mode, Proxy};

/// The ways between servers: one proxy for each that dials and each that is dialled, and one before each server for
/// those that only hear of it from a third.
#[derive(Debug)]
pub struct Routes {
    pairs: Vec<Pair>,
    heard_of: Vec<Proxy>,
}

#[derive(Debug)]
struct Pair {
    dialling: usize,
    dialled: usize,
    proxy: Proxy,
}

impl Routes {
    /// Proxies before servers that will listen on `ports`.
    ///
    /// # Errors
    /// When there is no port for a proxy.
    pub async fn start(ports: &[u16]) -> anyhow::Result<Self> {
        let (mut pairs, mut heard_of) = (Vec::new(), Vec::new());
        for (dialled, &port) in ports.iter().enumerate() {
            let target = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            heard_of.push(Proxy::start(target).await.context("a proxy between servers")?);
            for dialling in (0..ports.len()).filter(|dialling| *dialling != dialled) {
                pairs.push(Pair { dialling, dialled, proxy: Proxy::start(target).await? });
            }
        }
        Ok(Self { pairs, heard_of })
    }

    /// What the servers are to be told of each other.
    pub fn nodes(&self, ports: &[u16]) -> Vec<NodeRoutes> {
        let node = |(node, &listen): (usize, &u16)| NodeRoutes {
            listen,
            advertise: self.heard_of.get(node).map(|proxy| proxy.address().to_string()),
            dial: self
                .pairs
                .iter()
                .filter(|pair| pair.dialling == node)
                .map(|p| p.proxy.address().to_string())
                .collect(),
        };
        ports.iter().enumerate().map(node).collect()
    }

    /// Breaks all connections that a server has to others.
    pub fn break_all(&self, node: usize, how: Break) {
        self.around(node).for_each(|proxy| proxy.break_all(how));
    }

    /// Changes what happens to all bytes between a server and others.
    pub fn set(&self, node: usize, mode: Mode) {
        self.around(node).for_each(|proxy| proxy.set(mode));
    }

    /// What was heard of leads everywhere, so it goes along with every server.
    fn around(&self, node: usize) -> impl Iterator<Item = &Proxy> {
        let pairs = self.pairs.iter().filter(move |pair| pair.dialling == node || pair.dialled == node);
        pairs.map(|pair| &pair.proxy).chain(&self.heard_of)
    }
}
