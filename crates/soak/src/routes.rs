//! Proxies between the servers of a cluster, so that one of them can be cut off from the others.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Context;
use sandbox::NodeRoutes;

use crate::proxy::{Break, Mode, Proxy};

/// The routes between servers: a proxy for each pair of a dialing and a dialed server, and one in front of each server for
/// the address that it advertises.
#[derive(Debug)]
pub struct Routes {
    pairs: Vec<Pair>,
    advertised: Vec<Proxy>,
}

#[derive(Debug)]
struct Pair {
    from: usize,
    to: usize,
    proxy: Proxy,
}

impl Routes {
    /// Starts proxies in front of servers that will listen on `ports`.
    ///
    /// # Errors
    /// If there is no free port for a proxy.
    pub async fn start(ports: &[u16]) -> anyhow::Result<Self> {
        let (mut pairs, mut advertised) = (Vec::new(), Vec::new());
        for (to, &port) in ports.iter().enumerate() {
            let target = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            advertised.push(Proxy::start(target).await.context("a proxy between servers")?);
            for from in (0..ports.len()).filter(|from| *from != to) {
                pairs.push(Pair { from, to, proxy: Proxy::start(target).await? });
            }
        }
        Ok(Self { pairs, advertised })
    }

    /// The addresses that each server listens on, advertises and dials.
    pub fn nodes(&self, ports: &[u16]) -> Vec<NodeRoutes> {
        let node = |(node, &listen): (usize, &u16)| NodeRoutes {
            listen,
            advertise: self.advertised.get(node).map(|proxy| proxy.address().to_string()),
            dial: self.pairs.iter().filter(|pair| pair.from == node).map(|p| p.proxy.address().to_string()).collect(),
        };
        ports.iter().enumerate().map(node).collect()
    }

    /// Breaks all connections between a server and the others.
    pub fn break_all(&self, node: usize, how: Break) {
        self.around(node).for_each(|proxy| proxy.break_all(how));
    }

    /// Sets the mode of all connections between a server and the others.
    pub fn set(&self, node: usize, mode: Mode) {
        self.around(node).for_each(|proxy| proxy.set(mode));
    }

    /// The proxies of a server. An advertised address may be used by any server, so those proxies always belong to it.
    fn around(&self, node: usize) -> impl Iterator<Item = &Proxy> {
        let pairs = self.pairs.iter().filter(move |pair| pair.from == node || pair.to == node);
        pairs.map(|pair| &pair.proxy).chain(&self.advertised)
    }
}
