import pytest
import torch
from composer.core import DataSpec
from composer.models import ComposerClassifier, HuggingFaceModel

from composer_kd import Distillation
from composer_kd.models import Traits, traits_of
from composer_kd.models.traits import class_names
from composer_kd.recipes.fits import tell_traits
from composer_kd.recipes.tasks.sees import CIFAR_CLASSES, traits_of_data
from composer_kd.teachers import build_teachers, parse_teachers
from composer_kd.teachers.words import shared_by
from tests.answers.training import train
from tests.common import classifier, trainer, weights
from tests.teachers.kinds import made

OWN = {'mean': (0.4, 0.5, 0.6), 'std': (0.2, 0.25, 0.5)}
THEIRS = {'mean': [0.5, 0.5, 0.1], 'std': [0.1, 0.5, 0.5]}


def one(entry, student):
    return build_teachers(parse_teachers(entry), student)[0]


def pixels(samples=4, side=16):
    return torch.rand(samples, 3, side, side, generator=torch.Generator().manual_seed(1))


def normalised(images, mean, std):
    return (images - torch.tensor(mean).reshape(1, 3, 1, 1)) / torch.tensor(std).reshape(1, 3, 1, 1)


# normalisation and resolution

def test_a_teacher_sees_images_normalised_as_it_was_trained():
    images, labels = pixels(), torch.zeros(4).long()
    given = normalised(images, **OWN), labels
    model = made.Pictures().eval()
    teacher = one({'module': model, 'normalize': THEIRS}, made.student(**OWN))
    before = given[0].clone()
    torch.testing.assert_close(teacher.outputs(given), model(normalised(images, **THEIRS)).detach())
    assert torch.equal(given[0], before), "the student's images are its own"
    as_they_are = one({'module': model, 'normalize': 'none'}, made.student(**OWN))
    assert torch.equal(as_they_are.outputs(given), model(given[0]).detach())
    same = one({'module': model, 'normalize': {key: list(value) for key, value in OWN.items()}}, made.student(**OWN))
    assert same.alignment.nothing
    assert same.alignment.inputs(given) is given, 'no operation in the step'
    assert same.digest == as_they_are.digest != teacher.digest


def test_auto_takes_what_the_teacher_says_of_itself(tmp_path, caplog):
    model = made.vit(tmp_path, mean=THEIRS['mean'], std=THEIRS['std'])
    images = pixels()
    teacher = one({'hf': str(tmp_path)}, made.student(**OWN))
    expected = model(normalised(images, **THEIRS)).logits.detach()
    torch.testing.assert_close(teacher.outputs((normalised(images, **OWN), None)), expected)
    assert 'is not known' not in caplog.text
    one({'hf': str(tmp_path)}, made.student())
    assert caplog.text.count('is not known') == 1
    assert 'normalize: none' in caplog.text


def test_what_is_asked_for_and_not_known_is_refused():
    with pytest.raises(ValueError, match="and how the student's are is not known. Say it of the student: model.traits"):
        one({'module': made.Pictures(), 'normalize': THEIRS}, made.student())
    with pytest.raises(ValueError, match='trained on images of 1 channels, and the student gets 3'):
        one({'module': made.Pictures(), 'normalize': {'mean': [0.5], 'std': [0.5]}}, made.student(**OWN))
    with pytest.raises(ValueError, match="resolution: 'auto', and the teacher does not say"):
        one({'module': made.Pictures(), 'resolution': 'auto'}, made.student())
    with pytest.raises(ValueError, match=r'resolution: 8 says .* and prepare\.resolution: 4'):
        one({'module': made.Pictures(), 'resolution': 8, 'prepare': {'resolution': 4}}, made.student())
    teacher = one({'module': made.Pictures(), 'resolution': 8}, made.student())
    with pytest.raises(ValueError, match='are to be normalised or resized, and its batches hold none'):
        teacher.outputs({'input_ids': torch.zeros(2, 3).long()})


