"""Small models of every family, and batches laid end to end, for the tests of the fused step."""

from typing import Any

import peft
import torch
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from medllm.data.collate import FlatCollator
from medllm.models.fused.layer import Keep
from medllm.models.fused.step import FusedStep

FAMILIES = {"llama": LlamaConfig, "mistral": MistralConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}
ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
VOCABULARY, LONGEST = 300, 64
Gradients = dict[str, torch.Tensor]


def adapted(
    family: str = "llama",
    targets: tuple[str, ...] = ALL,
    *,
    dropout: float = 0.0,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    scale: int = 1,
) -> Any:
    """A seeded model with LoRA whose B is not zero, so that every gradient is one."""
    torch.manual_seed(0)
    config = FAMILIES[family](
        vocab_size=VOCABULARY,
        hidden_size=64 * scale,
        intermediate_size=96 * scale,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16 * scale,
        tie_word_embeddings=family != "llama",
    )
    base = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa").to(device)
    base.requires_grad_(False)
    if family == "qwen2":  # its biases begin at zero, which would hide them
        for name, parameter in base.named_parameters():
            if name.endswith("bias"):
                parameter.data.normal_(0, 0.1)
    conf = peft.LoraConfig(
        task_type="CAUSAL_LM", r=8, lora_alpha=16, lora_dropout=dropout, target_modules=list(targets)
    )
    model = peft.get_peft_model(base, conf).train()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.1)
    return model


def flat_batch(
    lengths: tuple[int, ...] = (13, 2, 20, 7), *, multiple: int = 16, longest: int = LONGEST, device: str = "cpu"
) -> dict[str, torch.Tensor]:
    """Conversations of these lengths, the second half of each supervised."""
    generator = torch.Generator().manual_seed(1)
    samples = []
    for length in lengths:
        ids = torch.randint(0, VOCABULARY, (length,), generator=generator).tolist()
        samples.append({"input_ids": ids, "labels": [-100] * (length // 2) + ids[length // 2 :]})
    batch = FlatCollator(multiple, len(lengths) + 1, longest)(samples)
    return {name: value.to(device) for name, value in batch.items()}


def plain(model: Any, batch: dict[str, torch.Tensor]) -> tuple[float, Gradients]:
    """Loss and gradients by transformers, peft and autograd."""
    logits = model(
        input_ids=batch["input_ids"][None], position_ids=batch["position_ids"][None], use_cache=False
    ).logits[0]
    loss = F.cross_entropy(logits[batch["positions"]].float(), batch["targets"])
    loss.backward()
    gradients = {name: p.grad.float().clone() for name, p in model.named_parameters() if p.requires_grad}
    model.zero_grad()
    return loss.item(), gradients


def gradients_of(step: FusedStep, model: Any) -> Gradients:
    """Of a fused step, by the names of peft's parameters, which are views of the parameter that the gradient belongs to."""
    whole, base = step.adapters.grad, step.adapters.parameter.data
    return {
        name: whole.as_strided(p.shape, p.stride(), p.storage_offset() - base.storage_offset()).clone()
        for name, p in model.named_parameters()
        if p.requires_grad
    }


def fused(
    model: Any,
    batch: dict[str, torch.Tensor],
    keep: Keep = Keep.everything,
    *,
    kept_layers: int = 0,
    seed: int = 0,
) -> tuple[float, Gradients]:
    """Loss and gradients by the fused step, which leaves the model as it was."""
    count = torch.tensor(1.0 / len(batch["targets"]), device=batch["targets"].device)
    step = FusedStep(model, keep=keep, kept_layers=kept_layers, max_tokens=len(batch["input_ids"]), max_length=LONGEST)
    step.work.seed.fill_(seed)
    loss = step.backward(batch, count).item()
    gradients = gradients_of(step, model)
    step.release()
    return loss, gradients


def worst(got: Gradients, wanted: Gradients) -> float:
    """The largest relative error of a gradient, in the norm."""
    assert got.keys() == wanted.keys()
    return max(float((got[name] - wanted[name]).norm() / wanted[name].norm()) for name in wanted)


def overall(got: Gradients, wanted: Gradients) -> float:
    """The relative error of all gradients together, in the norm."""
    difference = sum(float((got[name] - wanted[name]).square().sum()) for name in wanted)
    return float((difference / sum(float(g.square().sum()) for g in wanted.values())) ** 0.5)
