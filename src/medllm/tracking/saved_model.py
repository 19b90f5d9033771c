"""A whole model as MLflow saves models: safetensors in a folder that says how it is loaded and what it needs.

Its flavour is `transformers` and not a Python function of our own, which MLflow would pickle. The task is chat, so that
`mlflow models serve` takes and gives messages.
"""

from importlib.metadata import version
from pathlib import Path
from typing import Any

TASK = "llm/v1/chat"
# What loading and answering import.
REQUIREMENTS = ("mlflow", "transformers", "torch")


def save_model(model: Any, tokenizer: Any, base: str, licence: str, folder: Path) -> None:
    """Writes the folder.

    Args:
        model: On the CPU, loaded from a local folder: MLflow would ask the hub about a model that is named as one there.
        tokenizer: With its chat template.
        base: What the model was made from, by its name alone.
        licence: A text on the base's licence.
        folder: New or empty.
    """
    import mlflow.transformers
    from huggingface_hub import ModelCard
    from mlflow.models import Model

    mlflow.transformers.save_model(
        {"model": model, "tokenizer": tokenizer},
        path=str(folder),
        task=TASK,
        pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in REQUIREMENTS],
        model_card=ModelCard(f"---\nlibrary_name: transformers\n---\n\nMade from {base}.\n"),
    )
    # MLflow takes the place that a model was loaded from for its name, and looks for a licence by that.
    saved = Model.load(str(folder))
    saved.flavors["transformers"]["source_model_name"] = base
    saved.save(str(folder / "MLmodel"))
    (folder / "LICENSE.txt").write_text(licence, encoding="utf-8")


def load_saved_model(folder: Path) -> tuple[Any, Any]:
    """The model and the tokenizer of such a folder, the model in evaluation mode."""
    import mlflow.transformers

    loaded = mlflow.transformers.load_model(str(folder), return_type="components")
    return loaded["model"].eval(), loaded["tokenizer"]
