//! A format's size and memory estimate.

/// What a format's headers state, before it is checked against the limits.
pub(super) struct Estimate {
    pub(super) width: u32,
    pub(super) height: u32,
    /// Upper bound on the bytes that decoding takes.
    pub(super) memory: u64,
}

/// The saturating product.
pub(super) fn product(factors: &[u64]) -> u64 {
    factors.iter().fold(1, |product, &factor| product.saturating_mul(factor))
}
