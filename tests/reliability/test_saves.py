"""A save that ends at any of its operations on the disk: by a kill, a full disk or a failing one."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from medllm.errors import StorageError
from medllm.storage import GO_ON, explained_storage
from medllm.training.checkpoint import STAGING, checkpoints, fault, newest_valid, recover
from medllm.training.trainer import MedTrainer
from tests.reliability.conftest import Line
from tests.reliability.killer import Operations, actions, meet_the_disk
from tests.reliability.trace import command, environment, outcome, saved
from tests.training.runs import tiny_run, trainer_of

# An operation of a run's third save, of which each takes about 55: its scheduler's file is begun.
THIRD_SAVE = 120


class Saves:
    """A run of two steps that keeps one checkpoint: it has that of step 1, and saves that of step 2 again and again."""

    def __init__(self, dialogues: Path, folder: Path):
        own = ("trainer.max_steps=2", "trainer.save_strategy=steps", "trainer.save_steps=1", "trainer.eval_strategy=no")
        conf = tiny_run(dialogues, *own, "trainer.save_total_limit=1", "trainer.engine=plain")
        self.folder, self.spare = folder / "checkpoints", folder / "spare"
        self.trainer = trainer_of(conf, self.folder)
        save = MedTrainer._save_checkpoint

        def first(trainer: Any, *arguments: Any) -> None:
            if trainer.state.global_step == 1:
                save(trainer, *arguments)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(MedTrainer, "_save_checkpoint", first)
            self.trainer.train()
        self.folder.rename(self.spare)
        self.begin()
        self.operations = Operations()
        self.undo = meet_the_disk(self.operations)
        self.save = self.operations.within(self.trainer.keep)

    def begin(self) -> None:
        """As if step 2 had never been saved."""
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.spare, self.folder)
        self.trainer._saved = 1

    def at(self, number: int, action: str) -> None:
        """What will happen at an operation."""
        self.begin()
        self.operations.seen.clear()
        self.operations.at, self.operations.act = number, actions(action)


@pytest.fixture(scope="module")
def saves(dialogues: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Saves]:
    """The run, and the number of operations that a save takes."""
    made = Saves(dialogues, tmp_path_factory.mktemp("saves"))
    made.at(0, "EIO")
    made.save()
    yield made
    for undo in made.undo:
        undo()


def steps(saves: Saves) -> list[str]:
    """What there is, all of which must be whole."""
    found = checkpoints(saves.folder)
    assert [fault(path) for path in found] == [""] * len(found)
    return [path.name for path in found]


# Every operation; by default one in twelve.
EVERY = [12, pytest.param(1, marks=pytest.mark.slow)]


@pytest.mark.parametrize("every", EVERY)
def test_killed_at_any_operation(every: int, saves: Saves) -> None:
    """By kill -9: the old checkpoint or the new one is whole, nothing half stands beside it, the next save is as any other."""
    saves.at(0, "KILL")
    saves.save()
    operations, after = list(saves.operations.seen), []
    assert len(operations) > 30
    for number in range(1, len(operations) + 1, every):
        saves.at(number, "KILL")
        child = os.fork()
        if child == 0:
            saves.save()
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        assert checkpoints(saves.folder), "a moment without any"
        after.append(steps(saves))
        recover(saves.folder)
        assert not (saves.folder / STAGING).exists()
        assert steps(saves)[-1] in ("checkpoint-2", after[-1][-1])
        if number % (10 * every) == 1:
            saves.operations.at = 0
            saves.save()
            assert steps(saves) == ["checkpoint-2"]
            assert not (saves.folder / STAGING).exists()
    changes = [one for one, before in zip(after, [[], *after], strict=False) if one != before]
    both = ["checkpoint-1", "checkpoint-2"]
    assert [names for names in changes if names != both] == [both[:1], both[1:]]
    assert every > 1 or changes[1] == both


@pytest.mark.parametrize("every", EVERY)
@pytest.mark.parametrize("action", ["ENOSPC", pytest.param("EIO", marks=pytest.mark.slow)])
def test_a_disk_that_refuses_an_operation(action: str, every: int, saves: Saves) -> None:
    """One clear error, or none where nothing is lost; the old checkpoint or the new one is whole; room is made at once."""
    saves.at(0, action)
    saves.save()
    operations = list(saves.operations.seen)
    for number, name in list(enumerate(operations, 1))[::every]:
        saves.at(number, action)
        try:
            with explained_storage(saves.folder, GO_ON):
                saves.save()
        except StorageError as error:
            assert "could not be written" in str(error), name
            assert "GiB are free there\n    fix: make room" in str(error), name
            assert steps(saves) == ["checkpoint-1"], name
            assert newest_valid(saves.folder) is not None, name
            assert not (saves.folder / STAGING).exists(), name
        else:  # folders are synchronised where they can be, old checkpoints removed likewise
            assert steps(saves)[-1] == "checkpoint-2", name
    saves.at(0, action)
    saves.save()
    assert steps(saves) == ["checkpoint-2"]


@pytest.mark.parametrize("library", ["torch", "torch, little", "safetensors", "python"])
def test_a_real_limit(library: str, saves: Saves, tmp_path: Path) -> None:
    """What each library says of a file that may grow no further is understood."""
    resource = pytest.importorskip("resource")
    import torch
    from safetensors.torch import save_file

    tensors, path = {"a": torch.zeros(100_000)}, tmp_path / "file"
    write = {
        "torch": lambda: torch.save(tensors, path),
        "torch, little": lambda: torch.save({"a": 1}, path),
        "safetensors": lambda: save_file(tensors, path),
        "python": lambda: path.write_text("a" * 400_000),
    }[library]
    limit, ignored = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0 if "little" in library else 100_000, limit[1]))
    try:
        with pytest.raises(StorageError, match="could not be written"), explained_storage(tmp_path):
            write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, ignored)


@pytest.mark.slow
@pytest.mark.parametrize("action", ["ENOSPC", "EIO", "FULL"])
def test_a_run_whose_disk_refuses(action: str, line: Line, undisturbed: tuple[Any, float], tmp_path: Path) -> None:
    """A process ends with code 1 and one message; the checkpoint before is whole, and nothing half stands beside it.

    Typed again when there is room, the line ends as the undisturbed run, bit for bit. One operation of a save is refused, or,
    by a limit of the system's, all that grows from then on: weights and small files, the record, its spool and the log.
    """
    folder, trace = tmp_path / "run", tmp_path / "trace"

    def typed(cut: str) -> "subprocess.CompletedProcess[str]":
        own = environment(trace, cut)
        return subprocess.run(command(line(folder)), env=own, cwd=tmp_path, capture_output=True, text=True)

    failed = typed(f"save:{THIRD_SAVE}:{action}")
    assert failed.returncode == 1, failed.stderr
    assert "Traceback" not in failed.stderr + failed.stdout
    assert "Error executing job" not in failed.stderr  # which are words of Hydra's
    assert failed.stderr.count("medllm: ") == failed.stderr.count("could not be written: ") == 1, failed.stderr
    assert "GiB are free there\n    fix: make room" in failed.stderr
    assert saved(trace) == 2
    kept = checkpoints(folder / "checkpoints")
    assert [path.name for path in kept] == ["checkpoint-1", "checkpoint-2"]
    assert [fault(path) for path in kept] == ["", ""]
    assert not (folder / "artifact").exists()
    assert not (folder / "checkpoints" / STAGING).exists()
    again = typed("")
    assert again.returncode == 0, again.stderr
    assert f"resume    {kept[-1]}" in again.stderr
    assert outcome(folder, trace) == undisturbed[0]
