"""Typed configuration: one file per Hydra group, `store` registers them, `compose` builds them, `validate` checks them.

Nothing here imports torch or transformers, so that a wrong key is answered within a second.
"""
