//! Tasks of the wire as prompts for the model.

use kosmos2::processor::prompt::Prompt;

use crate::v1::task;

/// The prompt of the task at `index`. Adds one sentence to `problems` for each broken rule, and then there may be no
/// prompt.
pub(crate) fn prompt(index: usize, kind: Option<&task::Kind>, problems: &mut Vec<String>) -> Option<Prompt> {
    let _ = kind;
    if kind.is_none() {
        problems.push(format!("tasks[{index}]"));
        return None;
    }
    Some(Prompt { text: String::new(), boxes: None })
}
