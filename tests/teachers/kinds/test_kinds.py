import json
import pickle
import re
import warnings
import zipfile

import pytest
import timm
import torch
from composer.models import HuggingFaceModel
from torch import nn

from composer_kd import Distillation
from composer_kd.teachers import TEACHERS, Kind, build_teachers, look_at_teachers, parse_teachers
from composer_kd.teachers.kinds.scan import refuse_code
from tests.common import trainer, weights
from tests.teachers.bombs import Bomb
from tests.teachers.kinds import made


def one(entry, student=None):
    return build_teachers(parse_teachers(entry), student or made.student())[0]


def fit(kd, model, **kwargs):
    images, labels = made.batch(16)
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, labels), batch_size=8)
    run = trainer([kd], model=model, data=data, max_duration='2ba', **kwargs)
    run.fit()
    return run


# timm

def test_timm_gives_its_own_architecture_and_normalisation():
    teacher = one({'timm': 'resnet10t', 'pretrained': False, 'num_classes': 4})
    assert teacher.origin == 'timm:resnet10t'
    assert teacher.module.traits.mean == (0.485, 0.456, 0.406)
    assert teacher.outputs(made.batch(2, 32)).shape == (2, 4)


def test_timm_weights_of_a_file(tmp_path):
    model = timm.create_model('resnet10t', num_classes=4).eval()
    torch.save(model.state_dict(), tmp_path / 'w.pt')
    teacher = one({'timm': 'resnet10t', 'pretrained': str(tmp_path / 'w.pt'), 'num_classes': 4})
    images = made.batch(2, 32)
    assert torch.equal(teacher.outputs(images), model(images[0]).detach())


@pytest.mark.parametrize(('entry', 'error', 'told'), [
    ({'timm': 'resnet10'}, ValueError, r"teachers\[0\]\.timm: unknown model 'resnet10'\. Did you mean 'resnet1"),
    ({'timm': 'resnet18.a1_in1'}, ValueError, r"unknown weights 'a1_in1' of resnet18\. Did you mean 'a1_in1k'"),
    ({'timm': 'resnet18', 'pretrained': 'no/such.pt'}, FileNotFoundError, r"pretrained: there is nothing at 'no/such"),
    ({'timm': 'resnet18', 'pretrained': 3}, TypeError, 'expected true, false or the path'),
    ({'timm': 'resnet18', 'num_classes': 0}, ValueError, 'num_classes: expected a whole number of 1'),
    ({'timm': 'resnet18', 'pretrain': True}, ValueError, "unknown key 'pretrain'. Did you mean 'pretrained'"),
    ({'timm': 'resnet18', 'run': 'x'}, ValueError, 'got timm and run'),
    ({'tim': 'resnet18'}, ValueError, "unknown key 'tim'. Did you mean 'timm'"),
    ({'hf': 'no/such/folder'}, FileNotFoundError, "there is no folder 'no/such/folder'"),
    ({'hf': 'x', 'task': 'maskedlm'}, ValueError, "got 'maskedlm'. Did you mean 'masked_lm'"),
    ({'hf': 'x', 'dtype': 'bf16'}, ValueError, "dtype: expected one of auto, float32, bfloat16, float16, got 'bf16'"),
    ({'hf': 'x', 'safetensors': 'no'}, TypeError, 'safetensors: expected true or false'),
    ({'hf': 'x', 'revision': 3}, TypeError, 'revision: expected a string'),
    ({'onnx': 'no/such.onnx'}, FileNotFoundError, r"teachers\[0\]\.onnx: there is no file 'no/such\.onnx'"),
    ({'exported': 'no/such.pt2'}, FileNotFoundError, r"teachers\[0\]\.exported: there is no file 'no/such\.pt2'"),
    ({'onnx': ''}, ValueError, 'onnx: expected a path or URI'),
    ({'checkpoint': 'x', 'prefix': ''}, ValueError, 'prefix: expected the start'),
    ({'module': nn.Identity(), 'classes': 'macth'}, ValueError, "got 'macth'. Did you mean 'match'"),
    ({'module': nn.Identity(), 'vocabulary': 'share'}, ValueError, "got 'share'. Did you mean 'shared'"),
    ({'module': nn.Identity(), 'resolution': 0}, ValueError, r"resolution: expected a number of pixels of 1 or more, or"),
    ({'module': nn.Identity(), 'normalize': 'imagenet'}, ValueError, "normalize: expected 'auto' or 'none'"),
    ({'module': nn.Identity(), 'normalize': {'mean': [0.5]}}, ValueError, 'normalize: expected {mean'),
    ({'module': nn.Identity(), 'normalize': {'mean': [0.5], 'std': [0]}}, ValueError, 'above 0; std is'),
])
def test_bad_input_is_told_before_anything_is_loaded(entry, error, told):
    with pytest.raises(error, match=told):
        Distillation(entry)


