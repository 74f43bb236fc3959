//! Which waiting prompts join the next step. No clocks, no channels, no tensors.

/// The batch rule: **each step takes the newest token of every running prompt and then waiting prompts, strictly in
/// their order of arrival, as long as slots are free and the step's prompt tokens stay within the budget; the first
/// of them is taken whatever its length.**
///
/// Strict order is what makes it fair: a prompt that needs several slots is not passed by smaller ones for ever, and
/// since each running prompt ends after its own limit of tokens, everyone's turn comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admission {
    /// Most prompt tokens of a step, so that running prompts do not wait long for a crowd of new ones.
    pub prompt_tokens: usize,
}

/// What a waiting prompt would take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand {
    /// Slots.
    pub slots: usize,
    /// Tokens that are not computed yet.
    pub tokens: usize,
}

impl Admission {
    /// How many of the waiting prompts, from the first on, join the next step.
    pub fn admit(&self, free_slots: usize, waiting: impl IntoIterator<Item = Demand>) -> usize {
        let (mut slots, mut tokens, mut admitted) = (0, 0, 0);
        for demand in waiting {
            slots += demand.slots;
            tokens += demand.tokens;
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

    fn prompts(tokens: &[usize]) -> Vec<Demand> {
        tokens.iter().map(|&tokens| Demand { slots: 1, tokens }).collect()
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
        let wide = Demand { slots: 4, tokens: 1 };
        let narrow = Demand { slots: 1, tokens: 1 };
        assert_eq!(RULE.admit(3, [wide, narrow]), 0);
        assert_eq!(RULE.admit(4, [wide, narrow]), 1);
        assert_eq!(RULE.admit(5, [wide, narrow]), 2);
    }

    #[test]
    fn no_prompt_waits_for_ever_behind_long_outputs() {
        // Slots are held for a fixed number of steps by whoever is admitted; every prompt's turn comes, in order.
        let (slots, steps_each) = (3, 50);
        let mut waiting: std::collections::VecDeque<usize> = (0..40).collect();
        let mut running: Vec<(usize, usize)> = Vec::new();
        let mut started = Vec::new();
        for step in 0..40 * steps_each {
            running.retain(|&(_, end)| end > step);
            let demands = waiting.iter().map(|_| Demand { slots: 1, tokens: 71 });
            let admitted = RULE.admit(slots - running.len(), demands);
            for prompt in waiting.drain(..admitted) {
                started.push(prompt);
                running.push((prompt, step + steps_each));
            }
        }
        assert_eq!(started, (0..40).collect::<Vec<_>>());
    }
}
