"""An artifact on the Hugging Face hub: what goes there, what stands against it, and the sending.

files.py     what is sent: by name from a list, the configuration without what is this machine's
checks.py    what stands against it: the card, licences, reviews and gates, secrets and paths in texts
publish.py   all of it, told before anything is sent; and what a training run does at its end
"""
