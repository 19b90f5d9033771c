"""medllm turns a general language model into a medical chat assistant, as a reproducible experiment.

    config -> rows -> conversations -> token rows -> packed batches -> model + adapter -> MedTrainer -> run record -> artifact

The package's folders are named after that line; `medllm.experiment.run_training` walks it once from left to right.
"""

__version__ = "0.1.0"
