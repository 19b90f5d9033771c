"""Talking to an artifact.

    what was typed -> history, cut to what the model can read -> guard -> answer, as it comes -> guard -> history

`speaker` answers, `history` remembers, `terminal` is what people type into. Nothing is recorded anywhere unless they save it.
"""
