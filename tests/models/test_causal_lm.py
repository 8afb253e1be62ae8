"""Causal language models are transformers' own; what pads the end of a sample changes nothing."""

import pytest
import torch
import transformers

from composer_kd.models import build_model

TINY = {'vocab_size': 60, 'hidden_size': 16, 'num_hidden_layers': 2, 'num_attention_heads': 2, 'max_position_embeddings': 12}
MODELS = {
    'gpt2': {'name': 'gpt2', **TINY, 'dropout': 0.0},
    'llama': {'name': 'llama', **TINY, 'intermediate_size': 32, 'num_key_value_heads': 1},
}
KINDS = {'gpt2': transformers.GPT2LMHeadModel, 'llama': transformers.LlamaForCausalLM}


def tiny(name, **changes):
    torch.manual_seed(0)
    return build_model({**MODELS[name], **changes}).eval()


def batch(samples=4, length=10):
    words = torch.randint(0, 60, (samples, length), generator=torch.Generator().manual_seed(3))
    there = torch.arange(length) < torch.tensor([10, 4, 7, 2])[:samples, None]
    return {'input_ids': words, 'attention_mask': there.long(), 'labels': torch.where(there, words, -100)}


@pytest.mark.parametrize('name', MODELS)
def test_logits_and_loss_are_those_of_transformers_with_its_mask(name):
    model, data = tiny(name), batch()
    plain = KINDS[name](model.config).eval()
    plain.load_state_dict(model.model.state_dict())
    found, expected = model(data), plain(**data)
    there = data['attention_mask'].bool()
    torch.testing.assert_close(found.logits[there], expected.logits[there])
    torch.testing.assert_close(found.loss, expected.loss)


@pytest.mark.parametrize('name', MODELS)
def test_evaluation_is_of_each_next_token(name):
    model, data = tiny(name), batch()
    logits = model.eval_forward({key: value.clone() for key, value in data.items()})  # it shifts labels in place
    metric = model.get_metrics(is_train=False)['LanguageCrossEntropy']
    model.update_metric(data, logits, metric)
    with torch.no_grad():
        full = model(data).logits.double().log_softmax(-1)
    keep = data['labels'][:, 1:] != -100
    expected = -full[:, :-1].gather(-1, data['labels'][:, 1:].clamp_min(0)[..., None])[..., 0][keep].mean()
    assert float(metric.compute()) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize(('name', 'parameters'), [('gpt2', 124_439_808), ('llama', 1_100_048_384)])
def test_the_defaults_have_the_published_number_of_weights(name, parameters):
    with torch.device('meta'):
        model = build_model(name)
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize(('name', 'changes', 'message'), [
    ('gpt2', {'vocab_size': 0}, 'vocab_size: expected a whole number of 1 or more, got 0'),
    ('gpt2', {'hidden_size': 15}, r'num_attention_heads: expected a number that divides hidden_size \(15\), got 2'),
    ('gpt2', {'dropout': 1.0}, 'dropout: expected a share from 0 to below 1, got 1.0'),
    ('llama', {'num_key_value_heads': 3}, r'num_key_value_heads: expected a number that divides num_attention_heads \(2\)'),
    ('llama', {'rope_theta': 0}, 'rope_theta: expected a number above 0, got 0'),
    ('llama', {'tie_word_embeddings': 'yes'}, "tie_word_embeddings: expected true or false, got 'yes'"),
    ('llama', {'attention_dropout': -1}, 'attention_dropout: expected a share'),
    ('llama', {'hiden_size': 4}, "unknown key 'hiden_size'. Did you mean 'hidden_size'"),
])
def test_bad_settings(name, changes, message):
    with pytest.raises(ValueError, match=message):
        tiny(name, **changes)


@pytest.mark.parametrize('name', MODELS)
@pytest.mark.parametrize('setting', ['vocab_size', 'hidden_size', 'num_hidden_layers', 'max_position_embeddings'])
def test_sizes_reach_the_model(name, setting):
    value = MODELS[name][setting] * 2
    assert getattr(tiny(name, **{setting: value}).config, setting) == value


def test_llamas_own_settings_reach_it():
    config = tiny('llama', intermediate_size=48, rope_theta=5e5, tie_word_embeddings=True, attention_dropout=0.2,
                  num_key_value_heads=2).config
    assert (config.intermediate_size, config.rope_theta, config.tie_word_embeddings) == (48, 5e5, True)
    assert (config.attention_dropout, config.num_key_value_heads) == (0.2, 2)
    assert tiny('gpt2', dropout=0.3).config.attn_pdrop == 0.3


@pytest.mark.parametrize('name', [*MODELS, 'bert_masked_lm', 'bert_classifier'])
def test_attention_is_computed_as_it_is_asked_for(name):
    spec = MODELS.get(name, {'name': name, **TINY, 'intermediate_size': 32})
    fused, eager = (build_model({**spec, 'attn_implementation': kind}).eval() for kind in ('sdpa', 'eager'))
    assert (fused.model.config._attn_implementation, eager.model.config._attn_implementation) == ('sdpa', 'eager')
    eager.model.load_state_dict(fused.model.state_dict())
    words = {'input_ids': torch.arange(16).reshape(2, 8), 'attention_mask': torch.ones(2, 8, dtype=torch.int64)}
    torch.testing.assert_close(fused(words).logits, eager(words).logits)
    assert build_model(spec).model.config._attn_implementation == 'sdpa'
    with pytest.raises(ValueError, match="attn_implementation: expected 'sdpa' or 'eager', got 'flash'"):
        build_model({**spec, 'attn_implementation': 'flash'})