@pytest.mark.parametrize('side', [8, 32])
def test_images_are_brought_to_the_resolution_of_the_teacher(side):
    seen = []

    class Sees(made.Pictures):
        def forward(self, images):
            seen.append(tuple(images.shape[-2:]))
            return super().forward(images)

    teacher = one({'module': Sees(), 'resolution': side}, made.student())
    teacher.outputs((torch.zeros(2, 3, 16, 24), None))
    assert seen == [(side, side * 3 // 2)]
    assert one({'module': made.Pictures(), 'resolution': side}, made.student()).digest != one(made.Pictures(), made.student()).digest


def test_auto_resolution(tmp_path):
    made.vit(tmp_path)
    student = made.student(mean=(0.5,) * 3, std=(0.25,) * 3, resolution=32)
    teacher = one({'hf': str(tmp_path), 'resolution': 'auto'}, student)
    assert teacher.outputs((torch.zeros(2, 3, 32, 32), None)).shape == (2, 4)
    student.traits = Traits(mean=(0.5,) * 3, std=(0.25,) * 3, resolution=16)
    assert one({'hf': str(tmp_path), 'resolution': 'auto'}, student).alignment.nothing


# classes

def test_classes_are_put_in_the_students_order_by_name(tmp_path):
    names = ('Ox', 'cat', 'horse', 'DOG')
    model = made.vit(tmp_path, names=names)
    student = made.student(classes=made.NAMES, mean=(0.5,) * 3, std=(0.25,) * 3)
    teacher, images = one({'hf': str(tmp_path)}, student), made.batch()
    assert torch.equal(teacher.outputs(images), model(images[0]).logits.detach()[:, [1, 3, 2, 0]])
    left = one({'hf': str(tmp_path), 'classes': 'ignore'}, student)
    assert torch.equal(left.outputs(images), model(images[0]).logits.detach())
    assert left.digest != teacher.digest


def test_other_classes_are_refused_with_the_nearest_names(tmp_path):
    made.vit(tmp_path, names=('cat', 'dogs', 'horse', 'ox'))
    student = made.student(classes=made.NAMES)
    with pytest.raises(ValueError, match=r"'dog' is not among them\. Did you mean 'dogs'\?.*classes: ignore"):
        one({'hf': str(tmp_path)}, student)
    one({'hf': str(tmp_path), 'classes': 'ignore'}, student)


def test_what_is_known_of_models_and_data(tmp_path):
    assert class_names(['LABEL_0', 'LABEL_1']) is None
    assert len(set(CIFAR_CLASSES[100].split())) == 100
    assert list(CIFAR_CLASSES[100].split()) == sorted(CIFAR_CLASSES[100].split())
    assert traits_of_data({'name': 'cifar', 'classes': 10}).mean == (0.4914, 0.4822, 0.4465)
    assert traits_of_data({'name': 'glue', 'task': 'mnli'}).classes == ('entailment', 'neutral', 'contradiction')
    for name in ('fish', 'bird'):
        (tmp_path / 'train' / name).mkdir(parents=True)
    assert traits_of_data({'name': 'imagenet', 'path': str(tmp_path)}).classes == ('bird', 'fish')
    assert traits_of_data({'name': 'nobody knows'}) == Traits()
    assert traits_of(made.vit(tmp_path)).classes == made.NAMES
    data = torch.utils.data.TensorDataset(torch.zeros(2))
    data.traits = Traits(classes=('a', 'b'))
    student = made.student()
    tell_traits(student, DataSpec(torch.utils.data.DataLoader(data)))
    assert traits_of(student).classes == ('a', 'b')


# vocabularies

def words(vocab, seed, folder):
    return HuggingFaceModel(made.bert(folder, vocab, seed), use_logits=True)


def text(samples=4):
    ids = torch.arange(samples * 4).reshape(samples, 4) % 16
    return [{'input_ids': row, 'attention_mask': torch.ones(4).long(), 'labels': row} for row in ids]


def taught(tmp_path, own, theirs, number, **settings):
    student = words(own, 1, tmp_path / f's{number}')
    made.bert(tmp_path / f't{number}', theirs, 2)
    kd = Distillation(
        {'hf': str(tmp_path / f't{number}'), 'vocabulary': 'shared'}, check_batches=0, kd_loss_weight=1.0,
        base_loss_weight=0.0, **settings,
    )
    run = trainer([kd], model=student, data=torch.utils.data.DataLoader(text(), batch_size=4), max_duration='1ba')
    run.fit()
    return run, kd


@pytest.mark.parametrize(('own', 'theirs'), [(20, 24), (24, 20)])
def test_padded_vocabularies_are_cut_to_the_part_that_both_have(own, theirs, tmp_path):
    seen = []

    def loss(student, teacher):
        seen.append((student.shape[-1], teacher.shape[-1]))
        return torch.nn.functional.kl_div(student.log_softmax(-1), teacher.log_softmax(-1), log_target=True, reduction='batchmean')

    taught(tmp_path, own, theirs, 0, loss=loss)
    assert seen == [(20, 20)]
    student = words(own, 1, tmp_path / 'x')
    with pytest.raises(ValueError, match=f'has {theirs} outputs and the student {own}'):
        one({'hf': str(tmp_path / 't0')}, student)


def test_another_tokenizer_is_refused_though_the_size_is_shared(tmp_path):
    made.bert(tmp_path / 't', 24)
    made.tokenizer(tmp_path / 't')
    student = words(20, 1, tmp_path / 's')
    made.tokenizer(tmp_path / 'o', first='other')
    from composer_kd.models import load_tokenizer, vocabulary_digest
    student.vocabulary = vocabulary_digest(load_tokenizer(str(tmp_path / 'o')))
    entry = {'hf': str(tmp_path / 't'), 'vocabulary': 'shared'}
    with pytest.raises(ValueError, match='has another vocabulary than the student'):
        one(entry, student)
    student.vocabulary = vocabulary_digest(load_tokenizer(str(tmp_path / 't')))
    assert one(entry, student).shared == 20


def test_several_teachers_are_cut_to_the_shortest(tmp_path):
    student = words(24, 1, tmp_path / 's')
    made.bert(tmp_path / 'a', 22)
    made.bert(tmp_path / 'b', 24)
    teachers = build_teachers(parse_teachers(
        [{'hf': str(tmp_path / 'a'), 'vocabulary': 'shared'}, {'hf': str(tmp_path / 'b')}],
    ), student)
    assert shared_by(teachers) == 22
    with pytest.raises(ValueError, match="vocabulary: 'shared', and how many logits the teacher gives is not known"):
        one({'module': torch.nn.Identity(), 'vocabulary': 'shared'}, student)


def test_training_with_microbatches_is_the_same_on_a_shared_vocabulary(tmp_path):
    whole, _ = taught(tmp_path, 24, 20, 0)
    student = words(24, 1, tmp_path / 'p')
    kd = Distillation({'hf': str(tmp_path / 't0'), 'vocabulary': 'shared'}, check_batches=0, kd_loss_weight=1.0, base_loss_weight=0.0)
    parts = trainer(
        [kd], model=student, data=torch.utils.data.DataLoader(text(), batch_size=4), max_duration='1ba',
        device_train_microbatch_size=2,
    )
    parts.fit()
    for name, value in weights(whole).items():
        torch.testing.assert_close(value, weights(parts)[name])


def test_plain_students_need_no_traits():
    model = ComposerClassifier(made.Pictures(), num_classes=4)
    assert one(made.Pictures(), model).alignment.nothing


def test_dense_stored_answers_of_a_longer_vocabulary_are_cut_too(tmp_path):
    settings = {'check_batches': 0, 'prepare': 'none', 'kd_loss_weight': 1.0}
    dense = {'name': 'dense', 'dtype': 'float32'}

    def teacher():
        return {'module': classifier(3, 12)}

    def taught(entry, classes=10):
        return train(entry, '1ep', model=classifier(0, classes), **settings)

    def same(one, other):
        for name, value in weights(one).items():
            assert torch.equal(value, weights(other)[name])

    live = taught({**teacher(), 'vocabulary': 'shared'})
    cache = {'path': str(tmp_path / 'cut'), 'fill': True, 'format': dense}
    same(live, taught({**teacher(), 'vocabulary': 'shared', 'cache': cache}))
    same(live, taught({'cache': cache['path'], 'vocabulary': 'shared'}))
    # of all twelve, stored by another training
    whole = {'path': str(tmp_path / 'whole'), 'fill': True, 'format': dense}
    taught({**teacher(), 'cache': whole}, 12)
    same(live, taught({'cache': whole['path'], 'vocabulary': 'shared'}))
    with pytest.raises(ValueError, match='are over 12 classes, and the student has 10'):
        taught({'cache': whole['path']})
    few = {'path': str(tmp_path / 'few'), 'fill': True, 'format': {'name': 'top_k', 'k': 2, 'temperature': 1.0}}
    taught({**teacher(), 'cache': few}, 12)
    with pytest.raises(ValueError, match="vocabulary: 'shared' cuts the answers to 10 of 12 words, and those stored as"):
        taught({'cache': few['path'], 'vocabulary': 'shared'})
