"""Secrets are refused where they are typed, and taken out of what others say before it is kept."""

import hashlib
import logging
import os
import subprocess
import sys
import uuid
from collections import UserDict
from collections.abc import Iterator
from pathlib import Path

import pytest

from medllm.artifact import resolved_yaml
from medllm.config.compose import load_run_conf
from medllm.config.plan import make_plan
from medllm.errors import ConfigError
from medllm.redaction import SECRETS, RedactedRecord, redacted, secrets_in

ROOT = Path(__file__).parents[1]

# One of each form, none of them a real one; those of AWS are the examples of its documentation.
CANARIES = {
    "a token of the hub": "hf_" + "CaNaRy1234" * 3 + "abcd",
    "a token of GitHub": "ghp_" + "CaNaRy" * 6,
    "a token of GitLab": "glpat-" + "CaNaRy65" * 3,
    "a token of Slack": "xoxb-" + "650000000065-" * 2 + "CaNaRy" * 4,
    "a key of Google": "AIza" + "Sy65-_CaNaRyCaNaRy65CaNaRyCaNaRy651",
    "a token of npm": "npm_" + "CaNaRy" * 6,
    "a token of PyPI": "pypi-AgEIcHlwaS5vcmc" + "CaNaRyCaNaRy" * 5,
    "a token of Docker": "dckr_pat_" + "CaNaRyCaNaRy_65-65CaNaRyCaN",
    "a secret of Azure": "a.18Q~" + "CaNaRyCaNaRy_65-.~CaNaRyCaNaRy6565",
    "an API key": "sk-proj-canary1canary2canary3canary4",
    "a signed token": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJjYW5hcnkifQ.c2lnbmF0dXJlLWNhbmFyeQ",
    "a private key": "-----BEGIN RSA PRIVATE KEY-----\nMIIcanary0canary1\n-----END RSA PRIVATE KEY-----",
    "an access key of AWS": "AKIAIOSFODNN7EXAMPLE",
    "an address with its password": "https://nurse:pass-canary@mlflow.example.org/api",
    "a secret in an address": "postgresql://db.example.org/runs?user=nurse&password=Pw-canary",
    "a header's credential": "Authorization: Basic bnVyc2U6Y2FuYXJ5",
    "a secret by its name": "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
}
# What of each must never be read anywhere.
CORES = (
    "CaNaRy1234CaNaRy",
    "CaNaRyCaNaRy",
    "CaNaRy65",
    "650000000065",
    "canary1canary2",
    "c2lnbmF0dXJlLWNhbmFyeQ",
    "MIIcanary0",
    "AKIAIOSFODNN7EXAMPLE",
    "pass-canary",
    "Pw-canary",
    "bnVyc2U6",
    "wJalrXUtnFEMI",
)
# Other spellings of some.
SPELLINGS = {
    "a token of GitHub": ["github_pat_" + "CaNaRy1234" * 3, *(f"gh{kind}_" + "CaNaRy" * 6 for kind in "ousr")],
    "a token of GitLab": [
        "glrt-" + "CaNaRy65" * 3,
        "glpat-" + "CaNaRy65" * 4 + ".01.0z1canary",
        "gldt-" + "CaNaRy65" * 3,
    ],
    "a token of Slack": [
        *(f"xox{kind}-650000000065-" + "CaNaRy" * 4 for kind in "pae"),
        "xoxe.xoxp-1-" + "CaNaRyCaNaRy" * 4,
        "xapp-1-A650000000065-" + "CaNaRyCaNaRy",
    ],
    "an access key of AWS": ["ASIA" + "IOSFODNN7EXAMPLE"],
    "a header's credential": [
        "Authorization: Bearer canary1canary2-._~+/==",
        '{"authorization": "bearer canary1canary2"}',
        "(b'Authorization', b'Bearer canary1canary2')",
        "proxy-authorization=Basic bnVyc2U6Y2FuYXJ5",
        "AUTHORIZATION: token  canary1canary2",
    ],
    "a private key": [
        "-----BEGIN PRIVATE KEY-----\\nMIIcanary0\\n",
        "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nMIIcanary0+/==\n-----END RSA PRIVATE KEY-----",
        "-----BEGIN PGP PRIVATE KEY BLOCK-----\n\nMIIcanary0\n=Ab1c\n-----END PGP PRIVATE KEY BLOCK-----",
    ],
    "an address with its password": [
        "https://nurse:pass-canary@pass-canary@mlflow.example.org/api",
        "postgresql+psycopg2://nurse:p/a?s#s-canary'pass-canary@db.example.org:5432/runs",
        "mysql://:pass-canary@[::1]/runs",
    ],
    "a token of Docker": ["dckr_oat_" + "CaNaRyCaNaRy" * 2],
    "a secret in an address": ["https://login.example.org/back#access_token=Pw-canary"],
    "a secret by its name": [
        "DefaultEndpointsProtocol=https;AccountName=clinic;AccountKey=canary1canary2canary/+==",
        "Endpoint=sb://clinic.example.net/;SharedAccessKey=canary1canary2canary=",
        "HF_TOKEN=canary1canary2canary",
        '"access_token": "canary1canary2canary"',
    ],
}
# Of no form: known by the variable that holds it.
PLAIN = "correct-horse-battery"


