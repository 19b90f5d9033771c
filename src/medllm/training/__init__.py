"""The Trainer subclass, its arguments and callbacks, its metrics, and the proof of the labels."""
