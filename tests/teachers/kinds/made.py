"""Small real models of every kind, written to files."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from composer.models import ComposerClassifier
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

CLASSES = 4
NAMES = ('cat', 'dog', 'horse', 'ox')


class Pictures(nn.Module):
    def __init__(self, classes: int = CLASSES, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.body = nn.Conv2d(3, 6, 3, stride=2)
            self.head = nn.Linear(6, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(images).relu().mean((2, 3)))


def student(outputs: int = CLASSES, seed: int = 9, **traits) -> ComposerClassifier:
    from composer_kd.models import Traits

    model = ComposerClassifier(Pictures(outputs, seed), num_classes=outputs)
    if traits:
        model.traits = Traits(**traits)
    return model


def batch(samples: int = 4, side: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(samples, 3, side, side, generator=generator), torch.arange(samples) % CLASSES


def vit(folder: Path, names=NAMES, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)) -> ViTForImageClassification:
    torch.manual_seed(5)
    config = ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=16, patch_size=8,
        id2label=dict(enumerate(names)), label2id={name: i for i, name in enumerate(names)},
    )
    model = ViTForImageClassification(config).eval()
    model.save_pretrained(folder)
    ViTImageProcessor(size={'height': 16, 'width': 16}, image_mean=list(mean), image_std=list(std)).save_pretrained(folder)
    return model


def tokenizer(folder: Path, words: int = 20, first: str = 'w') -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    raw = Tokenizer(models.WordLevel({'[UNK]': 0, **{f'{first}{i}': i for i in range(1, words)}}, '[UNK]'))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=raw, unk_token='[UNK]').save_pretrained(folder)


def bert(folder: Path, vocab: int = 20, seed: int = 5, **kwargs) -> BertForMaskedLM:
    torch.manual_seed(seed)
    model = BertForMaskedLM(BertConfig(
        vocab_size=vocab, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
        max_position_embeddings=16, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )).eval()
    model.save_pretrained(folder, **kwargs)
    return model


def gpt2(folder: Path, vocab: int = 20) -> GPT2LMHeadModel:
    torch.manual_seed(6)
    model = GPT2LMHeadModel(GPT2Config(
        vocab_size=vocab, n_positions=16, n_embd=8, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0,
    )).eval()
    model.save_pretrained(folder)
    return model


def onnx(path: Path, model: nn.Module) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        torch.onnx.export(
            model.eval(), (batch()[0],), str(path), input_names=['images'], output_names=['logits'],
            dynamic_axes={'images': {0: 'n'}, 'logits': {0: 'n'}}, dynamo=False,
        )


def exported(path: Path, model: nn.Module) -> None:
    torch.export.save(
        torch.export.export(
            model.eval(), (batch()[0],), dynamic_shapes={'images': {0: torch.export.Dim('n', max=64)}},
        ), str(path),
    )
