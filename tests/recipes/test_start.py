import logging
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner
from safetensors.torch import save_file
from transformers import BertForMaskedLM, BertForSequenceClassification, BertModel

from composer_kd.cli import main
from composer_kd.models import build_model
from composer_kd.recipes import parse_recipe, recipe_digest, train
from composer_kd.recipes.parts import make_parts
from composer_kd.runs import RunFolder
from composer_kd.teachers import model_of_run
from tests.models.words import tokenizer_folder
from tests.recipes.tiny import plain

ROOT = Path(__file__).parent.parent.parent
SMALL = {'vocab_size': 40, 'hidden_size': 16, 'num_hidden_layers': 2, 'num_attention_heads': 2, 'intermediate_size': 32}
HEAD = {'model.classifier.weight', 'model.classifier.bias'}
POOLER = {'model.bert.pooler.dense.weight', 'model.bert.pooler.dense.bias'}


def classifier(folder='run', seed=17, model=None, **start_from):
    """Model of a recipe that starts from somewhere."""
    recipe = parse_recipe(plain(run_folder=str(folder), seed=seed, model={'name': 'bert_classifier', **SMALL, **(model or {})},
                                evaluators={}, **({'start_from': start_from} if start_from else {})))
    return make_parts(recipe).model


def drawn(name='bert_classifier', seed=3, **settings):
    torch.manual_seed(seed)
    return build_model({'name': name, **SMALL, **settings})


def differing(one, other):
    """Names that both have with other values, and names that one of them has alone."""
    one, other = one.state_dict(), other.state_dict()
    return {name for name in one if name in other and not torch.equal(one[name], other[name])} | (set(one) ^ set(other))


def finished(folder, model, recipe=None):
    """A run folder with a checkpoint as Composer writes it."""
    run = RunFolder(folder)
    run.write_recipe({'model': recipe or {'name': 'bert_classifier', **SMALL}})
    run.checkpoints.mkdir()
    torch.save({'state': {'model': model.state_dict()}}, run.checkpoints / 'ep1-ba8-rank0.pt')
    return str(folder)


def test_without_it_all_is_drawn():
    assert not differing(classifier(), classifier())
    assert differing(classifier(), classifier(seed=18))


@pytest.mark.parametrize('kind', ['run', 'checkpoint', 'state dict', 'safetensors'])
def test_everything_is_taken_from_the_same_architecture(tmp_path, kind):
    source = drawn()
    folder = finished(tmp_path / 'earlier', source)
    where = {'run': folder}
    if kind == 'checkpoint':
        where = {'checkpoint': f'{folder}/checkpoints/ep1-ba8-rank0.pt'}
    elif kind == 'state dict':
        torch.save(source.model.state_dict(), tmp_path / 'weights.pt')
        where = {'checkpoint': str(tmp_path / 'weights.pt')}
    elif kind == 'safetensors':
        save_file(source.model.state_dict(), tmp_path / 'weights.safetensors')
        where = {'checkpoint': str(tmp_path / 'weights.safetensors')}
    assert not differing(classifier(**where), source)


def test_a_masked_language_model_gives_its_encoder(tmp_path, caplog):
    source = drawn('bert_masked_lm')
    with caplog.at_level(logging.INFO, 'composer_kd.recipes.start'):
        model = classifier(run=finished(tmp_path / 'earlier', source))
    shared = {name for name in model.state_dict() if name in source.state_dict()}
    assert set(model.state_dict()) - shared == HEAD | POOLER
    assert differing(model, source) == HEAD | POOLER | {n for n in source.state_dict() if n.startswith('model.cls.')}
    assert not differing(torch.nn.ModuleList([model.model.classifier]), torch.nn.ModuleList([classifier().model.classifier])), \
        'what is fresh is what the seed draws'
    (line,) = caplog.messages
    assert re.search(r'Starting from .*ep1-ba8-rank0.pt with [\d,]+ of [\d,]+ parameters \(9\d\.\d %\); only there: .*cls\.predictions', line)
    assert 'only here, or fresh: bert.pooler.dense.bias' in line.replace('model.', '')


def old_names(weights):
    """The names of the first BERTs, as their checkpoints on the hub still have them."""
    return {re.sub(r'LayerNorm\.bias$', 'LayerNorm.beta', re.sub(r'LayerNorm\.weight$', 'LayerNorm.gamma', name)): value
            for name, value in weights.items()}


@pytest.mark.parametrize('kind', [BertForMaskedLM, BertModel, BertForSequenceClassification])
@pytest.mark.parametrize('names', [dict, old_names])
def test_hugging_faces_own_checkpoints(tmp_path, kind, names):
    source = kind(drawn().config)
    torch.save(names(source.state_dict()), tmp_path / 'weights.pt')
    model = classifier(checkpoint=str(tmp_path / 'weights.pt'))
    encoder = source if kind is BertModel else source.bert
    expected = set() if kind is not BertForMaskedLM else {'pooler.dense.weight', 'pooler.dense.bias'}
    assert differing(model.model.bert, encoder) == expected
    if kind is BertForSequenceClassification:
        assert not differing(model.model, source)


