import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from composer_kd.functional import combine_logits, kl_divergence
from composer_kd.models import build_model
from composer_kd.plan import plan_recipe
from composer_kd.plan.memory import GIB, Weights, activations, copies, optimizer_state
from composer_kd.plan.onmeta import Kept, OnMeta
from tests.functional.memory import most_bytes
from tests.recipes.tiny import recipe


def digits(count):
    return torch.zeros(count, 1, 8, 8), torch.zeros(count, dtype=torch.int64)


def kept_for_real(model, batch):
    """What a forward on this machine keeps, and the batch itself."""
    model.train()
    with Kept(model) as kept:
        model.loss(model(batch), batch)
    own = {tensor.untyped_storage()._cdata for tensor in batch}
    return kept.bytes(without=own) + sum(tensor.nbytes for tensor in batch)


@pytest.mark.parametrize('model', ['digits_resnet', {'name': 'digits_resnet', 'width': 8, 'blocks': 5, 'loss': 'binary_cross_entropy'}])
def test_activations_are_those_of_a_real_forward(model):
    with torch.device('meta'):
        found = activations(build_model(model), digits, 'fp32', gpu=False)
    real = {size: kept_for_real(build_model(model), digits(size)) for size in (24, 48)}
    assert found.casts + 24 * found.per_sample == pytest.approx(real[24], rel=1e-3)
    assert found.casts + 48 * found.per_sample == pytest.approx(real[48], rel=1e-3)
    assert found.logits == 10


def test_lower_precision_halves_most_of_it_and_copies_the_parameters():
    with torch.device('meta'):
        model = build_model({'name': 'digits_resnet', 'width': 32})
        full, low = (activations(model, digits, precision, gpu=True) for precision in ('fp32', 'amp_bf16'))
    assert 0.5 < low.per_sample / full.per_sample < 0.6
    convolutions = [module.weight for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert low.casts - full.casts == pytest.approx(2 * sum(weight.numel() for weight in convolutions), rel=0.05)


def test_attention_and_dropout_are_counted_as_a_gpu_runs_them():
    config = BertConfig(
        vocab_size=100, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=64,
    )
    with torch.device('meta'):
        model = BertForSequenceClassification(config).train()

        def kept(gpu, length):
            batch = {key: torch.ones(4, length, dtype=torch.int64, device='meta') for key in ('input_ids', 'attention_mask')}
            with OnMeta('amp_bf16', gpu), Kept(model) as found:
                model(**batch)
            return found.bytes()

        # Without a fused kernel, each head keeps a matrix of 64 x 64; with one, memory grows with the length alone.
        assert kept(gpu=False, length=64) > 1.2 * kept(gpu=True, length=64)
        assert kept(gpu=True, length=64) / kept(gpu=True, length=32) < 2.1


def test_a_question_about_values_is_answered():
    with torch.device('meta'), OnMeta():
        assert not torch.all(torch.ones(3) == 1)


@pytest.mark.parametrize(('optimizer', 'each'), [
    ({'name': 'decoupled_sgdw', 'lr': 0.1}, 0),
    ({'name': 'decoupled_sgdw', 'lr': 0.1, 'momentum': 0.9}, 4),
    ({'name': 'decoupled_adamw', 'lr': 0.1}, 8),
    ({'name': 'adamw', 'lr': 0.1, 'amsgrad': True}, 12),
])
def test_the_state_of_an_optimizer_is_found_out_by_a_step(tmp_path, optimizer, each):
    assert optimizer_state(recipe(tmp_path, optimizer=optimizer))[0] == each


def test_what_is_kept_for_parameters_is_the_sum_of_their_bytes(tmp_path):
    said = recipe(tmp_path / 'run', algorithms={'ema': {'half_life': '10ba'}, 'swa': {}})
    with torch.device('meta'):
        model = build_model('digits_resnet')
    weights, numbers = Weights.of(model, said), sum(p.numel() for p in model.parameters())
    assert weights.trained == weights.optimizer == 4 * numbers
    assert weights.model == weights.ema == weights.swa == sum(t.nbytes for t in (*model.parameters(), *model.buffers()))


def test_fsdp_shares_out_and_replaces_the_buckets(tmp_path):
    def memory(**changes):
        return plan_recipe(recipe(tmp_path / 'run', **changes), ranks=4).memory

    alone = plan_recipe(recipe(tmp_path / 'run'), ranks=1).memory
    whole, sharded = memory(), memory(parallelism_config={'fsdp': {'sharding_strategy': 'FULL_SHARD'}})
    assert whole.gradients == 2 * alone.gradients, 'ranks exchange them through buckets'
    assert sharded.parameters == pytest.approx(whole.parameters / 4, abs=1)
    assert sharded.gradients == pytest.approx(alone.gradients / 4, abs=1)
    assert sharded.optimizer == pytest.approx(whole.optimizer / 4, abs=1)
    partly = memory(parallelism_config={'fsdp': {'sharding_strategy': 'SHARD_GRAD_OP'}})
    assert (partly.parameters, partly.gradients) == (whole.parameters, sharded.gradients)
    assert memory(parallelism_config={'fsdp2': {}}).parameters == sharded.parameters


def test_automatic_microbatches_are_halved_until_they_fit(tmp_path):
    changes = {'model': {'name': 'digits_resnet', 'width': 64}, 'device_train_microbatch_size': 'auto'}
    changes['train_data'] = {'name': 'digits', 'batch_size': 1024}
    roomy = plan_recipe(recipe(tmp_path / 'run', **changes), ranks=1).memory
    assert roomy.microbatch == 1024
    needed = (roomy.total - roomy.reserve) / GIB
    tight = plan_recipe(recipe(tmp_path / 'run', **changes), ranks=1, memory_gb=(1 + needed / 3) / 0.9).memory
    assert tight.microbatch == 256
    assert tight.total < 0.9 * tight.limit < tight.total + 256 * tight.activations_per_sample


@pytest.mark.parametrize('teachers', [1, 2])
def test_the_copies_of_the_logits_are_those_that_a_loss_makes(teachers):
    student = torch.randn(512, 8000, requires_grad=True)
    size = student.numel() * 4

    def term():
        answers = [torch.randn(512, 8000) for _ in range(teachers)]
        target = answers[0] if teachers == 1 else combine_logits(answers)
        kl_divergence(student, target, temperature=2.0).backward()
    taken = most_bytes(term)
    assert copies(teachers) * size <= taken < copies(teachers) * size + 12 * 2**20
