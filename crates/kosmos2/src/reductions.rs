//! Reductions of a row of logits.

/// The index of the greatest score; `None` if no score is above -∞.
pub(crate) fn best(scores: &[f32]) -> Option<usize> {
    kernels::cpu::argmax(scores).filter(|&index| scores[index] > f32::NEG_INFINITY)
}

/// ln Σ exp(x), or `None` if it is not finite.
pub(crate) fn log_sum_exp(logits: &[f32]) -> Option<f32> {
    let result = kernels::cpu::log_sum_exp(logits);
    result.is_finite().then_some(result)
}