@pytest.mark.parametrize('fresh', [['classifier'], ['model.classifier'], ['*classifier*'], ['classifier.weight', 'classifier.bias']])
def test_a_head_with_other_classes_is_fresh_where_asked_for(tmp_path, fresh):
    source = drawn(num_labels=3)
    folder = finished(tmp_path / 'earlier', source)
    assert differing(classifier(run=folder, fresh=fresh), source) == HEAD
    with pytest.raises(ValueError, match=r'^start_from.run: 2 of the weights in .* have another shape than the model has: '
                                         r'model.classifier.weight is \(3, 16\) there and \(2, 16\) here; .*fresh'):
        classifier(run=folder)


def test_what_fits_is_fresh_as_well_where_asked_for(tmp_path):
    source = drawn()
    model = classifier(run=finished(tmp_path / 'earlier', source), fresh=['bert.pooler', 'classifier'])
    assert differing(model, source) - {'model.bert.pooler.dense.bias', 'model.classifier.bias'} == {
        'model.bert.pooler.dense.weight', 'model.classifier.weight'}, 'biases are drawn as zeros'


def test_half_precision_and_buffers(tmp_path):
    torch.manual_seed(3)
    source = build_model({'name': 'digits_resnet', 'width': 4})
    for buffer in source.buffers():
        buffer += 2
    torch.save({'state': {'model': {f'module.{n}': v.half() if v.is_floating_point() else v for n, v in source.state_dict().items()}}},
               tmp_path / 'weights.pt')
    model = make_parts(parse_recipe(plain(start_from={'checkpoint': str(tmp_path / 'weights.pt')}))).model
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, source.state_dict()[name], atol=2e-3, rtol=1e-3)
        assert value.dtype == source.state_dict()[name].dtype


def broken(model):
    with torch.no_grad():
        model.model.bert.pooler.dense.weight[0, 0] = torch.nan
    return model


@pytest.mark.parametrize(('source', 'start_from', 'told'), [
    (lambda: drawn(), {'fresh': ['clasifier']}, r"^start_from.fresh\[0\]: 'clasifier' fits no parameter of the model"),
    (lambda: drawn(hidden_size=8), {}, r'^start_from.run: \d+ of the weights in .* another shape'),
    (lambda: drawn(vocab_size=41), {}, r'word_embeddings.weight is \(41, 16\) there and \(40, 16\) here'),
    (lambda: broken(drawn()), {}, r'^start_from.run: weights in .* are not finite \(model.bert.pooler.dense.weight\)'),
    (lambda: build_model('digits_resnet'), {}, r'^start_from.run: the model finds 0 of [\d,]+ parameters \(0.0 %\)'),
    (lambda: drawn(num_hidden_layers=1), {'fresh': ['bert.embeddings']}, r'^start_from.run: the model finds .* less than half'),
])
def test_what_does_not_fit(tmp_path, source, start_from, told):
    with pytest.raises(ValueError, match=told) as caught:
        classifier(run=finished(tmp_path / 'earlier', source()), **start_from)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize(('start_from', 'kind', 'told'), [
    ({}, ValueError, 'start_from: expected run or checkpoint, got neither'),
    ({'run': 'a', 'checkpoint': 'b'}, ValueError, 'start_from: expected run or checkpoint, got both'),
    ({'runn': 'a'}, ValueError, "start_from: unknown key 'runn'. Did you mean 'run'"),
    ({'run': 'a', 'fresh': 'head'}, ValueError, 'start_from.fresh: expected a list, got str'),
    ({'run': 'no/such'}, FileNotFoundError, "^start_from.run: There is no run folder 'no/such'"),
    ({'checkpoint': 'no/such.pt'}, FileNotFoundError, '^start_from.checkpoint: There is no checkpoint at no/such.pt'),
    ({'run': 'runs/tiny'}, ValueError, "^start_from.run: 'runs/tiny' is the folder this run itself is written to"),
])
def test_what_a_recipe_has_wrong(start_from, kind, told):
    with pytest.raises(kind, match=told):
        make_parts(parse_recipe(plain(start_from=start_from)))


def test_a_file_that_is_no_checkpoint(tmp_path):
    (tmp_path / 'a.pt').write_bytes(b'nothing')
    with pytest.raises(ValueError, match=r'^start_from.checkpoint: .*a.pt .* is no checkpoint'):
        classifier(checkpoint=str(tmp_path / 'a.pt'))


