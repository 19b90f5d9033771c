"""Artifacts by name: MLflow's model registry, whose aliases say which version is in use.

A version holds the id of the artifact's run record, under which its folder is found, and the SHA-256 of the artifact's manifest,
which states every other file's: what a version names cannot change behind it. Aliases move; where each stood before is kept at
the model, so that it can be moved back.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

from medllm.config.tracking import MlflowConf, TrackingConf
from medllm.errors import ConfigError, Fault, TrackingError
from medllm.tracking.build import import_tracker
from medllm.tracking.mlflow_store import client_of, is_there, told

SCHEME = "models:/"
MANIFEST_TAG, BEFORE_TAG = "manifest_sha256", "before."

# MLflow takes more; these can be typed and are no path.
PLAIN = re.compile(r"[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class Version:
    """A registered artifact.

    Attributes:
        name: Of the model.
        number: Of the version.
        run_id: Of the artifact's run record.
        manifest_sha256: Of the artifact's manifest.
        aliases: That name this version now.
    """

    name: str
    number: int
    run_id: str
    manifest_sha256: str
    aliases: tuple[str, ...] = ()


class Registry:
    """The model registry of a tracking store.

    Args:
        conf: The store.

    Raises:
        TrackingError: if the store is none or cannot be used.
    """

    def __init__(self, conf: TrackingConf):
        if not isinstance(conf, MlflowConf):
            raise TrackingError(
                "tracking=none keeps no models: name a store, tracking_uri=sqlite:///<file> or a server's address"
            )
        if not is_there(conf):
            raise TrackingError(
                f"tracking.tracking_uri={conf.tracking_uri}: no such database, so no model is registered in it"
            )
        import_tracker(conf)
        self._conf = conf
        with told(conf):
            self._client = client_of(conf)

    def register(self, name: str, run_id: str, manifest_sha256: str) -> Version:
        """A new version, or the one that this artifact has already.

        Args:
            name: Of the model, made where it does not exist.
            run_id: Of the artifact's run record.
            manifest_sha256: Of the artifact's manifest.
        """
        with told(self._conf):
            known = next((v for v in self.versions(name) if v.manifest_sha256 == manifest_sha256), None)
            if known is not None:
                return known
            if not self._client.search_registered_models(f"name = '{name}'"):
                self._client.create_registered_model(name)
            tags = {MANIFEST_TAG: manifest_sha256}
            made = self._client.create_model_version(name, f"runs:/{run_id}/artifact", run_id=run_id, tags=tags)
        return Version(name, int(made.version), run_id, manifest_sha256)

    def versions(self, name: str = "") -> list[Version]:
        """Of one model, or of all; the newest first."""
        with told(self._conf):
            found = self._client.search_registered_models(f"name = '{name}'" if name else None)
            aliases = {model.name: {alias: int(number) for alias, number in model.aliases.items()} for model in found}
            versions = [v for model in found for v in self._client.search_model_versions(f"name = '{model.name}'")]
        ours = [v for v in versions if MANIFEST_TAG in v.tags]  # others may keep models of other kinds here
        made = [
            Version(
                v.name,
                int(v.version),
                v.run_id,
                v.tags[MANIFEST_TAG],
                tuple(alias for alias, number in aliases[v.name].items() if number == int(v.version)),
            )
            for v in ours
        ]
        return sorted(made, key=lambda v: (v.name, -v.number))

    def find(self, text: str) -> Version:
        """What `models:/name@alias` or `models:/name/number` names.

        Raises:
            ConfigError: if it names nothing.
        """
        name, at, alias = text.removeprefix(SCHEME).partition("@")
        name, _, number = (name, "", "") if at else name.partition("/")
        versions = self.versions(name) if PLAIN.fullmatch(name) else []
        for version in versions:
            if alias in version.aliases if at else number == str(version.number):
                return version
        there = [f"{SCHEME}{v.name}@{alias}" for v in versions for alias in v.aliases]
        there += [f"{SCHEME}{v.name}/{v.number}" for v in versions]
        allowed = ", ".join(there) or "models:/name@alias or models:/name/version of this registry"
        raise ConfigError(
            Fault("artifact", f"names no registered model of {self._conf.tracking_uri}", text, allowed=allowed)
        )

    def promote(self, version: Version, alias: str) -> int | None:
        """Lets an alias name this version from now on; returns the number that it named before."""
        with told(self._conf):
            model = self._client.get_registered_model(version.name)
            now = model.aliases.get(alias)
            if now is not None and int(now) == version.number:
                return version.number
            before = [*self._before(model, alias), *([int(now)] if now is not None else [])]
            self._client.set_registered_model_tag(version.name, BEFORE_TAG + alias, json.dumps(before))
            self._client.set_registered_model_alias(version.name, alias, str(version.number))
        return None if now is None else int(now)

    def roll_back(self, name: str, alias: str) -> tuple[int, int]:
        """Moves an alias back to the version that it named before; returns from which number to which.

        Raises:
            ConfigError: if it named none before.
        """
        with told(self._conf):
            found = self._client.search_registered_models(f"name = '{name}'")
            now = found[0].aliases.get(alias) if found else None
            before = self._before(found[0], alias) if found else []
            if now is None or not before:
                problem = "named no version before this one" if now is not None else "names no version"
                raise ConfigError(Fault("alias", f"{problem} of {name} in {self._conf.tracking_uri}", alias))
            *rest, last = before
            self._client.set_registered_model_alias(name, alias, str(last))
            self._client.set_registered_model_tag(name, BEFORE_TAG + alias, json.dumps(rest))
        return int(now), last

    @staticmethod
    def _before(model: Any, alias: str) -> list[int]:
        return [int(number) for number in json.loads(model.tags.get(BEFORE_TAG + alias, "[]"))]
