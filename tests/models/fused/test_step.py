"""The fused step computes what transformers, peft and autograd compute."""

import itertools

import bitsandbytes as bnb
import pytest
import torch

from medllm.models.fused.attention import Segments, _by_segment, attend, attend_backward
from medllm.models.fused.layer import Keep
from medllm.models.fused.step import FusedStep
from tests.models.fused.cases import ALL, FAMILIES, adapted, flat_batch, fused, gradients_of, overall, plain, worst

EXACT = 1e-5


@pytest.mark.parametrize("keep", list(Keep), ids=lambda keep: keep.name)
@pytest.mark.parametrize("targets", [ALL, ("q_proj", "v_proj"), ("down_proj", "gate_proj")], ids="+".join)
@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_every_gradient_are_autograds(family: str, targets: tuple[str, ...], keep: Keep) -> None:
    """In float32, for every family, whatever is adapted and whatever is kept."""
    model, batch = adapted(family, targets), flat_batch()
    loss, wanted = plain(model, batch)
    got_loss, got = fused(model, batch, keep)
    assert got_loss == pytest.approx(loss, rel=1e-6)
    assert worst(got, wanted) < EXACT


def test_bfloat16_is_no_worse_than_plain_bfloat16() -> None:
    """Against the same weights in float32."""
    model, batch = adapted(dtype=torch.bfloat16, scale=2), flat_batch()
    truth = adapted(scale=2)
    truth.load_state_dict({name: value.float() for name, value in model.state_dict().items()})
    _, wanted = plain(truth, batch)
    with torch.autocast("cpu", torch.bfloat16):
        _, usual = plain(model, batch)
    _, got = fused(model, batch)
    assert overall(got, wanted) < 1.2 * overall(usual, wanted)


def test_micro_batches_add_up() -> None:
    """The gradient of four conversations is that of two and two; filling adds nothing."""
    model = adapted()
    step = FusedStep(model, keep=Keep.everything, kept_layers=0, max_tokens=64, max_length=64)
    whole = flat_batch((13, 5, 20, 7))
    scale = torch.tensor(1.0 / len(whole["targets"]))
    loss = step.backward(whole, scale).item()
    together = gradients_of(step, model)
    step.adapters.grad.zero_()
    bounds = whole["bounds"].tolist()
    parts = 0.0
    for first, last, multiple in ((0, 2, 16), (2, 4, 32)):
        start, stop = bounds[first], bounds[last]
        fill = -(stop - start) % multiple
        inside = (whole["positions"] >= start) & (whole["positions"] < stop)
        part = {
            "input_ids": torch.cat((whole["input_ids"][start:stop], torch.zeros(fill, dtype=torch.int64))),
            "position_ids": torch.cat((whole["position_ids"][start:stop], torch.arange(fill))),
            "bounds": torch.tensor([0, *(b - start for b in bounds[first + 1 : last + 1]), stop - start + fill]).int(),
            "positions": whole["positions"][inside] - start,
            "targets": whole["targets"][inside],
        }
        parts += step.backward(part, scale).item()
    assert parts == pytest.approx(loss, rel=1e-5)
    assert worst(gradients_of(step, model), together) < EXACT