def assert_silent(text: str) -> None:
    """It says no canary."""
    assert not [core for core in (*CORES, PLAIN) if core in text], text


@pytest.fixture
def password(monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret of no form in the environment."""
    monkeypatch.setenv("CLINIC_DB_PASSWORD", PLAIN)


def faults_of(overrides: list[str]) -> dict[str, str]:
    """The refusal of a run's configuration by key."""
    with pytest.raises(ConfigError) as caught:
        load_run_conf(overrides)
    assert_silent(str(caught.value))
    assert all("fix: " in str(fault) and "environment" in fault.fix for fault in caught.value.faults)
    return {fault.key: fault.problem for fault in caught.value.faults}


def test_every_canary_is_known_and_taken_out(password: None) -> None:
    """Each form is recognised by its name, gives way to it, and nothing is left that would be recognised again."""
    assert CANARIES.keys() == SECRETS.keys()
    for what, canary in CANARIES.items():
        text = f"it said: {canary}, and ended"
        assert what in secrets_in(text)
        assert redacted(text).startswith("it said: ") and redacted(text).endswith(", and ended")
        assert f"[{what}]" in redacted(text)
        assert_silent(redacted(text))
        assert redacted(redacted(text)) == redacted(text)
    assert redacted(f"user:{PLAIN}@") == "user:[CLINIC_DB_PASSWORD]@"


@pytest.mark.parametrize(("what", "spelling"), [(what, one) for what, all_ in SPELLINGS.items() for one in all_])
def test_other_spellings_are_taken_out(what: str, spelling: str) -> None:
    """All kinds of a service's tokens, and what clients make of a header; what stands around them stays."""
    said = redacted(f"before {spelling}; after")
    assert what in secrets_in(spelling)
    assert f"[{what}]" in said and said.startswith("before ") and said.endswith("; after")
    assert_silent(said)


# What patterns begin with: repeated, each may be the beginning of a long search, and time grows with the square of a text.
BEGINNINGS = (
    *(
        "a",
        " ",
        "-",
        "_",
        "=",
        "a_",
        "a-b_",
        "hf_",
        "ghp_",
        "github_pat_",
        "glpat-",
        "xoxb-1",
        "xoxb-",
        "AIza",
        "AIza-",
        "sk-",
        " sk-a",
        "npm_",
        "pypi-AgE",
        "dckr_pat_",
        "a18Q~",
        "~",
    ),
    *(
        "eyJ-",
        "-eyJaaaaaaaaaa.",
        "eyJaaaaaaaaaa.eyJ",
        "-----BEGIN ",
        "-----BEGIN PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY-----\na-",
    ),
    *(
        "AKIA",
        "a://",
        "a://b:",
        "a://b:@",
        "http://b:@",
        "accountkey=",
        "?password=",
        "?token=,",
        "token=",
        "pad_token=",
        "api-key=",
        "token = ",
        "password",
        "key_",
        "token  ",
    ),
    *("Authorization: ", "authorization=bearer ", "authorization:token aaaaaaaa", "-authorization"),
)


@pytest.mark.timeout(20)  # in proportion: a second a megabyte; by the square: 24 seconds for a tenth of that
@pytest.mark.parametrize("length", [100_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("beginning", BEGINNINGS)
def test_no_text_hangs(beginning: str, length: int) -> None:
    """A megabyte of whatever patterns begin with is read to its end (`benchmarks/redaction.py` tells how soon)."""
    assert redacted((beginning * (length // len(beginning) + 1))[:length])


def test_what_this_project_writes_stays() -> None:
    """Every option, every experiment as resolved, locked versions, hashes, a commit, a path, a date, counts: byte for byte."""
    texts = {path: path.read_text() for path in sorted((ROOT / "conf").rglob("*.yaml"))}
    texts |= {path: path.read_text() for path in sorted(ROOT.glob("requirements*.lock"))}
    experiments = [path.stem for path in sorted((ROOT / "conf" / "experiment").glob("*.yaml"))]
    assert len(experiments) > 3
    for name in experiments:
        texts[Path(name)] = resolved_yaml(load_run_conf([f"experiment={name}"]))
    texts[Path("hashes")] = "\n".join(
        hashlib.new(kind, b"x").hexdigest() for kind in ("md5", "sha1", "sha256", "sha512")
    )
    texts[Path("others")] = (
        f"token_sha256 {'0a' * 32} commit 1b68678a9 /data/clinic-2024/run_65/checkpoint-1200/adapter_model.safetensors "
        "2026-11-27T05:50:44+00:00 num_tokens=1234567890123456789 max_new_tokens: 20000000000000000 "
        "global-medical-dialogues-2024-v2 glossary-of-65-medical-words-and-more "
        "xoxb-your-token-here authorization: see RFC 7617"
    )
    for path, text in texts.items():
        assert redacted(text) == text, path


@pytest.mark.parametrize("name", ["bos", "eos", "unk", "sep", "pad", "cls", "mask", "image", "video", "audio"])
def test_words_of_a_tokenizer_are_no_secrets(name: str) -> None:
    """However long, with letters and digits; the same behind any other name is one."""
    for written in (f"{name}_token={{}}", f"--{name}-token={{}}", f'"{name.upper()}_TOKEN": "{{}}"'):
        for word in ("<|reserved_special_token_0|>", "reserved_special_token_250", "Extra0Special1Token2"):
            text = written.format(word)
            assert redacted(text) == text and not secrets_in(text)
    assert redacted(f"{name}_access_token=Extra0Special1Token2") == f"{name}_access_token=[a secret by its name]"


@pytest.mark.parametrize(
    "name", ["GPG_PASSPHRASE", "MYSQL_PWD", "AWS_SECRET_ACCESS_KEY", "openai_api_key", "GITHUB_TOKEN_2"]
)
def test_values_are_known_by_the_names_of_their_variables(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where they have no form of their own, also inside other text."""
    monkeypatch.setenv(name, f" {PLAIN}\n")
    assert redacted(f"x{PLAIN}y") == f"x[{name}]y" and secrets_in(PLAIN) == [f"the value of {name}"]


@pytest.mark.parametrize(
    "text",
    [
        "sqlite:////home/nurse/mlflow.db",
        "http://127.0.0.1:5000/a@b",
        "https://mlflow.example.org:5000, of nurse@example.org",
        "postgresql://db.example.org:5432/runs, of nurse@example.org",
        "see https://docs.example.org/a-18Q~ and npm_config_cache, pypi-server",
        "models:/demo@champion",
        "task-of-some-2-very-long-description-of-it",
        "/data/medical-sk-dialogues-2024-version-2",
        "postgresql://db.example.org/runs?user=nurse&sslmode=require",
        "meta-llama/Meta-Llama-3-8B-Instruct",
        "eos_token=<|end_of_text|>, pad_token: '<|reserved_special_token_5|>'",
        "token = self.tokenizer.convert_tokens_to_ids(1)",
        "hf_hub_download of hf_transfer",
    ],
)
def test_what_is_no_secret_stays(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Addresses, names, code; and words that variables hold whose names only sound secret."""
    for name, value in {
        "A_PASSWORD": "champion",
        "TOKENIZERS_X": "Instruct-8B",
        "MY_TOKEN_PATH": "/home/nurse",
    }.items():
        monkeypatch.setenv(name, value)
    assert redacted(text) == text and not secrets_in(text)


def test_a_variable_that_goes_away_meanwhile_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Libraries' threads take variables out of the environment between its list of names and a value."""

    class Vanishing(UserDict[str, str]):
        def __iter__(self) -> Iterator[str]:
            yield from ["GONE_TOKEN", *self.data]

    monkeypatch.setattr(os, "environ", Vanishing({"HELD_TOKEN": "abcdefgh-1234"}))
    assert redacted("it holds abcdefgh-1234") == "it holds [HELD_TOKEN]"


def test_typed_secrets_are_refused(password: None) -> None:
    """On the command line, as value, in a list, as key, and by a key that asks for one, whatever it holds."""
    for canary in (*CANARIES.values(), PLAIN):
        assert [*faults_of([f"name='{canary}'"])] == ["name"]
        with pytest.raises(ConfigError) as caught:
            make_plan([f"tracking.tracking_uri={canary},b", "lora.r=8,16"], multirun=True)
        assert_silent(str(caught.value))
    assert "a token of the hub" in faults_of([f"+x.{CANARIES['a token of the hub']}=1"])["x.[a token of the hub]"]
    keys = (
        "hub.hub_token",
        "+hydra.job.env_set.OPENAI_API_KEY",
        "+a.password",
        "+hydra.job.env_set.AWS_SECRET_ACCESS_KEY",
    )
    assert len(faults_of([f"{key}=x" for key in keys])) == len(keys)


def test_secrets_in_files_and_variables_are_refused(
    password: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a user's own option as it is written, in a list, behind an interpolation and as its default: told together, by key."""
    monkeypatch.setenv("STORE", CANARIES["an address with its password"])
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\n"
        f"name: {CANARIES['an API key']}\n"
        "tracking: {tracking_uri: '${oc.env:STORE}', experiment_name: '${oc.env:CLINIC_DB_PASSWORD}'}\n"
        f"generation: {{sample_prompts: [Hello, 'my {CANARIES['an access key of AWS']}']}}\n"
        f"data: {{system_prompt: '${{oc.env:HOME,{CANARIES['a token of the hub']}}}'}}\n"
        f"hydra: {{job: {{env_set: {{HF_TOKEN: {PLAIN}, OTHER: '{CANARIES['a token of GitHub']}'}}}}}}\n"
    )
    found = faults_of([f"hydra.searchpath=[file://{tmp_path}]", "experiment=mine"])
    assert {
        "name",
        "tracking.tracking_uri",
        "tracking.experiment_name",
        "generation.sample_prompts.1",
        "data.system_prompt",
        "hydra.job.env_set.HF_TOKEN",
        "hydra.job.env_set.OTHER",
    } <= found.keys()
    assert "and holds the value of CLINIC_DB_PASSWORD" in found["tracking.experiment_name"]


def test_variables_that_are_no_secret_resolve(monkeypatch: pytest.MonkeyPatch) -> None:
    """The address of a store comes from the environment as long as it holds no password."""
    monkeypatch.setenv("STORE", "https://mlflow.example.org")
    assert "https://mlflow.example.org" in resolved_yaml(load_run_conf(["tracking.tracking_uri=${oc.env:STORE}"]))


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """Of a library, whose records are made as in a run."""
    before = logging.getLogRecordFactory()
    logging.setLogRecordFactory(RedactedRecord)
    yield logging.getLogger("some.package")
    logging.setLogRecordFactory(before)


def test_what_libraries_log_is_redacted(password: None, logger: logging.Logger, tmp_path: Path) -> None:
    """By any handler: the message, its arguments, and the traceback behind it, which is still one."""
    handler = logging.FileHandler(tmp_path / "log")
    logger.addHandler(handler)
    for canary in (*CANARIES.values(), PLAIN):
        try:
            raise ValueError(canary)
        except ValueError:
            logger.exception("with %s and %s", canary, [canary])
    logger.removeHandler(handler)
    handler.close()
    text = (tmp_path / "log").read_text()
    assert text.count("Traceback (most recent call last)") == len(CANARIES) + 1
    assert_silent(text)


def git(folder: Path, *arguments: str) -> None:
    """A command of git, of nobody's own settings."""
    nobody = ("-c", "user.name=nobody", "-c", "user.email=nobody@example.org")
    subprocess.run(["git", "-C", str(folder), *nobody, *arguments], check=True, capture_output=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "quoted", "names"),
    [
        ([], "0", {"train.log", "uncommitted.diff"}),
        (
            ["lora.r=4,8", "-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
            "1",
            {"result.json", "mlflow.db", "points.csv"},
        ),
    ],
    ids=["run", "sweep"],
)
def test_no_secret_is_kept_of_a_run(
    more: list[str], quoted: str, names: set[str], tiny_overrides: list[str], tmp_path: Path
) -> None:
    """A run that checkpoints and fails, with canaries in the environment, in uncommitted code, and in all that libraries say.

    Nothing of them is in any byte of its folder, its record, or on the terminal, where all of these tell of what happened.
    """
    root, mark = tmp_path / "project", uuid.uuid4().hex
    root.mkdir()
    (root / "conf").symlink_to(ROOT / "conf")
    code = root / "mine.py"
    code.write_text("pass\n")
    git(root, "init")
    git(root, "add", "mine.py")
    git(root, "commit", "-m", "mine")
    said = "\n".join((*CANARIES.values(), PLAIN, mark))
    code.write_text("".join(f"{line}\n" for line in said.split("\n")))
    secrets = {"HF_TOKEN": CANARIES["a token of the hub"], "CLINIC_DB_PASSWORD": PLAIN}
    done = subprocess.run(
        [
            *(sys.executable, str(ROOT / "tests" / "leaking_train.py"), *tiny_overrides, "trainer.eval_strategy=no"),
            *("trainer.save_strategy=steps", "trainer.save_steps=1", "generation.sample_prompts=[]", *more),
        ],
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, "MEDLLM_ROOT": str(root), "MEDLLM_TEST_LEAK": said, "MEDLLM_TEST_QUOTED": quoted, **secrets},
    )
    assert done.returncode == 1 and mark in done.stderr, done.stderr
    assert_silent(done.stdout + done.stderr)
    code.unlink()
    telling, kept = set(), [path for path in tmp_path.rglob("*") if path.is_file() and ".git" not in path.parts]
    for path in kept:
        content = path.read_bytes()
        assert not [core for core in (*CORES, PLAIN) if core.encode() in content], path
        telling |= {path.name} if mark.encode() in content else set()
    assert telling >= {"traceback.txt"} | names
    assert quoted == "1" or not telling & {"result.json", "mlflow.db"}
    assert {path.name for path in kept} >= {
        "overrides.yaml",
        "hydra.yaml",
        "config.yaml",
        "optimizer.pt",
        "adapter_model.safetensors",
    }
