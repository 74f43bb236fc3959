//! Results in the form that `review` shows.

use review::{GroundedEntity, TaskAnswer};
use wire::v1::{Entity, FinishReason, FractionBox, ImageAnnotation, TaskResult};

use crate::report::finish;

/// The result of a task about a picture with this name.
pub(crate) fn task_answer(name: &str, result: &TaskResult) -> TaskAnswer {
    TaskAnswer {
        name: name.into(),
        task_id: result.task_id.clone(),
        prompt: result.prompt.clone(),
        text: result.text.clone(),
        raw_text: result.raw_text.clone(),
        finish_reason: finish(result.finish_reason() == FinishReason::Length),
        entities: grounded_entities(result),
    }
}

/// The name of an annotation's picture: the key of its object, or the job's id.
pub(crate) fn name_of(annotation: &ImageAnnotation) -> String {
    let object = annotation.picture.as_ref().and_then(|picture| picture.object.as_ref());
    object.map_or_else(|| annotation.job_id.clone(), |object| object.key.clone())
}

/// The phrases of a result with their boxes.
pub(crate) fn grounded_entities(result: &TaskResult) -> Vec<GroundedEntity> {
    let corners = |b: &FractionBox| [b.x0, b.y0, b.x1, b.y1];
    let grounded_entity = |entity: &Entity| GroundedEntity {
        phrase: entity.phrase.clone(),
        boxes: entity.boxes.iter().filter_map(|b| b.fractions.as_ref()).map(corners).collect(),
        span: entity.span.as_ref().map_or((0, 0), |span| (span.start.into(), span.end.into())),
        score: entity.score,
        box_scores: entity.boxes.iter().map(|b| b.score).collect(),
    };
    result.entities.iter().map(grounded_entity).collect()
}
