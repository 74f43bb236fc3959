//! processor/tokenizer
