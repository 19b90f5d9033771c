"""Talks to an artifact in the terminal: `python scripts/chat.py artifact=RUN [OVERRIDES]`.

    artifact=outputs/2026-01-31/10-00-00-demo      a run's folder, its artifact/ folder, the id of its run record, or
                                                   models:/name@alias of the model registry
    compare=true                                   the base answers too, in front of the tuned model; one model in memory
    generation.max_new_tokens=300                  sampling and length, by default the artifact's own
    generation.do_sample=true generation.temperature=0.7
    guard.emergency_number=112                     numbers of your place; guard=none leaves the model alone
    use_cpu=true                                   any other key; conf/chat.yaml is the table of contents

/help in the chat shows its commands. Ctrl-C stops an answer, Ctrl-D leaves. Nothing is recorded unless you type /save FILE.

    exit code 0 left; 1 failed, 2 the configuration is wrong
"""

from medllm.command import run_script
from medllm.config.chat import ChatConf
from medllm.config.compose import load_conf
from medllm.console import plain_console


def main(arguments: list[str]) -> None:
    """Loads and talks."""
    conf = load_conf(ChatConf, arguments)
    from medllm.chat.speaker import Speaker  # heavy imports only after every key, type and range is right
    from medllm.chat.terminal import Terminal, answering, read_line
    from medllm.inference.load import open_artifact
    from medllm.locate import find_artifact

    loaded = open_artifact(find_artifact(conf.artifact, conf.tracking), use_cpu=conf.use_cpu)
    speaker = Speaker(conf, loaded)
    terminal = Terminal(speaker, plain_console(), read_line, compare=conf.compare, status=answering(loaded.artifact))
    try:
        terminal.run(conf.filled_notice)
    finally:
        speaker.close()


if __name__ == "__main__":
    run_script(main, __doc__)
