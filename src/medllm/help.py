"""What `python train.py --help` prints: examples, groups, and the configuration that would run."""

from omegaconf import OmegaConf

from medllm.config.compose import compose_config
from medllm.config.store import PARTS, project_root

TEXT = """\
medllm: fine-tune a language model on patient-doctor dialogues.

  python train.py [GROUP=OPTION ...] [KEY=VALUE ...] [-m]

Examples
  python train.py                                        the bundled model and dialogues, 4-bit QLoRA
  python train.py experiment=demo                        the same in a few minutes on a laptop
  python train.py experiment=llama3_8b_qlora             Llama 3 8B on one GPU
  python train.py data=local data.path=my.csv            your own dialogues (columns Patient, Doctor)
  python train.py lora=dora trainer.learning_rate=1e-4   another method, another learning rate
  python train.py lora.r=8,16 trainer.learning_rate=1e-4,2e-4 -m     a sweep of four points
  python train.py lora=default,dora,ia3,prefix -m        a sweep over methods
  python train.py --cfg job --resolve                    show the configuration, run nothing
  python scripts/inspect_data.py data.path=my.csv        see what would be supervised

Groups and their options (GROUP=OPTION)
{groups}

Configuration (KEY=VALUE; this is what would run)
{configuration}
Results: outputs/ holds artifacts; `python scripts/ui.py` shows the runs.
Hydra's own flags: --hydra-help"""


def help_text(overrides: list[str]) -> str:
    """The help, with the configuration that `overrides` lead to.

    Raises:
        ConfigError: if they lead to none.
    """
    config = compose_config(overrides)
    configuration = {str(key): value for key, value in config.items() if key != "hydra"}
    folders = sorted(path for path in (project_root() / "conf").iterdir() if path.is_dir() and path.name != "hydra")
    found = {folder.name: sorted(file.stem for file in folder.glob("*.yaml")) for folder in folders}
    groups = {name: ", ".join(x for x in stems if x not in PARTS.get(name, ())) for name, stems in found.items()}
    lines = "\n".join(f"  {name:<14}{options}" for name, options in groups.items() if options)
    return TEXT.format(groups=lines, configuration=OmegaConf.to_yaml(OmegaConf.create(configuration)))
