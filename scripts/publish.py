"""Publishes an artifact on the Hugging Face hub: `python scripts/publish.py artifact=RUN repo_id=ORG/NAME [--dry-run]`.

    private=false              for everybody to see; by default it is private
    accept=[unreviewed,gate]   publishes in spite of what stands against it: unreviewed, rejected, gate, license, data_rights
    revision=BRANCH            by default main
    tag=v1                     a tag for the commit
    --dry-run                  lists the files with their sizes and SHA-256 and what stands against them; sends nothing

RUN is a run's folder, its artifact/ folder, the id of its run record, models:/name@alias, or a merged model of export.py. It
needs the card that scripts/card.py writes. The token comes from HF_TOKEN in the environment alone; HF_ENDPOINT names another hub.
Everything is checked before anything is sent; all files go in one commit, and are compared afterwards. The same line again sends
what has changed, and nothing if nothing has.

    exit code 0 published, or could be; 1 failed, 2 something stands against it
"""

from medllm.command import run_script
from medllm.config.compose import load_conf
from medllm.config.publish import PublishConf
from medllm.console import tell
from medllm.errors import ConfigError

DRY_RUN = "--dry-run"


def main(arguments: list[str]) -> None:
    """Publishes, or says what would be published."""
    conf = load_conf(PublishConf, [argument for argument in arguments if argument != DRY_RUN])
    from medllm.locate import find_artifact
    from medllm.publication.publish import prepare, publish, show

    publication = prepare(conf, find_artifact(conf.artifact, conf.tracking))
    show(publication)
    if DRY_RUN in arguments:
        if publication.faults:
            raise ConfigError(publication.faults)
        tell(
            "dry run", "nothing was sent; the hub has not been asked whether the token may write and who can read there"
        )
        return
    pushed = publish(conf, publication)
    for name in pushed.removed:
        tell("removed", f"{name}, which this artifact does not have")
    tell("published" if pushed.changed else "unchanged", pushed.url)


if __name__ == "__main__":
    run_script(main, __doc__)
