"""Takes an artifact away: other forms of the same model, each proven to be the same.

write.py        the forms one by one, each whole or not at all
proof.py        what a model expects and answers, and how far two models are apart
reference.py    what the artifact does with held-out prompts, to which each form is compared
merged.py       a whole model in safetensors, of which the forms below are made
gguf_file.py    one file for llama.cpp, written by its own Python package
vocabulary.py   a tokenizer as llama.cpp describes it
ollama.py       the Modelfile beside it

The adapter alone is a copy of files, and MLflow's form stands in `tracking/saved_model.py`.
"""