def test_a_teacher_of_another_number_of_classes_is_refused_before_it_is_made():
    with pytest.raises(ValueError, match='has 7 outputs and the student 4'):
        one({'timm': 'resnet10t', 'pretrained': False, 'num_classes': 7})
    specs = parse_teachers({'timm': 'resnet18', 'num_classes': 7})
    with pytest.raises(ValueError, match='has 7 outputs'):
        look_at_teachers(specs, made.student())


# Hugging Face

def test_hugging_face_images(tmp_path):
    model = made.vit(tmp_path)
    student = made.student(mean=(0.5,) * 3, std=(0.25,) * 3, classes=made.NAMES)
    teacher = one({'hf': str(tmp_path)}, student)
    assert teacher.alignment.nothing, 'normalised alike, and the same classes: no operation in the step'
    images = made.batch()
    assert torch.equal(teacher.outputs(images), model(images[0]).logits.detach())
    run = fit(Distillation({'hf': str(tmp_path)}, check_batches=0), student)
    assert 'distillation' not in ' '.join(weights(run))


def test_hugging_face_texts_of_any_dtype(tmp_path):
    model = made.bert(tmp_path / 'a')
    made.tokenizer(tmp_path / 'a')
    student = HuggingFaceModel(made.bert(tmp_path / 'b', seed=8), use_logits=True)
    words = {'input_ids': torch.arange(8).reshape(2, 4), 'labels': torch.arange(8).reshape(2, 4), 'masked_positions': 3}
    teacher = one({'hf': str(tmp_path / 'a')}, student)
    assert re.fullmatch('[0-9a-f]{64}', teacher.vocabulary)
    assert torch.equal(teacher.outputs(words), model(words['input_ids']).logits.detach())
    short = one({'hf': str(tmp_path / 'a'), 'dtype': 'bfloat16'}, student)
    assert short.outputs(words).dtype is torch.bfloat16
    assert one({'hf': str(tmp_path), 'subfolder': 'a', 'task': 'masked_lm'}, student).digest == teacher.digest
    causal = HuggingFaceModel(made.gpt2(tmp_path / 'c'), use_logits=True)
    assert one({'hf': str(tmp_path / 'c')}, causal).outputs(words).shape == (2, 4, 20)


def test_hugging_face_weights_are_safetensors_unless_it_is_said(tmp_path):
    made.bert(tmp_path, safe_serialization=False)
    student = HuggingFaceModel(made.bert(tmp_path / 'b'), use_logits=True)
    with pytest.raises(FileNotFoundError, match='no weights in safetensors.*set safetensors: false'):
        one({'hf': str(tmp_path)}, student)
    assert one({'hf': str(tmp_path), 'safetensors': False}, student).outputs({'input_ids': torch.ones(1, 2).long()}).shape == (1, 2, 20)
    mark = tmp_path / 'mark'
    (tmp_path / 'pytorch_model.bin').write_bytes(pickle.dumps(Bomb(mark)))
    with pytest.raises(ValueError, match=r'hf: '):
        one({'hf': str(tmp_path), 'safetensors': False}, student)
    torch.save({'cls.predictions.bias': Bomb(mark)}, tmp_path / 'pytorch_model.bin')
    with pytest.raises(ValueError, match='hold more than tensors'):
        one({'hf': str(tmp_path), 'safetensors': False}, student)
    assert not mark.exists()


