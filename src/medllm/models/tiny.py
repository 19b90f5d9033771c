"""A tokenizer of a few hundred tokens, made in memory: a byte-level BPE trained on the sentences below."""

from functools import lru_cache
from typing import Any

from medllm.conversation import CHATML_TEMPLATE

VOCAB_SIZE = 768

# English as patients and doctors write it, for merges that shorten dialogues to about a third of their bytes.
CORPUS = """
Hello doctor, I have had a headache for two weeks and it is getting worse in the morning. Should I be worried about this?
My daughter is three years old and has a fever since yesterday evening. She is drinking a little but does not want to eat.
I am a forty year old man and I have been taking medicine for high blood pressure. Can I take something for the pain as well?
Thank you for the details. That sounds uncomfortable, and there are a few things that could explain it.
Please call your local emergency number now. Chest pain with sweating and shortness of breath can be a heart attack.
How long has this been going on, and did anything make it better or worse? Have you noticed a rash, swelling or bleeding?
Without an examination nobody can be sure, but your symptoms fit with a muscle strain, and most of these heal within weeks.
See a doctor within the next day or two if the pain spreads, if you have a fever, or if your leg becomes weak or numb.
Drink enough water, rest, and keep the wound clean and dry. You can use an over-the-counter pain reliever as the label says.
The blood test shows how your kidneys, your liver and your thyroid are working. Your doctor will want to repeat it.
The amount that is right depends on your weight, age and other medicines, so ask your pharmacist or the doctor who prescribed it.
It would help to know whether you are pregnant, because some treatments are not safe for the baby.
"""


def build_tiny_tokenizer() -> Any:
    """A fresh `PreTrainedTokenizerFast` with a ChatML template; eos closes a turn, and there is a pad token."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=_train(),
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        unk_token="<|endoftext|>",
        pad_token="<|pad|>",
        chat_template=CHATML_TEMPLATE,
    )


@lru_cache(maxsize=1)
def _train() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS.strip().split("\n"), trainer)
    return tokenizer
