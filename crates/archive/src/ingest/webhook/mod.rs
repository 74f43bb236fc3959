//! The webhook server.

mod access;
mod respond;
mod server;

pub(super) use access::Access;
pub(super) use server::Webhook;
