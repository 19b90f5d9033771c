"""The `lexicon` group."""

import pytest

from medllm.config.compose import load_conf
from medllm.config.evaluation import EvaluateConf
from medllm.config.evaluation.lexicon import LexiconConf
from medllm.errors import ConfigError
from tests.conf.groups import options
from tests.conf.test_evaluation import refusal


@pytest.mark.parametrize("option", options("lexicon"))
def test_composes(option: str) -> None:
    """Each lexicon lands under its name with a version and what it finds."""
    conf = load_conf(EvaluateConf, ["artifact=x"]).lexicon[option]
    assert (conf.version >= 1, bool(conf.finds), bool(conf.patterns)) == (True, True, True)


def test_refusals() -> None:
    """Unknown key, wrong type, out of range; an expression that does not compile."""
    assert "lexicon.empathy.pattern=[x]: no such key" in refusal("lexicon.empathy.pattern=[x]")
    assert "lexicon.empathy.version=new: has the wrong type" in refusal("lexicon.empathy.version=new")
    assert "lexicon.empathy.version=0: is out of range" in refusal("lexicon.empathy.version=0")
    with pytest.raises(ConfigError, match=r"is no regular expression"):
        LexiconConf(version=1, finds="x", patterns=["("])
    with pytest.raises(ConfigError, match="finds nothing"):
        LexiconConf(version=1, finds="x", patterns=[])
