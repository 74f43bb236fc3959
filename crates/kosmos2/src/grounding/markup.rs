//! grounding/markup
