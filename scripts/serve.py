"""Serves an artifact: `python scripts/serve.py artifact=RUN [OVERRIDES]`.

    http://127.0.0.1:8000               a page to chat on, for a browser or a phone
    http://127.0.0.1:8000/v1            OpenAI's API: chat/completions, streamed or not, and models
    http://127.0.0.1:8000/health        whether it is there; /metrics counts, for Prometheus

    guard.emergency_number=112          the guard stands before and after every answer; set the numbers of your place
    web=false                           the API alone
    max_batch=8 max_queue=32            answers under way at once, requests that wait; one more is refused with 429
    host=0.0.0.0                        for other machines, with a token in MEDLLM_SERVE_TOKEN
    feedback=true                       records thumbs and comments with their conversations: health data

Nothing of what people write is recorded or logged unless feedback=true. Behind a public name, put a proxy with TLS in front.

    exit code 130 after Ctrl-C, 143 after SIGTERM; 1 failed, 2 the configuration is wrong
"""

from medllm.command import run_script
from medllm.config.compose import load_conf
from medllm.config.serve import ServeConf


def main(arguments: list[str]) -> None:
    """Loads and listens."""
    conf = load_conf(ServeConf, arguments)
    from medllm.locate import find_artifact  # heavy imports only after every key, type and range is right
    from medllm.serving.server import serve

    serve(conf, find_artifact(conf.artifact, conf.tracking))


if __name__ == "__main__":
    run_script(main, __doc__)
