"""Names artifacts: `python scripts/registry.py promote|rollback|list name=NAME alias=ALIAS`.

    promote    artifact=RUN name=medllm-demo alias=champion   registers the artifact and lets models:/medllm-demo@champion name it
    rollback   name=medllm-demo alias=champion                the alias names the version that it named before
    list       [name=medllm-demo]                             versions, with their aliases and what experts say of them

    tracking_uri=URI      the store: sqlite:///<file> or a server's address; by default that of conf/tracking/mlflow.yaml

RUN is a run's folder, its artifact/ folder, the id of its run record, or models:/name@alias. Every script that takes artifact=
takes models:/name@alias and models:/name/version. Promoting checks every file of the artifact and copies nothing: files stay in
the run's folder, whose manifest must not change.
"""

from medllm.command import pop_option, run_script
from medllm.console import tell
from medllm.errors import ConfigError, Fault

VERBS = ("promote", "rollback", "list")


def main(arguments: list[str]) -> None:
    """Does one of the three."""
    verb, *rest = arguments or [""]
    if verb not in VERBS:
        raise ConfigError(Fault("", "says not what to do", verb, allowed=", ".join(VERBS)))
    wanted = {"promote": ("artifact", "name", "alias"), "rollback": ("name", "alias"), "list": ()}[verb]
    given = {}
    for key in ("artifact", "name", "alias", "tracking_uri"):
        rest, given[key] = pop_option(rest, key, "")
    faults = [Fault("", "no such option", a, allowed="artifact=, name=, alias=, tracking_uri=") for a in rest]
    faults += [Fault(key, "needs a value", fix=f"give it one: {key}=...") for key in wanted if not given[key]]
    from medllm.tracking.registry import PLAIN, Registry

    allowed = "letters, digits, dots, hyphens and underscores, a letter or digit first"
    faults += [
        Fault(key, "is no plain name", given[key], allowed=allowed)
        for key in ("name", "alias")
        if given[key] and not PLAIN.fullmatch(given[key])
    ]
    if faults:
        raise ConfigError(faults)
    from medllm.config.compose import load_conf
    from medllm.config.evaluation import EvaluateConf

    store = [f"tracking.tracking_uri='{given['tracking_uri']}'"] if given["tracking_uri"] else []
    conf = load_conf(EvaluateConf, ["artifact=any", *store]).tracking
    registry = Registry(conf)
    if verb == "rollback":
        left, now = registry.roll_back(given["name"], given["alias"])
        tell("rollback", f"models:/{given['name']}@{given['alias']} names version {now}, no longer {left}")
        return
    from medllm.locate import find_artifact, folder_of_version
    from medllm.review.approval import review_status

    if verb == "list":
        versions = registry.versions(given["name"])
        for version in versions:
            aliases = "".join(f" @{alias}" for alias in version.aliases)
            try:
                folder = folder_of_version(version, conf)
                said = f"{review_status(folder).decision.upper()}, {folder}"
            except ConfigError as error:
                said = error.faults[0].problem
            tell(version.name, f"{version.number}{aliases}: {said}")
        if not versions:
            tell("models", "none is registered here")
        return
    from medllm.artifact import MANIFEST, load_artifact, sha256

    artifact = load_artifact(find_artifact(given["artifact"], conf))
    run_id = artifact.manifest["run_id"]
    if not run_id:
        fix = "train it with tracking=mlflow"
        raise ConfigError(
            Fault("artifact", "has no run record, by which it would be found again", given["artifact"], fix=fix)
        )
    if find_artifact(run_id, conf) != artifact.folder.resolve():
        fix = "promote the artifact that its run left"
        raise ConfigError(
            Fault("artifact", f"is not what is found by its run record {run_id}", given["artifact"], fix=fix)
        )
    version = registry.register(given["name"], run_id, sha256(artifact.folder / MANIFEST))
    before = registry.promote(version, given["alias"])
    was = f", before {before}" if before not in (None, version.number) else ""
    tell("promote", f"models:/{version.name}@{given['alias']} names version {version.number}{was}")
    status = review_status(artifact.folder)
    tell("review", f"{status.decision.upper()}: {'; '.join(status.reasons)}")


if __name__ == "__main__":
    run_script(main, __doc__)
