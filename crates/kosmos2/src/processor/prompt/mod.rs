//! Prompts: tasks, texts with boxes, and their encoding as tokens.
//!
//! ```no_run
//! use kosmos2::processor::prompt::{EncodeOptions, Prompt, Task, TextProcessor};
//! use kosmos2::processor::tokenizer::KosmosTokenizer;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let prompt = Task::PhraseGrounding("a snowman".into()).prompt()?;
//! assert_eq!(prompt, Prompt::new("<grounding><phrase> a snowman</phrase>"));
//!
//! let tokenizer = KosmosTokenizer::from_dir("kosmos-2-patch14-224".as_ref())?;
//! let encoded = TextProcessor::new(tokenizer, 64).encode(&prompt, &EncodeOptions::default())?;
//! println!("{:?}", encoded.input_ids);
//! # Ok(())
//! # }
//! ```

mod boxes;
mod error;
mod input;
pub(crate) mod tags;
mod task;
mod text_processor;

pub use boxes::{PhraseBoxes, PromptBox};
pub use error::PromptError;
pub use input::Prompt;
pub use task::Task;
pub use text_processor::{EncodeOptions, EncodedPrompt, PaddingSide, TextProcessor};
