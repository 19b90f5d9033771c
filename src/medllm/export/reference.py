"""What the artifact does with held-out prompts: each form that it became must do the same."""

import gc
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch

from medllm.artifact import Artifact
from medllm.config.export import ExportConf, Onto
from medllm.config.quantization import NoQuantizationConf
from medllm.console import say
from medllm.conversation import Conversation, Renderer
from medllm.data.pipeline import held_out
from medllm.errors import DataError, ExportError
from medllm.export.proof import Behaviour, Proof, behaviour, compared
from medllm.inference.generate import ask
from medllm.inference.load import LoadedArtifact
from medllm.models.base import Tokenizer, build_tokenizer, pick_device


class Reference:
    """The artifact, asked once; nothing is loaded before it is needed, and one model is in memory at a time.

    Attributes:
        device: Where models are asked.
    """

    def __init__(self, conf: ExportConf, artifact: Artifact):
        self.device = pick_device(conf.use_cpu)
        self._conf = conf
        self._artifact = artifact

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The base's, in the artifact's chat format."""
        return build_tokenizer(self._artifact.conf.model)

    @property
    def renderer(self) -> Renderer:
        """Of inference."""
        return self._loaded.renderer

    @cached_property
    def prompts(self) -> list[Conversation]:
        """What the run held out, up to the last answer, the longest first: short ones tell less.

        Where the data are not at hand any more, the prompts of `generation.sample_prompts`.
        """
        artifact, conf = self._artifact, self._artifact.conf
        try:
            conversations = held_out(conf.data, artifact.manifest["data"]["fingerprint"])
        except DataError as error:
            say("proof", f"by the sample prompts, for {str(error).splitlines()[0]}")
            return [ask(prompt) for prompt in conf.generation.sample_prompts]
        asked = [Conversation(c.messages[:-1], c.id) for c in conversations]
        lengths = [len(self.renderer.render_prompt(c)) for c in asked]
        fitting = sorted((i for i, n in enumerate(lengths) if n <= conf.data.max_length), key=lambda i: -lengths[i])
        return [asked[i] for i in fitting[: self._conf.proof_prompts]]

    def prove(self, form: str, load: Callable[[], Any], tolerance: float) -> Proof:
        """Compares a form with the artifact.

        Args:
            form: Its name.
            load: Gives its model, on `device` and in evaluation mode.
            tolerance: Largest mean divergence, in nats.

        Raises:
            ExportError: if they differ by more.
        """
        before = self._behaviour
        say("proof", f"{len(self.prompts)} conversations, artifact against {form}")
        model = load()
        after = self._behaviour_of(model)
        del model
        gc.collect()
        if self.device != "cpu":
            torch.cuda.empty_cache()
        proof = compared(before, after)
        if not proof.kl_mean <= tolerance:
            key = "q8_0_tolerance" if form == "gguf_q8_0" else "tolerance"
            raise ExportError(
                f"{form} is not the artifact: mean divergence {proof.kl_mean:.4g} nats at {proof.positions} places, "
                f"at most {key}={tolerance:g} is tolerated; nothing of it was exported\n"
                f"    fix: onto=trained, model.dtype=float32 while training, or a larger {key} if you know why"
            )
        return proof

    @cached_property
    def _loaded(self) -> LoadedArtifact:
        run = self._artifact.conf
        if self._conf.onto is Onto.original:  # on the base that it is merged into
            run = replace(run, quantization=NoQuantizationConf())
        return LoadedArtifact(replace(self._artifact, conf=run), self.device, self.tokenizer)

    @cached_property
    def _behaviour(self) -> Behaviour:
        with self._loaded.model(tuned=True) as model:
            found = self._behaviour_of(model)
        del model
        self._loaded.close()
        return found

    def _behaviour_of(self, model: Any) -> Behaviour:
        generation = self._artifact.conf.generation
        return behaviour(model, self.renderer, self.prompts, generation, self._conf.proof_tokens)
