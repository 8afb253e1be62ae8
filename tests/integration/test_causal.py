"""Distillation of causal language models: over the tokens that carry a label, whatever the microbatches."""

import pytest
import torch
from composer.core import DataSpec, Event
from torch.nn import functional as F
from torch.utils.data import DataLoader

from composer_kd import Distillation
from composer_kd.caching import estimate_size, prepare, verify_store, write_store
from composer_kd.export import export_run
from composer_kd.models import build_model
from composer_kd.recipes import parse_recipe, train
from composer_kd.recipes.tasks.text.collate import count_causal_tokens
from tests.caching.made import text
from tests.common import Watch, trainer, weights
from tests.models.test_causal_lm import MODELS

pytestmark = [
    pytest.mark.filterwarnings('ignore:Teacher .* no better than', 'ignore:Cannot split tensor of length'),
    pytest.mark.filterwarnings('ignore::UserWarning:composer', 'ignore::UserWarning:torchmetrics'),
]
LENGTHS = [10, 3, 7, 1, 5, 2, 9, 4]


def model(name='gpt2', seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build_model(MODELS[name])


def documents():
    generator = torch.Generator().manual_seed(5)
    found = []
    for length in LENGTHS:
        words = torch.randint(0, 60, (10,), generator=generator)
        there = torch.arange(10) < length
        found.append({'input_ids': words, 'attention_mask': there.long(), 'labels': torch.where(there, words, -100)})
    return found


def gradients(name='gpt2', microbatch=8, **settings):
    grads = Watch(Event.AFTER_TRAIN_BATCH, lambda s: {n: p.grad.clone() for n, p in s.model.named_parameters()})
    data = DataSpec(DataLoader(documents(), batch_size=8), get_num_tokens_in_batch=count_causal_tokens)
    kd = Distillation(model(name, seed=1), kd_loss_weight=0.7, base_loss_weight=0.3, check_batches=0,
                      loss={'name': 'kl_divergence', 'temperature': 2.0}, **settings)
    trainer([kd, grads], model=model(name), data=data, max_duration='1ba', device_train_microbatch_size=microbatch,
            accumulate_train_batch_on_tokens=True).fit()
    return grads.seen[0]


def expected(name):
    """Plain torch: one mean over all the tokens that follow another one in a document."""
    student, teacher = model(name).train(), model(name, seed=1).eval()
    batch = {key: torch.stack([sample[key] for sample in documents()]) for key in ('input_ids', 'labels')}
    keep = batch['labels'][:, 1:] != -100
    own = student.model(batch['input_ids']).logits[:, :-1][keep]
    with torch.no_grad():
        theirs = teacher.model(batch['input_ids']).logits[:, :-1][keep]
    kl = F.kl_div((own / 2).log_softmax(-1), (theirs / 2).softmax(-1), reduction='sum') * 4 / keep.sum()
    (0.3 * F.cross_entropy(own, batch['labels'][:, 1:][keep]) + 0.7 * kl).backward()
    return {key: value.grad for key, value in student.named_parameters()}


@pytest.mark.parametrize('microbatch', [8, 3, 1])
@pytest.mark.parametrize('name', MODELS)
def test_one_mean_over_the_tokens_that_carry_a_label(name, microbatch):
    got, wanted = gradients(name, microbatch), expected(name)
    assert got.keys() == wanted.keys()
    for key, value in wanted.items():
        torch.testing.assert_close(got[key], value, rtol=1e-4, atol=1e-6, msg=key)


def recipe(folder, **changes):
    said = text(folder)
    data = {key: value for key, value in said['train_data'].items() if key not in ('views', 'view_seed', 'mask_probability')}
    small = {'hidden_size': 16, 'num_hidden_layers': 1, 'num_attention_heads': 2, 'max_position_embeddings': 32}
    return {
        **said, 'model': {'name': 'gpt2', 'tokenizer': said['model']['tokenizer'], 'vocab_size': 16, 'dropout': 0.0, **small},
        'train_data': {**data, 'name': 'causal_text'}, 'algorithms': {}, 'max_duration': '2ep', 'run_name': 'causal',
        'accumulate_train_batch_on_tokens': True, **changes,
    }


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return tmp_path_factory.mktemp('causal')


@pytest.fixture(scope='module')
def earlier(root):
    return train(parse_recipe(recipe(root, run_folder=str(root / 'earlier'))))


def taught(root, name, teacher, **changes):
    kd = {'teachers': [teacher], 'check_batches': 0}
    return recipe(root, run_folder=str(root / name), seed=5, algorithms={'distillation': kd}, **changes)


def test_stored_answers_are_what_the_teacher_says(root, earlier, tmp_path):
    live = taught(root, 'live', {'run': str(earlier.path)})
    asked = prepare(parse_recipe(live), form={'name': 'dense', 'dtype': 'float32'})
    done = write_store(asked, str(tmp_path / 'store'))
    samples = asked.loader.chosen
    assert done.samples == len(samples)
    assert verify_store(prepare(parse_recipe(live), form={'name': 'dense', 'dtype': 'float32'}), str(tmp_path / 'store')).fine
    one = train(parse_recipe(live))
    other = train(parse_recipe(taught(root, 'stored', {'cache': str(tmp_path / 'store')})))
    use, = other.read_record().teachers
    assert use.stored == use.samples > 0
    left, right = (torch.load(run.latest_checkpoint(), weights_only=False)['state']['model'] for run in (one, other))
    assert all(torch.equal(left[key], right[key]) for key in left)


def test_the_size_of_a_store_counts_each_next_token(root, earlier):
    said = taught(root, 'sized', {'run': str(earlier.path)})
    found = estimate_size(parse_recipe(said), {'name': 'top_k', 'k': 3}, None, False, 'to see')
    assert found.rows == said['train_data']['max_seq_len'] - 1


def test_an_exported_student_is_transformers_own(root, earlier, tmp_path):
    import transformers

    made = export_run(earlier.path, tmp_path / 'out')
    assert 'transformers' in made.tried
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / 'out')
    assert type(loaded) is transformers.GPT2LMHeadModel


def test_continued_training_begins_where_the_earlier_run_ended(root, earlier):
    from composer_kd.recipes import build_trainer

    fit = build_trainer(parse_recipe(taught(
        root, 'continued', {'run': str(earlier.path)}, start_from={'run': str(earlier.path)},
    )))
    began = torch.load(earlier.latest_checkpoint(), weights_only=False)['state']['model']
    assert all(torch.equal(value, began[key]) for key, value in weights(fit).items())
    fit.fit()
    fit.close()