def test_hugging_face_weights_that_are_not_all_there(tmp_path):
    made.bert(tmp_path)
    student = HuggingFaceModel(made.gpt2(tmp_path / 'b'), use_logits=True)
    with pytest.raises(ValueError, match='lacks .* of the weights of'):
        one({'hf': str(tmp_path), 'task': 'classification'}, student)
    config = json.loads((tmp_path / 'config.json').read_text())
    (tmp_path / 'config.json').write_text(json.dumps({**config, 'architectures': ['BertModel']}))
    with pytest.raises(ValueError, match='names BertModel, from which its task cannot be told'):
        one({'hf': str(tmp_path)}, student)


# programs

@pytest.mark.parametrize('kind', ['onnx', 'exported'])
def test_programs_answer_as_their_model(kind, tmp_path):
    model, file = made.Pictures().eval(), tmp_path / 'model'
    getattr(made, kind)(file, model)
    teacher = one({kind: str(file)})
    assert teacher.opaque
    for samples in (4, 3):
        images = made.batch(samples)
        torch.testing.assert_close(teacher.outputs(images), model(images[0]).detach(), rtol=1e-5, atol=1e-6)
    getattr(made, kind)(tmp_path / 'other', made.Pictures(seed=1))
    assert one({kind: str(tmp_path / 'other')}).digest != teacher.digest == one({kind: str(file)}).digest
    run = fit(Distillation({kind: str(file)}, check_batches=0), made.student())
    same = fit(Distillation(model, prepare='none', check_batches=0), made.student())
    for name, value in weights(run).items():
        torch.testing.assert_close(value, weights(same)[name], rtol=1e-4, atol=1e-5)


def test_programs_are_not_changed(tmp_path):
    made.exported(tmp_path / 'm.pt2', made.Pictures())
    entry = {'exported': str(tmp_path / 'm.pt2')}
    with pytest.raises(ValueError, match=r'prepare\.compile: this teacher is a program'):
        one({**entry, 'prepare': {'compile': True}})
    with pytest.raises(ValueError, match="is a program, whose layers cannot be brought one by one from the 'host'"):
        fit(Distillation(entry, placement='host'), made.student())
    with pytest.raises(ValueError, match="cannot be 'sharded', as it is a program"):
        fit(Distillation(entry, placement='sharded'), made.student())


def test_an_onnx_file_that_is_none_and_flops_that_are_not_known(tmp_path):
    (tmp_path / 'x.onnx').write_bytes(b'nothing')
    with pytest.raises(ValueError, match='onnxruntime cannot read'):
        one({'onnx': str(tmp_path / 'x.onnx')})
    made.onnx(tmp_path / 'x.onnx', made.Pictures())
    with pytest.raises(RuntimeError, match='cannot be counted'):
        one({'onnx': str(tmp_path / 'x.onnx')}).flops(made.batch())


def rewritten(file, change):
    parts = {}
    with zipfile.ZipFile(file) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, 'w') as archive:
        for name, value in parts.items():
            archive.writestr(name, change(value.decode()).encode() if name.endswith('.json') else value)


@pytest.mark.parametrize(('before', 'after', 'told'), [
    ('torch.ops.aten.relu.default', 'torch.os.system', r'asks for torch\.os\.system'),
    ('torch.ops.aten.relu.default', 'torch.ops.aten.from_file.default', 'asks for torch.ops.aten.from_file'),
    ('torch.ops.aten.relu.default', 'torch.ops.aten.relu.__class__', 'asks for torch.ops.aten.relu.__class__'),
    ('torch.ops.aten.relu.default', 'torchX.hub.load', 'asks for torchX.hub.load'),
    ('"expr_str": "s0"', '"expr_str": "__import__(\'os\').mkdir(\'mark\')"', 'its sizes are'),
    ('"expr_str": "s0"', '"expr_str": "exit()"', 'its sizes are'),
])
def test_programs_that_could_run_code_are_refused(before, after, told, tmp_path):
    file = tmp_path / 'm.pt2'
    made.exported(file, made.Pictures())
    seen = []

    def change(text):
        text = re.sub(r'"expr_str": "[^"]*"', '"expr_str": "s0"', text)
        seen.append(before in text)
        return text.replace(before, after)

    rewritten(file, change)
    assert any(seen)
    with pytest.raises(ValueError, match=f'holds more than a program on tensors .*{told}'):
        one({'exported': str(file)})


