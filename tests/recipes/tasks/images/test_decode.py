from io import BytesIO

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as F
from PIL import Image

from composer_kd.recipes.tasks.images.decode import decode
from composer_kd.recipes.tasks.images.transforms import EvaluationView, random_box, shorter_side
from tests.recipes.tasks.images.pictures import as_bytes, photographs


def whole(size):
    return lambda height, width: ((0, 0, height, width), size)


def part(box, size):
    return lambda height, width: (box, size)


def classic(data, box, size):
    top, left, height, width = box
    return F.pil_to_tensor(F.resized_crop(Image.open(BytesIO(data)).convert('RGB'), top, left, height, width, list(size)))


def difference(one, other):
    assert one.shape == other.shape
    return float((one.int() - other.int()).abs().float().mean())


def boxes(count=20, shape=(427, 640)):
    random = np.random.default_rng(0)
    return [random_box(random, *shape) for _ in range(count)]


def test_pil_is_torchvisions_classic_pipeline_exactly():
    data = as_bytes(photographs()[0])
    for box in boxes():
        assert torch.equal(decode(data, part(box, (176, 176)), 'pil'), classic(data, box, (176, 176)))


@pytest.mark.parametrize('quality', [75, 97])
@pytest.mark.parametrize('picture', [0, 1])
def test_fast_agrees_with_pil_but_for_rounding_where_nothing_is_decoded_smaller(picture, quality):
    file = BytesIO()
    photographs()[picture].save(file, 'JPEG', quality=quality)
    found = [difference(decode(file.getvalue(), part(box, (224, 224))), classic(file.getvalue(), box, (224, 224)))
             for box in boxes() if min(box[2:]) < 448]
    assert np.mean(found) < 0.02
    assert max(found) < 0.05


@pytest.mark.parametrize('shrink', [2, 4, 8])
def test_a_large_part_is_decoded_smaller_and_still_close_to_the_exact_pipeline(shrink, monkeypatch):
    # As cameras give them: 2560x1708 pixels.
    picture = photographs()[0].resize((2560, 1708), Image.Resampling.LANCZOS)
    # Edges on whole pixels of the smaller picture, so that nothing but the way of making it smaller differs.
    data, size, box = as_bytes(picture), (1696 // shrink, 1704 // shrink), (8, 96, 1696, 1704)
    import simplejpeg

    seen = []
    real = simplejpeg.decode_jpeg
    monkeypatch.setattr(simplejpeg, 'decode_jpeg', lambda *args, **settings: (seen.append(real(*args, **settings)), seen[-1])[1])
    found = decode(data, part(box, size))
    assert seen[0].shape == (-(-1708 // shrink), 2560 // shrink, 3), 'decoded at the smallest size that is large enough'
    assert difference(found, classic(data, box, size)) < (1.5 if shrink == 2 else 3.5), 'of 255 levels'


def test_random_parts_of_large_photographs_are_close_to_the_exact_pipeline():
    picture = photographs()[1].resize((1280, 854), Image.Resampling.LANCZOS)
    data = as_bytes(picture)
    found = [difference(decode(data, part(box, (176, 176))), classic(data, box, (176, 176)))
             for box in boxes(30, (854, 1280))]
    assert np.mean(found) < 2.5, 'of 255 levels; much of it is the rounding of the edges to whole smaller pixels'


def test_never_decodes_below_the_wanted_size(monkeypatch):
    import simplejpeg

    shapes = []
    real = simplejpeg.decode_jpeg

    def watched(*args, **settings):
        shapes.append(settings)
        return real(*args, **settings)

    monkeypatch.setattr(simplejpeg, 'decode_jpeg', watched)
    data = as_bytes(photographs()[0])
    for side, shrinks in ((213, True), (214, False)):
        shapes.clear()
        decode(data, part((0, 0, 427, 427), (side, side)))
        assert bool(shapes[0]) == shrinks


def test_evaluation_is_the_classic_pipeline():
    for data in (as_bytes(photographs()[0]), as_bytes(photographs()[1].transpose(Image.Transpose.ROTATE_90))):
        picture = Image.open(BytesIO(data)).convert('RGB')
        exact = F.pil_to_tensor(F.center_crop(F.resize(picture, [232]), [224]))
        assert torch.equal(EvaluationView(232, 224, 'pil')(data, 'x'), exact)
        assert difference(EvaluationView(232, 224, 'fast')(data, 'x'), exact) < 0.05


@pytest.mark.parametrize('shape', [(375, 500), (500, 375), (300, 300), (331, 997)])
def test_shorter_side_is_torchvisions(shape):
    height, width = shape
    resized = F.resize(torch.zeros(3, height, width), [256], antialias=True)
    assert tuple(resized.shape[1:]) == shorter_side(256, height, width)


@pytest.mark.parametrize(('mode', 'format'), [
    ('L', 'JPEG'), ('CMYK', 'JPEG'), ('RGB', 'PNG'), ('RGBA', 'PNG'), ('P', 'PNG'), ('L', 'PNG'), ('RGB', 'BMP'), ('RGB', 'WEBP'),
])
def test_other_colours_and_formats(mode, format):
    picture = photographs()[0].resize((64, 48)).convert(mode)
    data = as_bytes(picture, format)
    exact = F.pil_to_tensor(Image.open(BytesIO(data)).convert('RGB').resize((40, 30), Image.Resampling.BILINEAR))
    found = decode(data, whole((30, 40)))
    assert found.shape == (3, 30, 40)
    assert found.dtype == torch.uint8
    assert found.is_contiguous()
    assert difference(found, exact) < 0.1


def test_a_jpeg_with_a_fault_that_pil_overlooks_is_read_by_pil():
    data = as_bytes(photographs()[0])
    # Bytes that do not belong there, before the first scan: ImageNet has such files. libjpeg warns and goes on.
    at = data.index(b'\xff\xda')
    faulty = data[:at] + b'\x00\x00\x00' + data[at:]
    assert torch.equal(decode(faulty, whole((100, 150))), decode(faulty, whole((100, 150)), 'pil'))


@pytest.mark.parametrize('decoder', ['fast', 'pil'])
@pytest.mark.parametrize('broken', ['half', 'nothing', 'text', 'png'])
def test_a_damaged_picture_is_named(decoder, broken):
    data = as_bytes(photographs()[0])
    broken = {
        'half': data[:len(data) // 2], 'nothing': b'', 'text': b'<html>404</html>',
        'png': as_bytes(photographs()[0], 'PNG')[:5000],
    }[broken]
    with pytest.raises(ValueError, match=r"'cat/1.JPEG' \([\d,]+ bytes\) cannot be decoded: .* Copy it anew"):
        decode(broken, whole((32, 32)), decoder, "'cat/1.JPEG'")
