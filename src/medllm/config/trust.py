"""Code of a model's repository: run only where who operates this machine has named it, never because a configuration says so.

`MEDLLM_TRUSTED_CODE` holds `owner/name@<40-digit commit>`, several separated by commas. An artifact brings a configuration of its
own, so the same rule stands before every model that is loaded, whoever asks for it.
"""

import os
import re

from medllm.config.model import PretrainedModelConf
from medllm.errors import Fault

VARIABLE = "MEDLLM_TRUSTED_CODE"
COMMIT = re.compile(r"[0-9a-f]{40}")


def trust_faults(conf: object) -> list[Fault]:
    """Why the code of this model's repository may not run; empty if it may, or is not asked for.

    Args:
        conf: The `model` group.
    """
    if not isinstance(conf, PretrainedModelConf) or not conf.trust_remote_code:
        return []
    revision = conf.revision or ""
    if not COMMIT.fullmatch(revision):
        fix = "model.revision=<40-digit commit> whose code you have read"
        return [Fault("model.trust_remote_code", f"needs a pinned commit, not {revision or 'none'}", "true", fix=fix)]
    named = f"{conf.pretrained_model_name_or_path}@{revision}"
    trusted = [entry.strip() for entry in os.environ.get(VARIABLE, "").split(",") if entry.strip()]
    if named in trusted:
        return []
    allowed = ", ".join(trusted) or "none"
    fix = f"read that code; then set {VARIABLE}={named} in the environment"
    return [Fault("model.trust_remote_code", f"{named} is not in {VARIABLE}", "true", allowed, fix)]