def test_programs_whose_weights_are_a_pickle_are_refused(tmp_path):
    file, mark = tmp_path / 'm.pt2', tmp_path / 'mark'
    made.exported(file, made.Pictures())
    torch.save({'body.weight': Bomb(mark)}, tmp_path / 'bomb.pt')
    parts = {}
    with zipfile.ZipFile(file) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, 'w') as archive:
        for name, value in parts.items():
            archive.writestr(name, (tmp_path / 'bomb.pt').read_bytes() if 'state_dict' in name else value)
    with pytest.raises(ValueError, match='holds more than a program'):
        one({'exported': str(file)})
    assert not mark.exists()


def test_torchscript_is_told_apart(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / 'm.pt'))
    with pytest.raises(ValueError, match='It is TorchScript'):
        one({'exported': str(tmp_path / 'm.pt')})
    (tmp_path / 'x.pt2').write_bytes(b'PK')
    with pytest.raises(ValueError, match='no archive'):
        refuse_code(tmp_path / 'x.pt2')


# checkpoints of others

@pytest.mark.parametrize('prefix', [None, 'net.teacher.'])
def test_weights_among_others(prefix, tmp_path, caplog):
    model = made.Pictures(seed=3)
    others = {'criterion.weight': torch.zeros(2), 'net.epoch': torch.zeros(1)}
    torch.save({f'net.teacher.{k}': v for k, v in model.state_dict().items()} | others, tmp_path / 'w.pt')
    entry = {'checkpoint': str(tmp_path / 'w.pt'), **({'prefix': prefix} if prefix else {})}
    assert torch.equal(one(entry).outputs(made.batch()), model(made.batch()[0]).detach())
    assert ("under 'net.teacher.' are taken" in caplog.text) is (prefix is None)


def test_several_models_in_one_checkpoint_are_told_apart_by_name(tmp_path):
    state = made.Pictures().state_dict()
    torch.save({f'{side}.{k}': v for side in ('online', 'target') for k, v in state.items()}, tmp_path / 'w.pt')
    with pytest.raises(ValueError, match=r"several models that fit.*'online\.', 'target\.'.*prefix: NAME"):
        one({'checkpoint': str(tmp_path / 'w.pt')})
    assert one({'checkpoint': str(tmp_path / 'w.pt'), 'prefix': 'target.'}).name == 'teacher0'
    with pytest.raises(ValueError, match=r"no name in .* begins with 'targt\.'; they begin with online\., target\."):
        one({'checkpoint': str(tmp_path / 'w.pt'), 'prefix': 'targt.'})


# a user's own

def test_a_kind_of_ones_own():
    @TEACHERS.register('linear_of_tests')
    def linear(source, width: int = 2, *, where, student):
        assert student is not None
        assert where == "teachers[0] ('teacher0')"
        return made.Pictures(width, int(source))

    try:
        teacher = one({'linear_of_tests': 7, 'width': 4})
        assert torch.equal(teacher.outputs(made.batch()), made.Pictures(4, 7)(made.batch()[0]).detach())
        with pytest.raises(ValueError, match="unknown key 'widht'. Did you mean 'width'"):
            parse_teachers({'linear_of_tests': 7, 'widht': 4})
        TEACHERS.register('broken_of_tests')(lambda source: 3)
        with pytest.raises(ValueError, match='has to return an nn.Module, it returned int'):
            one({'broken_of_tests': 'x'})
        TEACHERS.register('weight')(Kind(linear))
        with pytest.raises(ValueError, match="registered as 'weight', which is a setting"):
            parse_teachers({'module': nn.Identity()})
    finally:
        for name in ('linear_of_tests', 'broken_of_tests', 'weight'):
            TEACHERS._items.pop(name, None)


def test_conditions_of_newer_programs_are_looked_at_too(tmp_path):
    def archive(text):
        with zipfile.ZipFile(tmp_path / 'm.pt2', 'w') as file:
            file.writestr('models/model.json', json.dumps({'guards_code': [text]}))
        return tmp_path / 'm.pt2'

    refuse_code(archive("L['args'][0].size()[0] <= 64 and 2 <= L['images'].size()[0]"))
    with pytest.raises(pickle.UnpicklingError, match='its sizes are'):
        refuse_code(archive("__import__('os').system('true')"))
    with pytest.raises(pickle.UnpicklingError, match='its sizes are'):
        refuse_code(archive("L['args'][0].__class__"))
