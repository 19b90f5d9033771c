"""Takes an artifact away: other forms of the same model, each proven to be the same.

proof.py     logits and greedy answers of the artifact and of what it became
write.py     the forms, and their folders
"""
