"""The harness's own multiple-choice tasks, whose data come from the hub."""

from difflib import get_close_matches
from typing import Any

from medllm.errors import ConfigError, DataError, Fault
from medllm.evaluation.harness import quiet

KEY = "evaluation.knowledge.tasks"
