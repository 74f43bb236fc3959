//! The webhook server.

mod access;
mod refusals;
mod respond;
mod server;

pub(super) use access::Access;
pub(super) use refusals::Refusals;
pub(super) use server::Webhook;
