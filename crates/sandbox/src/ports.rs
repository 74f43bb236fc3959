//! Free ports of the loopback interface.

use std::fs;
use std::io::{Error, ErrorKind, Result};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// The first port that Linux assigns by default to connections and to listeners that name none.
const DEFAULT_FIRST_ASSIGNED: u16 = 32_768;
/// With fewer ports than these below the first assigned one, the system chooses.
const LEAST_PORTS: u16 = 4096;
/// Ports between the first ones of processes with neighbouring ids.
const PORTS_PER_PROCESS: u32 = 32;

/// Distinct free ports. The system does not assign them to connections, so a server that ends finds its port free when it
/// starts again.
///
/// # Errors
/// If there are not enough.
pub fn free_ports(count: usize) -> Result<Vec<u16>> {
    // All are held until all are chosen, or the system could assign one twice.
    let held = (0..count).map(|_| free_port()).collect::<Result<Vec<_>>>()?;
    held.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}

/// An address of the loopback interface with a free port, as [`free_ports`] gives it.
///
/// # Errors
/// If there is none.
pub fn free_address() -> Result<SocketAddr> {
    free_port()?.local_addr()
}

/// Whether a port is free.
pub(crate) fn is_free(port: u16) -> bool {
    bind(port).is_ok()
}

fn free_port() -> Result<TcpListener> {
    static TRIED: AtomicU32 = AtomicU32::new(0);
    let Some(range) = range() else { return bind(0) };
    let first = std::process::id().wrapping_mul(PORTS_PER_PROCESS);
    for _ in range.clone() {
        let next = first.wrapping_add(TRIED.fetch_add(1, Ordering::Relaxed)) % u32::from(range.end - range.start);
        match bind(range.start + u16::try_from(next).unwrap_or(0)) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {}
            bound => return bound,
        }
    }
    Err(Error::new(ErrorKind::AddrInUse, "all ports are in use"))
}

fn bind(port: u16) -> Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port))
}

/// Ports that the system does not assign. `None` if there are few.
fn range() -> Option<Range<u16>> {
    static RANGE: OnceLock<Option<Range<u16>>> = OnceLock::new();
    RANGE
        .get_or_init(|| {
            let assigned = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok();
            let first = assigned.as_deref().and_then(|range| range.split_whitespace().next()?.parse().ok());
            let end: u16 = first.unwrap_or(DEFAULT_FIRST_ASSIGNED);
            let range = end / 2..end;
            (range.end - range.start >= LEAST_PORTS).then_some(range)
        })
        .clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_distinct_free_and_not_those_that_the_system_assigns() {
        let mut ports = free_ports(100).unwrap();
        ports.extend(free_ports(100).unwrap());
        assert!(ports.iter().all(|port| is_free(*port)));
        let assigned = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        assert!(range().is_none_or(|range| !range.contains(&assigned)), "{assigned}");
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 200);
    }

    #[test]
    fn a_port_in_use_is_not_given() {
        let held: Vec<_> = (0..300).map(|_| free_port().unwrap()).collect();
        assert!(held.iter().all(|listener| !is_free(listener.local_addr().unwrap().port())));
    }
}
