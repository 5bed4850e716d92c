"""A BERT of one layer and random weights with a word-level tokenizer, saved as transformers saves one."""

import torch

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def save(folder, words, positions=14):
    """Write the checkpoint folder; the tokenizer knows `words`."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    known = [*SPECIAL, *words]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(known)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    special = [("[CLS]", 2), ("[SEP]", 3)]
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=special)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = BertModel(
            BertConfig(
                vocab_size=len(known), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                intermediate_size=32, max_position_embeddings=positions,
            )
        )  # fmt: skip
        network.embeddings.word_embeddings.weight.data.mul_(20)
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
