"""Makes other forms of an artifact: `python scripts/export.py artifact=RUN [OVERRIDES]`.

    formats=[merged]           one or more of
                               merged: a whole model, its adapter in its weights, that needs no base and no peft
                               adapter: the adapter with its tokenizer, for peft and for vLLM beside the base
                               gguf_f16, gguf_q8_0: one file for llama.cpp, with a Modelfile for Ollama
                               mlflow: a folder for mlflow.transformers.load_model and `mlflow models serve`
    output=FOLDER              by default export/ in the run's folder
    onto=original              merges into the base before it was quantized instead of the one that the adapter was trained on
    tolerance=0.01             nats that a form's expectations may diverge from the artifact's, in the mean
    q8_0_tolerance=0.015       the same for gguf_q8_0

Each form but the adapter is loaded again and compared with the artifact on held-out conversations, by its expectations and its
greedy answers; the figures go into its manifest.json or export.json, and one that differs is not left there. A merged model is an
artifact itself: chat.py and evaluate.py take its folder.

    exit code 0 exported; 1 failed, 2 the configuration is wrong
"""

from medllm.command import run_script
from medllm.config.compose import load_conf
from medllm.config.export import ExportConf
from medllm.config.store import expanded
from medllm.console import tell


def main(arguments: list[str]) -> None:
    """Exports, and says what was proven."""
    conf = load_conf(ExportConf, arguments)
    from medllm.export.write import as_rows, export  # heavy imports only after every key, type and range is right
    from medllm.locate import find_artifact

    folder = find_artifact(conf.artifact, conf.tracking)
    output = expanded(conf.output).resolve() if conf.output else folder.parent / "export"
    for kind, (place, proof) in export(conf, folder, output).items():
        size = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
        tell(kind, f"{place}, {size / 1e6:,.1f} MB")
        for name, value in as_rows(proof) if proof is not None else []:
            tell(name, value)


if __name__ == "__main__":
    run_script(main, __doc__)