def test_another_vocabulary_is_refused(tmp_path, caplog):
    ours = tokenizer_folder(tmp_path / 'ours')
    theirs = tokenizer_folder(tmp_path / 'theirs', words=('dog', 'cat', 'the', 'a', 'sat', 'ran'))
    same = tokenizer_folder(tmp_path / 'same')
    for name, tokenizer in (('other', theirs), ('same', same), ('gone', tmp_path / 'gone')):
        finished(tmp_path / f'run-{name}', drawn(), {'name': 'bert_masked_lm', **SMALL, 'tokenizer': str(tokenizer)})
    model = {'tokenizer': str(ours)}
    with pytest.raises(ValueError, match=r"^start_from.run: the run in '.*run-other' was made with the tokenizer '.*theirs', "
                                         'which numbers words otherwise'):
        classifier(run=str(tmp_path / 'run-other'), model=model)
    assert not differing(classifier(run=str(tmp_path / 'run-same'), model=model), drawn())
    assert not differing(classifier(run=str(tmp_path / 'run-gone'), model=model), drawn())
    assert any('is gone' in message for message in caplog.messages)


def test_it_is_part_of_the_digest():
    digests = {recipe_digest(parse_recipe(plain(**changes)).plain()) for changes in (
        {}, {'start_from': {'run': 'a'}}, {'start_from': {'run': 'b'}}, {'start_from': {'run': 'a', 'fresh': ['head']}})}
    assert len(digests) == 4


@pytest.fixture
def pretrained(tmp_path):
    recipe = parse_recipe(plain(run_folder=str(tmp_path / 'earlier'), max_duration='1ep', evaluators={}))
    return train(recipe).path


def test_training_begins_where_the_other_ended(tmp_path, pretrained):
    changes = {'max_duration': '1ba', 'scheduler': None, 'evaluators': {}, 'start_from': {'run': str(pretrained)},
               'optimizer': {'name': 'decoupled_sgdw', 'lr': 0.0}}
    folder = train(parse_recipe(plain(run_folder=str(tmp_path / 'later'), **changes)))
    earlier, later = model_of_run(str(pretrained)), model_of_run(str(folder.path))
    parameters = dict(later.named_parameters())
    assert parameters
    assert all(torch.equal(value, parameters[name]) for name, value in earlier.named_parameters())
    pretrained.rename(tmp_path / 'gone')
    assert not differing(later, model_of_run(str(folder.path))), 'as a teacher it does not need where it started from'


def test_validate_looks_at_it(tmp_path, pretrained):
    recipe = tmp_path / 'tiny.yaml'
    recipe.write_text(yaml.safe_dump(plain(run_folder=str(tmp_path / 'later'), start_from={'run': str(pretrained)})))
    result = CliRunner().invoke(main, ['validate', str(recipe)])
    assert result.exit_code == 0, result.output
    result = CliRunner().invoke(main, ['validate', str(recipe), 'model.num_classes=12'])
    assert result.exit_code == 1
    assert result.output.startswith('error: start_from.run: 2 of the weights')


@pytest.mark.distributed
def test_two_ranks_start_from_it(tmp_path, pretrained):
    recipe = tmp_path / 'tiny.yaml'
    recipe.write_text(yaml.safe_dump(plain(
        run_folder=str(tmp_path / 'later'), start_from={'run': str(pretrained)}, max_duration='1ba', evaluators={}, scheduler=None,
        optimizer={'name': 'decoupled_sgdw', 'lr': 0.0})))
    done = subprocess.run(
        [sys.executable, '-m', 'composer.cli.launcher', '-n', '2', 'scripts/train.py', str(recipe)], cwd=ROOT,
        env={**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    earlier, later = model_of_run(str(pretrained)), dict(model_of_run(str(tmp_path / 'later')).named_parameters())
    assert all(torch.equal(value, later[name]) for name, value in earlier.named_parameters())


def test_a_run_that_algorithms_rewrote_would_leave_holes_and_is_refused(tmp_path):
    said = plain(run_folder=str(tmp_path / 'blurred'), model={'name': 'digits_resnet', 'width': 8}, max_duration='2ba',
                 algorithms={'blurpool': {'min_channels': 4}})
    train(parse_recipe(said))
    again = plain(run_folder=str(tmp_path / 'next'), model={'name': 'digits_resnet', 'width': 8}, start_from={'run': str(tmp_path / 'blurred')})
    with pytest.raises(ValueError, match=r'start_from\.run: \d+ parameters in the middle of the model are not in .*blurpool'):
        make_parts(parse_recipe(again))


def test_an_unfinished_run_is_told_of(tmp_path):
    train(parse_recipe(plain(run_folder=str(tmp_path / 'a'), max_duration='2ba')))
    record = tmp_path / 'a' / 'record.json'
    record.write_text(record.read_text().replace('"finished"', '"unfinished"'))
    with pytest.warns(UserWarning, match='did not finish; its latest checkpoint is taken'):
        make_parts(parse_recipe(plain(run_folder=str(tmp_path / 'b'), start_from={'run': str(tmp_path / 'a')})))


def test_a_run_that_goes_on_needs_its_beginning_no_more(tmp_path):
    train(parse_recipe(plain(run_folder=str(tmp_path / 'a'), max_duration='2ba')))
    said = plain(run_folder=str(tmp_path / 'b'), max_duration='2ba', start_from={'run': str(tmp_path / 'a')})
    train(parse_recipe(said))
    shutil.rmtree(tmp_path / 'a')
    make_parts(parse_recipe(said))
