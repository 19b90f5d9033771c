"""Every error a user can cause, as one tree.

    MedLLMError            exit code 1; the message is complete, no traceback is shown
    ├── ConfigError        exit code 2; one or more `Fault`s of the configuration, all shown together
    ├── DataError          a data source cannot be read or holds nothing to train on
    ├── LabelError         the proof of the labels failed: training would learn the wrong thing
    ├── ModelError         a base model, tokenizer or adapter cannot be built
    ├── DeviceMemoryError  the device has too little memory for this run
    ├── StorageError       a disk is full or fails; checkpoints saved before are whole
    ├── NonFiniteError     loss or gradient is NaN or infinite, raised before the optimizer step; or the objective at the end
    ├── FolderError        a file in a run's or a sweep's folder is damaged, or of something else
    ├── ArtifactError      an artifact folder is damaged or incomplete
    ├── ExportError        what an artifact became is not the same model; nothing is left of it
    ├── ReviewError        an expert review cannot go on: its files are damaged, or its sides are known
    ├── ChatError          a message does not fit, or a saved chat cannot be read or written
    ├── TrackingError      the run record cannot be written
    ├── ExitedError        something exited in the middle of a run, though nobody asked it to stop
    ├── RankError          another process of the run failed, and this one with it
    ├── JudgeError         the model that judges answers cannot be reached, or refuses
    ├── HubError           an upload to the hub failed; the artifact on disk is complete
    ├── PointPrunedError   a search gave a point up; no failure, and what it came to has been recorded already
    └── PointFailedError   one point of a sweep failed; its reason has been recorded already

Any other exception is a defect of medllm or of a library, and keeps its traceback.
"""

import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a configuration, in the words its user needs.

    Attributes:
        key: Dotted path, such as `lora.r`; empty where the fault belongs to no single key.
        problem: What is wrong, in a few words.
        value: The value received, as its user wrote it; empty where there is none.
        allowed: What would be accepted.
        fix: What to do about it.
    """

    key: str
    problem: str
    value: str = ""
    allowed: str = ""
    fix: str = ""

    def __str__(self) -> str:
        head = f"{self.key}={self.value}" if self.key and self.value else self.key or self.value
        lines = [f"{head}: {self.problem}" if head else self.problem]
        if self.allowed:
            lines.append(f"    allowed: {self.allowed}")
        if self.fix:
            lines.append(f"    fix: {self.fix}")
        return "\n".join(lines)


class MedLLMError(Exception):
    """Root of the tree: something its user can put right."""

    exit_code = 1


class ConfigError(MedLLMError):
    """The configuration is wrong; nothing has been loaded or written."""

    exit_code = 2

    def __init__(self, faults: Sequence[Fault] | Fault):
        self.faults = (faults,) if isinstance(faults, Fault) else tuple(faults)
        super().__init__(self.faults)  # the arguments, so that the error survives pickling between processes

    def __str__(self) -> str:
        count = len(self.faults)
        head = "1 fault" if count == 1 else f"{count} faults"
        return "\n".join(
            [f"{head} in the configuration:", *(f"  {fault}".replace("\n", "\n  ") for fault in self.faults)]
        )


class DataError(MedLLMError):
    """A data source cannot be read, or nothing in it can be trained on."""


class LabelError(MedLLMError):
    """Training would supervise the wrong tokens, or let one conversation see another."""


class ModelError(MedLLMError):
    """A base model, tokenizer or adapter cannot be found, verified or built."""


class DeviceMemoryError(MedLLMError):
    """The device ran out of memory."""


class StorageError(MedLLMError):
    """A disk took no more; what was saved before is whole."""


class NonFiniteError(MedLLMError):
    """Loss or gradient is NaN or infinite, and has not touched the weights; or an objective or figure is."""


class FolderError(MedLLMError):
    """A file in a run's or a sweep's folder is damaged, or of something else; nothing in the folder has been changed."""


class ArtifactError(MedLLMError):
    """An artifact folder is damaged, incomplete or of another kind."""


class ExportError(MedLLMError):
    """What an artifact became is not the same model."""


class ReviewError(MedLLMError):
    """A review's files are damaged or incomplete, or it does not allow what was asked of it."""


class ChatError(MedLLMError):
    """A message does not fit, or a saved chat cannot be read or written; the chat goes on."""


class TrackingError(MedLLMError):
    """The run record cannot be opened or written."""


class StoreAwayError(TrackingError):
    """The tracking store does not answer, whatever it is asked for."""


class ExitedError(MedLLMError):
    """Something exited in the middle of a run, which is no interruption."""


class RankError(MedLLMError):
    """Another process of this run failed; its reason has been told already."""


class HubError(MedLLMError):
    """The upload to the hub failed."""


class JudgeError(MedLLMError):
    """The model that judges answers cannot be reached, or refuses."""


class PointPrunedError(MedLLMError):
    """A search stopped this point at an evaluation, because others did better there.

    Attributes:
        loss: Held-out, at that evaluation.
    """

    def __init__(self, message: str, loss: float):
        super().__init__(message, loss)
        self.loss = loss

    def __str__(self) -> str:
        return str(self.args[0])


class PointFailedError(MedLLMError):
    """One point of a sweep failed; it carries a reason only, so that no frame keeps the point's model alive."""


def in_brief(error: BaseException) -> str:
    """A failure as results, tables and records tell it.

    Words of ours name files, rows and keys. Those of any other error may quote what a patient said: of such a one its type and
    the place are told, and the words stay in `traceback.txt` of the run's folder.
    """
    if isinstance(error, MedLLMError):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    place = f" in {Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{place}"


def frames_in_brief(error: BaseException) -> str:
    """A traceback with `in_brief` for its words, causes first."""
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    before = frames_in_brief(cause) if cause else ""
    return f"{before}{''.join(traceback.format_tb(error.__traceback__))}{in_brief(error)}\n"
