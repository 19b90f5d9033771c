"""Every file of a checkpoint, damaged in every way: told by name, and never gone on from."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from medllm.models.base import build_tokenizer
from medllm.training.checkpoint import MANIFEST, fault, newest_valid, seal
from tests.training.runs import tiny_run, trainer_of


def flipped(content: bytes) -> bytes:
    """One bit of it, in the middle."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


DAMAGES: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "empty": lambda path: path.write_bytes(b""),
    "a bit flipped": lambda path: path.write_bytes(flipped(path.read_bytes())),
    "its tail zeros": lambda path: path.write_bytes(path.read_bytes()[:-8] + bytes(8)),
}


@pytest.fixture(scope="module")
def saved(dialogues: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of two steps, with all files that a run writes."""
    folder = tmp_path_factory.mktemp("saved")
    own = ("trainer.max_steps=2", "trainer.save_strategy=steps", "trainer.save_steps=1", "trainer.eval_strategy=no")
    conf = tiny_run(dialogues, *own)
    trainer_of(conf, folder, processing_class=build_tokenizer(conf.model).tokenizer).train()
    return folder


def test_every_damage_to_every_file(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is named, and the checkpoint before is gone on from; mended, the checkpoint is as good as before."""
    newest = saved / "checkpoint-2"
    names = [*json.loads((newest / MANIFEST).read_text())["files"], MANIFEST]
    assert {"adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"} < set(
        names
    )
    assert "counters.json" in names
    assert set(names) == {str(path.relative_to(newest)) for path in newest.rglob("*") if path.is_file()}
    cells = 0
    for name in names:
        content = (newest / name).read_bytes()
        for damage, apply in DAMAGES.items():
            apply(newest / name)
            assert (newest / name).is_file() == (damage != "missing")
            assert newest_valid(saved) == saved / "checkpoint-1", (name, damage)
            said = capsys.readouterr().err
            reason = "lacks" if damage == "missing" else "has a damaged"
            if (name, damage) == (MANIFEST, "missing"):
                reason = "is not complete: it has no"
            assert said == f"checkpoint-2 {reason} {name}; going back to an earlier one\n"
            (newest / name).write_bytes(content)
            cells += 1
    assert cells == 5 * len(names) > 50
    assert newest_valid(saved) == newest


def test_every_bit_of_a_manifest(saved: Path, tmp_path: Path) -> None:
    """Whichever is flipped, it is the manifest that is damaged."""
    folder = tmp_path / "checkpoint-1"
    folder.mkdir()
    shutil.copy(saved / "checkpoint-1" / "scheduler.pt", folder)
    seal(folder)
    content = (folder / MANIFEST).read_bytes()
    assert fault(folder) == ""
    for place in range(0, 8 * len(content), 3):
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << place % 8
        (folder / MANIFEST).write_bytes(damaged)
        assert fault(folder) == f"has a damaged {MANIFEST}", bytes(damaged)
