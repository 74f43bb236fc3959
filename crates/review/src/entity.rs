//! A phrase as one card of the page shows it.

use crate::annotation::GroundedEntity;

/// One phrase in one annotation of a card.
pub(super) struct Entity<'a> {
    pub(super) entity: &'a GroundedEntity,
    /// Links the phrase's text, boxes and labels within the card: the script highlights all of them together.
    pub(super) id: String,
    /// The number of its colour.
    pub(super) colour: usize,
}

impl Entity<'_> {
    /// The id of box `nth` of the phrase, unique within the card.
    pub(super) fn box_id(&self, nth: usize) -> String {
        format!("{}-{nth}", self.id)
    }
}
