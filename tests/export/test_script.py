"""What people type, from a run with a record to a merged model by its name."""

import subprocess
import sys
from pathlib import Path

import pytest

from medllm.config.compose import load_run_conf
from medllm.experiment import run_training

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_by_name(tiny_overrides: list[str], tmp_path: Path) -> None:
    """Promoted, exported by its alias, the merged model asked by the chat; a second export into the same folder is refused."""
    own = [o for o in tiny_overrides if not o.startswith("hydra.")]
    conf = load_run_conf([*own, "model.dtype=float32", "generation.sample_prompts=[]"])
    run_training(conf, tmp_path / "run")
    uri = conf.tracking.tracking_uri  # type: ignore[attr-defined]

    def typed(script: str, *arguments: str, said: str = "") -> tuple[int, str]:
        command = [sys.executable, str(ROOT / "scripts" / script), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, input=said)
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout + done.stderr

    code, told = typed("registry.py", "promote", "artifact=run", "name=med", "alias=champion", f"tracking_uri={uri}")
    assert code == 0, told
    store, name = f"tracking.tracking_uri={uri}", "artifact=models:/med@champion"
    small = ("use_cpu=true", "proof_prompts=2", "proof_tokens=4")
    code, told = typed("export.py", name, store, *small, "formats=[merged,adapter]")
    assert code == 0 and "answers   the same word for word at 2 of 2 prompts" in told, told
    code, told = typed("export.py", name, store, *small)
    assert code == 2 and "output=" in told and "exists" in told
    code, told = typed("export.py", name, "formats=[gguf]")
    assert code == 2 and "formats" in told and "gguf_q8_0" in told, told
    short = ("use_cpu=true", "guard=none", "generation.max_new_tokens=3", "tracking=none")
    code, told = typed("chat.py", "artifact=run/export/merged", *short, said="I cough.\n/quit\n")
    assert code == 0 and "UNREVIEWED" in told, told
