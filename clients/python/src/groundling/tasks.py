"""The tasks of a job: one question about the picture each.

Every task has an optional `task_id`, which its result carries. Without one, it is the name of the kind, for example
`brief_caption`, and `brief_caption-2` for the second task of this kind in the job.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

from groundling.v1 import job_pb2


@dataclass(frozen=True)
class Fractions:
    """A box in fractions of the picture's width and height, 0 to 1 from the upper left corner."""

    x0: float
    y0: float
    x1: float
    y1: float

    def to_message(self) -> job_pb2.PromptBox:
        """The protobuf message."""
        return job_pb2.PromptBox(fractions=job_pb2.FractionBox(x0=self.x0, y0=self.y0, x1=self.x1, y1=self.y1))


@dataclass(frozen=True)
class Patches:
    """A box from one cell of the 32×32 grid to another. Cells are numbered row by row, 0 to 1023."""

    upper_left: int
    lower_right: int

    def to_message(self) -> job_pb2.PromptBox:
        """The protobuf message."""
        pair = job_pb2.PatchPair(upper_left=self.upper_left, lower_right=self.lower_right)
        return job_pb2.PromptBox(patches=pair)


#: A box in a prompt.
PromptBox = Fractions | Patches


@dataclass(frozen=True)
class Task(ABC):
    """A task of a job: one of the classes of this module."""

    #: The submitter's id for the task, unique within the job: 1 to 128 bytes.
    task_id: str | None = field(default=None, kw_only=True)

    @abstractmethod
    def to_message(self) -> job_pb2.Task:
        """The protobuf message, without the id."""


@dataclass(frozen=True)
class BriefCaption(Task):
    """Describe the picture in one sentence, with boxes for its phrases."""

    def to_message(self) -> job_pb2.Task:
        return job_pb2.Task(brief_caption=job_pb2.BriefCaption())


@dataclass(frozen=True)
class DetailedCaption(Task):
    """Describe the picture in detail, with boxes for the phrases."""

    def to_message(self) -> job_pb2.Task:
        return job_pb2.Task(detailed_caption=job_pb2.DetailedCaption())


@dataclass(frozen=True)
class Question(Task):
    """Answer a question about the picture, for example "What is the cat doing?"."""

    question: str

    def to_message(self) -> job_pb2.Task:
        return job_pb2.Task(question=job_pb2.Question(question=self.question))


@dataclass(frozen=True)
class PhraseGrounding(Task):
    """Find everything in the picture that a phrase names, for example "a cat"."""

    phrase: str

    def to_message(self) -> job_pb2.Task:
        return job_pb2.Task(phrase_grounding=job_pb2.PhraseGrounding(phrase=self.phrase))


@dataclass(frozen=True)
class ReferringExpressionComprehension(Task):
    """Find the object that an expression describes, for example "the cat next to the window"."""

    expression: str

    def to_message(self) -> job_pb2.Task:
        kind = job_pb2.ReferringExpressionComprehension(expression=self.expression)
        return job_pb2.Task(referring_expression_comprehension=kind)


@dataclass(frozen=True)
class ReferringExpressionGeneration(Task):
    """Describe the region in the boxes."""

    boxes: Sequence[PromptBox]

    def to_message(self) -> job_pb2.Task:
        kind = job_pb2.ReferringExpressionGeneration(boxes=[box.to_message() for box in self.boxes])
        return job_pb2.Task(referring_expression_generation=kind)


@dataclass(frozen=True)
class Raw(Task):
    """Continue a prompt in the model's markup, for example `<grounding> An image of`. Workers can be configured to
    refuse it."""

    text: str
    #: The boxes of each `<phrase>…</phrase>` in the text. Either empty or one entry for each phrase.
    phrase_boxes: Sequence[Sequence[PromptBox]] = ()

    def to_message(self) -> job_pb2.Task:
        return job_pb2.Task(raw=_raw(self.text, self.phrase_boxes))


@dataclass(frozen=True)
class TextScoring(Task):
    """Compute the probability of a given text in the model's markup. Workers can be configured to refuse it."""

    text: str
    #: The text before it, which is not scored.
    prompt: str = ""
    #: The boxes of each `<phrase>…</phrase>` in the text. Either empty or one entry for each phrase.
    phrase_boxes: Sequence[Sequence[PromptBox]] = ()
    #: Whether the end token after the text is scored too.
    with_end: bool = False

    def to_message(self) -> job_pb2.Task:
        text = _raw(self.text, self.phrase_boxes)
        kind = job_pb2.TextScoring(prompt=self.prompt, text=text, with_end=self.with_end)
        return job_pb2.Task(text_scoring=kind)


def _raw(text: str, phrase_boxes: Sequence[Sequence[PromptBox]]) -> job_pb2.RawPrompt:
    phrases = [job_pb2.PhraseBoxes(boxes=[box.to_message() for box in boxes]) for boxes in phrase_boxes]
    return job_pb2.RawPrompt(text=text, phrase_boxes=phrases)
