//! The connection that an intake follows.

use std::future::pending;

use broker::connection::Connection;
use broker::permissions::PermissionViolation;
use tokio::sync::RwLockReadGuard;

use crate::health::Health;
use crate::queue::ConsumerKind;

/// A connection and the health that an intake reports to; without one, the intake counts as connected.
#[derive(Clone, Default)]
pub(crate) struct FollowedConnection(Option<(Connection, Health)>);

impl FollowedConnection {
    pub(crate) fn new(connection: Connection, health: Health) -> Self {
        Self(Some((connection, health)))
    }

    /// Reports how the last pull request of a consumer ended.
    pub(crate) fn report_pull(&self, kind: ConsumerKind, error: Option<&str>) {
        if let Some((_, health)) = &self.0 {
            health.pull_ended(kind, error);
        }
    }

    /// Reports a pull request that was sent over the connection with this number.
    pub(crate) fn report_request(&self, kind: ConsumerKind, number: u64) {
        if let Some((_, health)) = &self.0 {
            health.pull_sent(kind, number);
        }
    }

    /// Waits for the connection and returns its number.
    pub(crate) async fn connected(&self) -> u64 {
        match &self.0 {
            Some((connection, _)) => connection.wait_until_up().await,
            None => 0,
        }
    }

    /// Waits until another connection has replaced the one with this number.
    pub(crate) async fn reconnected(&self, number: u64) {
        match &self.0 {
            Some((connection, _)) => connection.reconnected(number).await,
            None => pending().await,
        }
    }

    /// Waits, from this call on, until the server denies the permission to request jobs of a stream.
    pub(crate) fn refused(&self, stream: String) -> impl Future<Output = PermissionViolation> + use<> {
        let refused = self
            .0
            .as_ref()
            .map(|(connection, _)| connection.permission_violations().next(move |denied| denied.is_pull_from(&stream)));
        async move {
            match refused {
                Some(refused) => refused.await,
                None => pending().await,
            }
        }
    }

    /// Waits until the server has announced that it will shut down (lame duck mode).
    pub(crate) async fn lame_duck(&self) -> &Connection {
        match &self.0 {
            Some((connection, _)) => {
                connection.lame_duck_announced().await;
                connection
            }
            None => pending().await,
        }
    }

    /// While this is held, the connection does not move to another server.
    pub(crate) async fn pull_guard(&self) -> Option<RwLockReadGuard<'_, ()>> {
        match &self.0 {
            Some((connection, _)) => Some(connection.pull_guard().await),
            None => None,
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.0.as_ref().is_none_or(|(connection, _)| connection.is_connected())
    }

    /// The number of the connection.
    pub(crate) fn number(&self) -> u64 {
        self.0.as_ref().map_or(0, |(connection, _)| connection.number())
    }
}
