//! The arguments of attention, and their checks.

use crate::cpu::key_value_cache::KeyValueCache;
use crate::cpu::simd::LANES;

/// The queries of one sequence over its keys and values. Rows are tokens: `[token][heads * head_dim]`.
///
/// The result of a query depends, bit for bit, only on the query and the keys and values it sees, however the queries
/// are divided into jobs and wherever the keys are stored. Values that it does not see must be finite nevertheless.
#[derive(Debug)]
pub struct Attention<'a> {
    /// One row for each row of `out`.
    pub queries: &'a [f32],
    /// Distance from one query to the next, in values.
    pub query_stride: usize,
    /// The keys and values.
    pub context: Context<'a>,
    /// Number of keys, at least 1.
    pub key_count: usize,
    /// With `Some(offset)` query `i` sees keys `0..=offset + i`; with `None` every query sees all keys.
    pub causal_offset: Option<usize>,
    /// `[queries, heads * head_dim]`, contiguous.
    pub out: &'a mut [f32],
}

/// Where keys and values are stored.
#[derive(Clone, Copy, Debug)]
pub enum Context<'a> {
    /// As rows, one for each of the `key_count` tokens.
    Rows {
        /// Rows of keys.
        keys: &'a [f32],
        /// Rows of values.
        values: &'a [f32],
        /// Distance from one key, or value, to the next, in values.
        stride: usize,
    },
    /// In the cache of the sequence.
    Cache(&'a KeyValueCache),
}

/// A checked [`Attention`] without its output.
pub(super) struct Shape<'a> {
    pub(super) queries: &'a [f32],
    pub(super) query_stride: usize,
    pub(super) context: Context<'a>,
    pub(super) key_count: usize,
    pub(super) causal_offset: Option<usize>,
    pub(super) rows: usize,
    pub(super) heads: usize,
    pub(super) head_dim: usize,
}

impl<'a> Shape<'a> {
    pub(super) fn of(job: &Attention<'a>, heads: usize, head_dim: usize) -> Self {
        let rows = job.out.len() / heads.saturating_mul(head_dim);
        check(job, rows, heads, head_dim);
        Self {
            queries: job.queries,
            query_stride: job.query_stride,
            context: job.context,
            key_count: job.key_count,
            causal_offset: job.causal_offset,
            rows,
            heads,
            head_dim,
        }
    }

    /// Whether this is one query over a cache, whose keys are packed in panels, with values of whole vectors.
    pub(super) fn is_single_cached_query(&self) -> bool {
        self.rows == 1 && self.head_dim.is_multiple_of(LANES) && matches!(self.context, Context::Cache(_))
    }

    /// Number of keys that a query sees.
    pub(super) fn visible_keys(&self, query: usize) -> usize {
        self.causal_offset.map_or(self.key_count, |offset| self.key_count.min(offset.saturating_add(query + 1)))
    }
}

fn check(job: &Attention<'_>, queries: usize, heads: usize, head_dim: usize) {
    let width = heads * head_dim;
    let needed = |rows: usize, stride: usize| match rows {
        0 => 0,
        _ => (rows - 1).saturating_mul(stride).saturating_add(width),
    };
    assert!(job.out.len() == queries * width, "out must hold rows of {width} values, not {}", job.out.len());
    assert!(queries == 0 || job.key_count > 0, "attention with queries must have at least one key");
    assert!(job.queries.len() >= needed(queries, job.query_stride), "queries must hold a row for each row of out");
    match &job.context {
        Context::Rows { keys, values, stride } => {
            assert!(keys.len() >= needed(job.key_count, *stride), "keys must hold {} rows", job.key_count);
            assert!(values.len() >= needed(job.key_count, *stride), "values must hold {} rows", job.key_count);
        }
        Context::Cache(cache) => {
            assert!(cache.has_shape(heads, head_dim), "the cache must have {heads} heads of {head_dim} values");
            assert!(cache.length() >= job.key_count, "the cache must hold {} tokens", job.key_count);
        }
    }
}
