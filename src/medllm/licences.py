"""What a base model's licence asks of whoever publishes a model built on it.

Llama: Meta Llama 3 Community License Agreement (18 April 2024), section 1.b, and 3.1, 3.2, 3.3, which differ in words.
This is a reminder and no legal advice.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from medllm.config.model import ModelConf, PretrainedModelConf
from medllm.errors import ConfigError, Fault


@dataclass(frozen=True)
class Licence:
    """Of a base model.

    Attributes:
        id: As Hugging Face spells it; empty if unknown.
        title: In words.
        link: Its text.
        name_begins: What the name of a model built on it must begin with; empty for no rule.
        notice: What must be displayed prominently.
        attribution: For the file NOTICE that goes with the weights.
        duties: Everything, in words.
        hands_on_text: Whether its text must go with the weights.
    """

    id: str
    title: str
    link: str = ""
    name_begins: str = ""
    notice: str = ""
    attribution: str = ""
    duties: tuple[str, ...] = ()
    hands_on_text: bool = False

    @property
    def forbids_commerce(self) -> bool:
        """As Creative Commons' `nc` does."""
        return bool(re.search(r"-nc(-|$)", self.id.lower()))

    @property
    def forbids_adaptations(self) -> bool:
        """To be shared, as Creative Commons' `nd` does."""
        return bool(re.search(r"-nd(-|$)", self.id.lower()))


def _llama(version: str, begins: str, notice: str, title: str, link: str) -> Licence:
    family = title.removesuffix(" Community License")
    attribution = f"{family} is licensed under the {title}, Copyright © Meta Platforms, Inc. All Rights Reserved."
    duties = (
        "Hand on a copy of the license agreement with the weights.",
        f"Display “{notice}” prominently on a related website, user interface, blog post, about page or product documentation.",
        f"Begin the model's name with “{begins}”.",
        "Keep the attribution notice in a file NOTICE with the weights.",
        "Keep to Meta's Acceptable Use Policy; it forbids, among others, the unlicensed practice of medicine.",
    )
    return Licence(version, title, link, begins, notice, attribution, duties, hands_on_text=True)


LLAMA = {
    "": _llama(
        "llama3",
        "Llama 3",
        "Built with Meta Llama 3",
        "Meta Llama 3 Community License",
        "https://llama.meta.com/llama3/license/",
    ),
    **{
        minor: _llama(
            f"llama3.{minor}",
            "Llama",
            "Built with Llama",
            f"Llama 3.{minor} Community License",
            f"https://www.llama.com/llama3_{minor}/license/",
        )
        for minor in ("1", "2", "3")
    },
}
APACHE = Licence(
    "apache-2.0",
    "Apache License 2.0",
    "https://www.apache.org/licenses/LICENSE-2.0",
    duties=(
        "Hand on a copy of the license with the weights.",
        "Keep the base model's copyright and attribution notices, and its NOTICE file if it has one.",
        "State that files were changed.",
    ),
    hands_on_text=True,
)
MIT = Licence(
    "mit",
    "MIT License",
    "https://opensource.org/license/mit",
    duties=("Keep copyright and permission notice.",),
    hands_on_text=True,
)
UNKNOWN = Licence("", "not known here")

# Families whose members share a licence; anything else must be said in card.yaml.
FAMILIES = ((re.compile(r"^HuggingFaceTB/SmolLM[23]?-", re.I), APACHE), (re.compile(r"^Qwen/Qwen3-", re.I), APACHE))
LLAMA_3 = re.compile(r"llama[-_ ]?3(?:\.([123]))?(?!\d|\.\d)", re.I)


def base_name(conf: ModelConf) -> str:
    """Id of a base model on the hub, or the name of its folder, without where that is."""
    if not isinstance(conf, PretrainedModelConf):
        return "tiny_random"
    name = conf.pretrained_model_name_or_path
    return Path(name).name if name.startswith(("/", ".", "~")) else name


def base_licence(base: str, stated: str | None = None) -> Licence:
    """The licence of a base model.

    Args:
        base: Its id on the hub, or a folder.
        stated: What a person says it is, as Hugging Face's id; it is believed, except that a Llama stays one.
    """
    match = LLAMA_3.search(base)
    if match:
        return LLAMA[match[1] or ""]
    known = {licence.id: licence for licence in (*LLAMA.values(), APACHE, MIT)}
    if stated:
        return known.get(stated, Licence(stated, stated))
    return next((licence for pattern, licence in FAMILIES if pattern.search(base)), UNKNOWN)


def is_lawful_name(licence: Licence, name: str) -> bool:
    """Whether a name begins as the licence wants; hyphens serve as blanks, and case does not matter, as on the hub."""
    return name.replace("-", " ").casefold().startswith(licence.name_begins.casefold())


def lawful_name(licence: Licence, run: str, given: str | None) -> str:
    """The model's name: as given, or the run's with what the licence wants in front.

    Raises:
        ConfigError: if the given one does not begin as the licence wants.
    """
    begins = licence.name_begins
    if given is None:
        return f"{begins} {run}" if begins else run
    if not is_lawful_name(licence, given):
        raise ConfigError(
            Fault(
                "model_name", f"the {licence.title} wants it to begin with “{begins}”", given, fix=f"{begins} {given}"
            )
        )
    return given
