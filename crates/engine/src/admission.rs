//! Which waiting queries join the next step. Pure arithmetic: no clocks, channels or tensors.

/// The admission rule: **each step computes the newest token of every active query, and the prompts of waiting queries
/// in order of arrival, as long as slots are free and the step's prompt tokens stay within the budget. The first
/// waiting query is admitted whatever its prompt's length.**
///
/// The strict order makes it fair: smaller queries never overtake one that needs several slots. Every active query ends
/// at its token limit, so every query is admitted eventually.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admission {
    /// Maximum prompt tokens of a step, which bounds the delay that new prompts cause to active queries.
    pub prompt_tokens: usize,
}

/// What a waiting query needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PromptCost {
    /// Slots.
    pub slots: usize,
    /// Prompt tokens to compute, without a shared prefix.
    pub tokens: usize,
}

impl Admission {
    /// Returns how many of the waiting queries, counted from the first, join the next step.
    pub fn admit(&self, free_slots: usize, waiting: impl IntoIterator<Item = PromptCost>) -> usize {
        let (mut slots, mut tokens, mut admitted) = (0, 0, 0);
        for cost in waiting {
            slots += cost.slots;
            tokens += cost.tokens;
            if slots > free_slots || (admitted > 0 && tokens > self.prompt_tokens) {
                break;
            }
            admitted += 1;
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: Admission = Admission { prompt_tokens: 100 };

    fn prompts(tokens: &[usize]) -> Vec<PromptCost> {
        tokens.iter().map(|&tokens| PromptCost { slots: 1, tokens }).collect()
    }

    #[test]
    fn nothing_joins_where_no_slot_is_free() {
        assert_eq!(RULE.admit(0, prompts(&[1, 1])), 0);
    }

    #[test]
    fn prompts_join_until_slots_run_out() {
        assert_eq!(RULE.admit(2, prompts(&[10, 10, 10])), 2);
        assert_eq!(RULE.admit(9, prompts(&[10, 10, 10])), 3);
    }

    #[test]
    fn prompts_join_until_the_budget_of_tokens_is_spent() {
        assert_eq!(RULE.admit(9, prompts(&[40, 60, 1])), 2);
        assert_eq!(RULE.admit(9, prompts(&[40, 61, 1])), 1);
    }

    #[test]
    fn the_first_prompt_joins_however_long_it_is() {
        assert_eq!(RULE.admit(1, prompts(&[5000])), 1);
    }

    #[test]
    fn a_prompt_that_must_wait_for_slots_is_not_passed_by_a_smaller_one() {
        let wide = PromptCost { slots: 4, tokens: 1 };
        let narrow = PromptCost { slots: 1, tokens: 1 };
        assert_eq!(RULE.admit(3, [wide, narrow]), 0);
        assert_eq!(RULE.admit(4, [wide, narrow]), 1);
        assert_eq!(RULE.admit(5, [wide, narrow]), 2);
    }

    #[test]
    fn no_prompt_waits_for_ever_behind_long_outputs() {
        // Every admitted prompt holds its slot for a fixed number of steps; all prompts start, in order.
        let (slots, steps_each) = (3, 50);
        let mut waiting: std::collections::VecDeque<usize> = (0..40).collect();
        let mut active: Vec<(usize, usize)> = Vec::new();
        let mut started = Vec::new();
        for step in 0..40 * steps_each {
            active.retain(|&(_, end)| end > step);
            let costs = waiting.iter().map(|_| PromptCost { slots: 1, tokens: 71 });
            let admitted = RULE.admit(slots - active.len(), costs);
            for prompt in waiting.drain(..admitted) {
                started.push(prompt);
                active.push((prompt, step + steps_each));
            }
        }
        assert_eq!(started, (0..40).collect::<Vec<_>>());
    }
}
