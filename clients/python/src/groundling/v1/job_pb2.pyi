from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EarlyStopping(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EARLY_STOPPING_UNSPECIFIED: _ClassVar[EarlyStopping]
    EARLY_STOPPING_NO: _ClassVar[EarlyStopping]
    EARLY_STOPPING_YES: _ClassVar[EarlyStopping]
    EARLY_STOPPING_NEVER: _ClassVar[EarlyStopping]
EARLY_STOPPING_UNSPECIFIED: EarlyStopping
EARLY_STOPPING_NO: EarlyStopping
EARLY_STOPPING_YES: EarlyStopping
EARLY_STOPPING_NEVER: EarlyStopping

class ImageJob(_message.Message):
    __slots__ = ("job_id", "dataset", "s3", "inline", "tasks", "options", "labels")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    DATASET_FIELD_NUMBER: _ClassVar[int]
    S3_FIELD_NUMBER: _ClassVar[int]
    INLINE_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    dataset: str
    s3: S3Object
    inline: bytes
    tasks: _containers.RepeatedCompositeFieldContainer[Task]
    options: GenerationOptions
    labels: _containers.ScalarMap[str, str]
    def __init__(self, job_id: _Optional[str] = ..., dataset: _Optional[str] = ..., s3: _Optional[_Union[S3Object, _Mapping]] = ..., inline: _Optional[bytes] = ..., tasks: _Optional[_Iterable[_Union[Task, _Mapping]]] = ..., options: _Optional[_Union[GenerationOptions, _Mapping]] = ..., labels: _Optional[_Mapping[str, str]] = ...) -> None: ...

class S3Object(_message.Message):
    __slots__ = ("bucket", "key", "version_id", "etag")
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    VERSION_ID_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    bucket: str
    key: str
    version_id: str
    etag: str
    def __init__(self, bucket: _Optional[str] = ..., key: _Optional[str] = ..., version_id: _Optional[str] = ..., etag: _Optional[str] = ...) -> None: ...

class Task(_message.Message):
    __slots__ = ("task_id", "brief_caption", "detailed_caption", "question", "phrase_grounding", "referring_expression_comprehension", "referring_expression_generation", "raw", "text_scoring")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    BRIEF_CAPTION_FIELD_NUMBER: _ClassVar[int]
    DETAILED_CAPTION_FIELD_NUMBER: _ClassVar[int]
    QUESTION_FIELD_NUMBER: _ClassVar[int]
    PHRASE_GROUNDING_FIELD_NUMBER: _ClassVar[int]
    REFERRING_EXPRESSION_COMPREHENSION_FIELD_NUMBER: _ClassVar[int]
    REFERRING_EXPRESSION_GENERATION_FIELD_NUMBER: _ClassVar[int]
    RAW_FIELD_NUMBER: _ClassVar[int]
    TEXT_SCORING_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    brief_caption: BriefCaption
    detailed_caption: DetailedCaption
    question: Question
    phrase_grounding: PhraseGrounding
    referring_expression_comprehension: ReferringExpressionComprehension
    referring_expression_generation: ReferringExpressionGeneration
    raw: RawPrompt
    text_scoring: TextScoring
    def __init__(self, task_id: _Optional[str] = ..., brief_caption: _Optional[_Union[BriefCaption, _Mapping]] = ..., detailed_caption: _Optional[_Union[DetailedCaption, _Mapping]] = ..., question: _Optional[_Union[Question, _Mapping]] = ..., phrase_grounding: _Optional[_Union[PhraseGrounding, _Mapping]] = ..., referring_expression_comprehension: _Optional[_Union[ReferringExpressionComprehension, _Mapping]] = ..., referring_expression_generation: _Optional[_Union[ReferringExpressionGeneration, _Mapping]] = ..., raw: _Optional[_Union[RawPrompt, _Mapping]] = ..., text_scoring: _Optional[_Union[TextScoring, _Mapping]] = ...) -> None: ...

class BriefCaption(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DetailedCaption(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Question(_message.Message):
    __slots__ = ("question",)
    QUESTION_FIELD_NUMBER: _ClassVar[int]
    question: str
    def __init__(self, question: _Optional[str] = ...) -> None: ...

class PhraseGrounding(_message.Message):
    __slots__ = ("phrase",)
    PHRASE_FIELD_NUMBER: _ClassVar[int]
    phrase: str
    def __init__(self, phrase: _Optional[str] = ...) -> None: ...

class ReferringExpressionComprehension(_message.Message):
    __slots__ = ("expression",)
    EXPRESSION_FIELD_NUMBER: _ClassVar[int]
    expression: str
    def __init__(self, expression: _Optional[str] = ...) -> None: ...

class ReferringExpressionGeneration(_message.Message):
    __slots__ = ("boxes",)
    BOXES_FIELD_NUMBER: _ClassVar[int]
    boxes: _containers.RepeatedCompositeFieldContainer[PromptBox]
    def __init__(self, boxes: _Optional[_Iterable[_Union[PromptBox, _Mapping]]] = ...) -> None: ...

class RawPrompt(_message.Message):
    __slots__ = ("text", "phrase_boxes")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    PHRASE_BOXES_FIELD_NUMBER: _ClassVar[int]
    text: str
    phrase_boxes: _containers.RepeatedCompositeFieldContainer[PhraseBoxes]
    def __init__(self, text: _Optional[str] = ..., phrase_boxes: _Optional[_Iterable[_Union[PhraseBoxes, _Mapping]]] = ...) -> None: ...

class TextScoring(_message.Message):
    __slots__ = ("prompt", "text", "with_end")
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    WITH_END_FIELD_NUMBER: _ClassVar[int]
    prompt: str
    text: RawPrompt
    with_end: bool
    def __init__(self, prompt: _Optional[str] = ..., text: _Optional[_Union[RawPrompt, _Mapping]] = ..., with_end: _Optional[bool] = ...) -> None: ...

class PhraseBoxes(_message.Message):
    __slots__ = ("boxes",)
    BOXES_FIELD_NUMBER: _ClassVar[int]
    boxes: _containers.RepeatedCompositeFieldContainer[PromptBox]
    def __init__(self, boxes: _Optional[_Iterable[_Union[PromptBox, _Mapping]]] = ...) -> None: ...

class PromptBox(_message.Message):
    __slots__ = ("patches", "fractions")
    PATCHES_FIELD_NUMBER: _ClassVar[int]
    FRACTIONS_FIELD_NUMBER: _ClassVar[int]
    patches: PatchPair
    fractions: FractionBox
    def __init__(self, patches: _Optional[_Union[PatchPair, _Mapping]] = ..., fractions: _Optional[_Union[FractionBox, _Mapping]] = ...) -> None: ...

class PatchPair(_message.Message):
    __slots__ = ("upper_left", "lower_right")
    UPPER_LEFT_FIELD_NUMBER: _ClassVar[int]
    LOWER_RIGHT_FIELD_NUMBER: _ClassVar[int]
    upper_left: int
    lower_right: int
    def __init__(self, upper_left: _Optional[int] = ..., lower_right: _Optional[int] = ...) -> None: ...

class FractionBox(_message.Message):
    __slots__ = ("x0", "y0", "x1", "y1")
    X0_FIELD_NUMBER: _ClassVar[int]
    Y0_FIELD_NUMBER: _ClassVar[int]
    X1_FIELD_NUMBER: _ClassVar[int]
    Y1_FIELD_NUMBER: _ClassVar[int]
    x0: float
    y0: float
    x1: float
    y1: float
    def __init__(self, x0: _Optional[float] = ..., y0: _Optional[float] = ..., x1: _Optional[float] = ..., y1: _Optional[float] = ...) -> None: ...

class GenerationOptions(_message.Message):
    __slots__ = ("max_new_tokens", "temperature", "top_k", "top_p", "seed", "no_repeat_ngram_size", "repetition_penalty", "well_formed", "beam_search")
    MAX_NEW_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    NO_REPEAT_NGRAM_SIZE_FIELD_NUMBER: _ClassVar[int]
    REPETITION_PENALTY_FIELD_NUMBER: _ClassVar[int]
    WELL_FORMED_FIELD_NUMBER: _ClassVar[int]
    BEAM_SEARCH_FIELD_NUMBER: _ClassVar[int]
    max_new_tokens: int
    temperature: float
    top_k: int
    top_p: float
    seed: int
    no_repeat_ngram_size: int
    repetition_penalty: float
    well_formed: bool
    beam_search: BeamSearch
    def __init__(self, max_new_tokens: _Optional[int] = ..., temperature: _Optional[float] = ..., top_k: _Optional[int] = ..., top_p: _Optional[float] = ..., seed: _Optional[int] = ..., no_repeat_ngram_size: _Optional[int] = ..., repetition_penalty: _Optional[float] = ..., well_formed: _Optional[bool] = ..., beam_search: _Optional[_Union[BeamSearch, _Mapping]] = ...) -> None: ...

class BeamSearch(_message.Message):
    __slots__ = ("num_beams", "length_penalty", "early_stopping")
    NUM_BEAMS_FIELD_NUMBER: _ClassVar[int]
    LENGTH_PENALTY_FIELD_NUMBER: _ClassVar[int]
    EARLY_STOPPING_FIELD_NUMBER: _ClassVar[int]
    num_beams: int
    length_penalty: float
    early_stopping: EarlyStopping
    def __init__(self, num_beams: _Optional[int] = ..., length_penalty: _Optional[float] = ..., early_stopping: _Optional[_Union[EarlyStopping, str]] = ...) -> None: ...
