"""The cards of an artifact, from what its run, its evaluations and its reviews left on disk, and from what a person adds.

facts.py        everything known of an artifact, read in one place
human.py        `card.yaml`: what only a person can say
huggingface.py  README.md with its YAML head and model-index
chai.py         applied_model_card.xml, the Coalition for Health AI's Applied Model Card v0.2
write.py        all of it, into the run's `card/`
"""
