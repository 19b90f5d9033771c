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

from medllm.artifact import Artifact, load_artifact
from medllm.config.lora import Bias, LoraConf, NoAdapterConf
from medllm.conversation import Renderer
from medllm.models.adapter import load_adapter
from medllm.models.base import Tokenizer, build_base_model, build_tokenizer, load_full_model, pick_device
from medllm.models.quantization import dequantized


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
        adapter: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
        if self.is_switched:
            model = self._keep("tuned", self._load_tuned)
            adapter = adapter if tuned else model.disable_adapter()
        else:
            model = self._keep("tuned" if tuned else "base", self._load_tuned if tuned else self._load_base)
        with dequantized(model), adapter:
            yield model

    def close(self) -> None:
        """Lets its models go."""
        self._kept.clear()
        gc.collect()
        if self.device != "cpu":
            torch.cuda.empty_cache()

    def _keep(self, name: str, load: Any) -> Any:
        if name not in self._kept:
            self.close()
            self._kept[name] = load()
        return self._kept[name]

    def _load_base(self) -> Any:
        conf = self.artifact.conf
        return build_base_model(conf.model, conf.quantization, self._tokenizer, self.device).eval()

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
