"""Loads what an artifact holds: its base model and its adapter, once, to be asked with the adapter off or on.

What cannot be switched off, full fine-tuning and adapters that train the base's own biases, is loaded in turn: the base, or the
tuned model, whichever is asked for.
"""

import contextlib
import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from medllm.artifact import MANIFEST, Artifact, load_artifact
from medllm.config.lora import Bias, LoraConf, NoAdapterConf
from medllm.config.store import rooted
from medllm.config.tracking import TrackingConf
from medllm.conversation import Renderer
from medllm.errors import ConfigError, Fault
from medllm.models.adapter import load_adapter
from medllm.models.base import Tokenizer, build_base_model, build_tokenizer, load_full_model, pick_device
from medllm.models.quantization import dequantized
from medllm.tracking.build import folder_of_record


def find_artifact(text: str, tracking: TrackingConf) -> Path:
    """The folder of the artifact that a user means.

    Args:
        text: A run's folder or its `artifact/` folder, relative to where the command was typed or to the project's root; or the
            id of a run record.
        tracking: Where the id is looked up.

    Raises:
        ConfigError: if it names neither.
    """
    for folder in (Path(text).expanduser(), rooted(text)):
        for place in (folder, folder / "artifact"):
            if (place / MANIFEST).is_file():
                return place.resolve()
    for folder in (Path(text).expanduser(), rooted(text)):
        if folder.exists():
            problem = f"is no artifact: it has no {MANIFEST}, nor has an artifact/ folder in it"
            raise ConfigError(
                Fault("artifact", problem, text, fix="a run that has finished: outputs/<date>/<time>-<name>")
            )
    folder_name = folder_of_record(tracking, text)
    if folder_name:
        place = rooted(folder_name) / "artifact"
        if (place / MANIFEST).is_file():
            return place.resolve()
        raise ConfigError(Fault("artifact", f"is a run without an artifact: {place} is not there", text))
    allowed = "a run's folder, its artifact/ folder, or the id of its run record"
    raise ConfigError(Fault("artifact", "names no folder and no run record", text, allowed=allowed))


class LoadedArtifact:
    """An artifact's models, each loaded when it is first asked for, and kept as long as no other one is.

    Attributes:
        artifact: Verified.
        device: Where the models are.
        renderer: With the system prompt of inference.
    """

    def __init__(self, artifact: Artifact, device: str, tokenizer: Tokenizer):
        self.artifact = artifact
        self.device = device
        self.renderer = Renderer(tokenizer.tokenizer, artifact.conf.generation.system_prompt)
        self._tokenizer = tokenizer
        self._kept: dict[str, Any] = {}

    @property
    def is_switched(self) -> bool:
        """Whether one loaded model is both sides."""
        lora = self.artifact.conf.lora
        return not isinstance(lora, NoAdapterConf) and not (isinstance(lora, LoraConf) and lora.bias is not Bias.none)

    @contextlib.contextmanager
    def model(self, *, tuned: bool) -> Iterator[Any]:
        """The base or the tuned model in evaluation mode; afterwards the adapter is on again.

        Raises:
            ModelError: if the base cannot be found.
        """
        if not self.is_switched:
            yield self._keep("tuned" if tuned else "base", self._load_tuned if tuned else self._load_base)
            return
        model = self._keep("tuned", self._load_tuned)
        with contextlib.nullcontext() if tuned else model.disable_adapter():
            yield model

    def _keep(self, name: str, load: Any) -> Any:
        if name not in self._kept:
            self._kept.clear()
            gc.collect()
            if self.device != "cpu":
                torch.cuda.empty_cache()
            self._kept[name] = load()
        return self._kept[name]

    def _load_base(self) -> Any:
        conf = self.artifact.conf
        base = build_base_model(conf.model, conf.quantization, self._tokenizer, self.device).eval()
        return dequantized(base, conf.quantization) if self.device == "cpu" else base

    def _load_tuned(self) -> Any:
        if not self.artifact.is_adapter:
            return load_full_model(self.artifact.folder, self.artifact.conf.model, self.device)
        return load_adapter(self._load_base(), self.artifact.folder)


def open_artifact(folder: Path, *, use_cpu: bool = False) -> LoadedArtifact:
    """An artifact, verified, with its tokenizer; no weights are loaded yet.

    Raises:
        ArtifactError: if it is damaged.
        ModelError: if the base's tokenizer cannot be found.
    """
    artifact = load_artifact(folder)
    return LoadedArtifact(artifact, pick_device(use_cpu), build_tokenizer(artifact.conf.model))