@pytest.mark.parametrize("keep", [Keep.inputs, Keep.inputs_on_host], ids=lambda keep: keep.name)
def test_parts_of_a_micro_batch_add_up(keep: Keep, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where layers are recomputed the MLP is computed 16 tokens at a time, the last time fewer: the same gradients."""
    monkeypatch.setattr("medllm.models.fused.step.MLP_TOKENS", 16)
    model, batch = adapted(), flat_batch((13, 2, 20, 7), multiple=1)
    assert len(batch["input_ids"]) == 42
    loss, wanted = plain(model, batch)
    got_loss, got = fused(model, batch, keep)
    assert got_loss == pytest.approx(loss, rel=1e-6)
    assert worst(got, wanted) < EXACT


def test_no_conversation_sees_another() -> None:
    """Replacing the first conversation leaves the last layer's output of the others as it was, bit for bit."""
    model, batch = adapted(), flat_batch()
    step = FusedStep(model, keep=Keep.everything, kept_layers=0, max_tokens=64, max_length=64)
    arguments = (batch["position_ids"], batch["bounds"])
    with torch.no_grad():
        before, _ = step.forward(batch["input_ids"], *arguments)
        changed = batch["input_ids"].clone()
        changed[:13] = (changed[:13] + 1) % 300
        after, _ = step.forward(changed, *arguments)
    assert not torch.equal(before[:13], after[:13])
    assert torch.equal(before[13:], after[13:])


@pytest.mark.parametrize("kept_layers", [0, 2, 3])
def test_four_bit_bases_train_as_their_dequantized_weights(kept_layers: int) -> None:
    """Kept or made for each use: the same numbers, and the packed weights stay as they were."""
    model, batch = adapted(scale=2), flat_batch()
    reference = adapted(scale=2)
    packed = {}
    for (name, layer), (_, twin) in zip(list(model.named_modules()), list(reference.named_modules()), strict=True):
        if hasattr(layer, "lora_A"):
            base = layer.base_layer
            quantized = bnb.nn.Linear4bit(
                base.in_features, base.out_features, bias=False, compute_dtype=torch.float32, quant_type="nf4"
            )
            quantized.weight = bnb.nn.Params4bit(
                base.weight.data, requires_grad=False, compress_statistics=True, quant_type="nf4"
            ).to("cpu")
            layer.base_layer = quantized
            state = quantized.weight.quant_state
            twin.base_layer.weight.data = bnb.functional.dequantize_4bit(quantized.weight.data, state).view(
                base.weight.shape
            )
            packed[name] = quantized.weight.data.clone()
    loss, wanted = plain(reference, batch)
    got_loss, got = fused(model, batch, kept_layers=kept_layers)
    assert got_loss == pytest.approx(loss, rel=1e-6)
    assert worst(got, wanted) < EXACT
    assert packed
    for name, layer in model.named_modules():
        if name in packed:
            assert torch.equal(layer.base_layer.weight.data, packed[name])


def test_the_model_is_an_ordinary_one_during_and_after() -> None:
    """Logits and the frozen weights are the same before, while the step holds them, and after it let them go."""
    model, batch = adapted("qwen2"), flat_batch()
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    model.eval()

    def logits() -> torch.Tensor:
        with torch.no_grad():
            return model(input_ids=batch["input_ids"][None]).logits  # type: ignore[no-any-return]

    before = logits()
    step = FusedStep(model, keep=Keep.everything, kept_layers=0, max_tokens=64, max_length=64)
    step.backward(batch, torch.tensor(0.1))
    assert torch.allclose(logits(), before, atol=1e-6)
    step.release()
    assert torch.equal(logits(), before)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            assert torch.equal(parameter, frozen[name])
            assert parameter.is_contiguous()


@pytest.mark.parametrize("keep", list(Keep), ids=lambda keep: keep.name)
def test_dropout_is_a_function_of_its_seed(keep: Keep) -> None:
    """The same seed drops the same in forward, backward and what is computed again; another seed does not."""
    model, batch = adapted(dropout=0.3), flat_batch()
    loss, gradients = fused(model, batch, Keep.everything, seed=5)
    again, same = fused(model, batch, keep, seed=5)
    other, _ = fused(model, batch, keep, seed=6)
    assert again == loss != other
    assert worst(same, gradients) < 1e-6


@pytest.mark.parametrize(("keep", "part"), [(Keep.everything, 2048), (Keep.inputs, 2048), (Keep.inputs, 16)])
def test_gradients_under_dropout_are_those_of_the_loss(keep: Keep, part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the mask held by its seed, the loss moves along the gradient as calculus says, in parts too."""
    monkeypatch.setattr("medllm.models.fused.step.MLP_TOKENS", part)
    model, batch = adapted(dropout=0.3), flat_batch()
    step = FusedStep(model, keep=keep, kept_layers=0, max_tokens=64, max_length=64)
    step.work.seed.fill_(11)
    scale = torch.tensor(1.0 / len(batch["targets"]))
    step.backward(batch, scale)
    gradient = step.adapters.grad.clone()
    length, direction = 1e-3, gradient / gradient.norm()
    losses = []
    for side in (1, -1):
        step.adapters.parameter.data.add_(direction, alpha=side * length)
        losses.append(step.backward(batch, scale).item())
        step.adapters.parameter.data.sub_(direction, alpha=side * length)
    assert (losses[0] - losses[1]) / (2 * length) == pytest.approx(gradient.norm().item(), rel=1e-2)


def test_dropouts_expectation_is_no_dropout() -> None:
    """Over many seeds: as many elements are dropped as asked for, and the mean of what is left is what was there."""
    from medllm.models.fused.reference import Dropout, dropout

    x, total = torch.ones(64, 96), torch.zeros(64, 96)
    dropped = 0.0
    for seed in range(200):
        out = torch.empty_like(x)
        dropout(x, Dropout(0.1, torch.tensor(seed), 3), out)
        total += out
        dropped += float((out == 0).float().mean())
    assert dropped / 200 == pytest.approx(0.1, abs=0.001)
    assert (total / 200).mean().item() == pytest.approx(1.0, abs=0.002)
    assert (total / 200).std().item() == pytest.approx((0.1 / 0.9 / 200) ** 0.5, rel=0.05)  # independent draws


def test_scores_written_out_give_autograds_gradients() -> None:
    """Several segments, one of them empty, three queries to a key; in float64, so that nothing but the formula is compared."""
    lengths = [7, 0, 12]
    segments = Segments(torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32), max(lengths))
    q, k, v, grad = (torch.randn(sum(lengths), heads, 8, dtype=torch.float64) for heads in (6, 2, 2, 6))
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    expected = torch.autograd.grad(_by_segment(leaves[0], leaves[1], leaves[2], segments), leaves, grad)
    out, kept = attend(q, k, v, segments)
    assert kept is None
    torch.testing.assert_close(attend_backward(grad, q, k, v, out, kept, segments), expected)
