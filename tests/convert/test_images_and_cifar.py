import runpy
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from streaming import StreamingDataset

from composer_kd.convert import ImageSource, convert_images
from composer_kd.recipes.tasks.images.cifar_files import read_cifar
from composer_kd.recipes.tasks.images.folder import scan_folder
from composer_kd.recipes.tasks.mds import read_index
from tests.recipes.tasks.images.pictures import as_bytes, photographs, write_folder

SCRIPTS = Path(__file__).parents[2] / 'scripts'


def script(name):
    return SimpleNamespace(**runpy.run_path(str(SCRIPTS / name)))


def rows(folder):
    data = StreamingDataset(local=str(folder), batch_size=1)
    return [data[i] for i in range(data.size)]


def call(*arguments):
    found = CliRunner().invoke(script('convert.py').main, [str(argument) for argument in arguments], catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return found.output


def test_images_are_stored_as_the_files_they_were_shuffled_once(tmp_path):
    root = write_folder(tmp_path / 'in', each=6)
    told = call('images', root, tmp_path / 'out', '--split', 'train', '--shard-size', '10kb', '--quiet')
    assert '18 samples in' in told
    assert 'read back and compared' in told
    found, pictures = rows(tmp_path / 'out' / 'train'), scan_folder(root / 'train')
    assert sorted((row['x'], row['y']) for row in found) == sorted(
        (Path(pictures.path(i)).read_bytes(), int(pictures.labels[i])) for i in range(18)
    )
    labels = [row['y'] for row in found]
    assert labels != sorted(labels)
    call('images', root, tmp_path / 'again', '--shard-size', '10kb', '--workers', '1', '--quiet')
    for path in (tmp_path / 'out' / 'train').iterdir():
        assert path.read_bytes() == (tmp_path / 'again' / 'train' / path.name).read_bytes()


def test_resized_pictures_are_jpegs_with_that_shorter_side(tmp_path):
    root = write_folder(tmp_path / 'in', classes=2, each=2, side=40)
    (root / 'train' / 'class0' / 'large.JPEG').write_bytes(as_bytes(photographs()[0]))
    small = {path.read_bytes() for path in (root / 'train').rglob('*_*.JPEG')}
    convert_images(root, tmp_path / 'out', resize=60, workers=1, progress=False)
    found = [row['x'] for row in rows(tmp_path / 'out' / 'train')]
    resized = [data for data in found if data not in small]
    assert len(found) == 5
    assert len(resized) == 1, 'those that are small enough are left as they are'
    picture = Image.open(BytesIO(resized[0]))
    assert (picture.format, picture.size) == ('JPEG', (90, 60))
    reference = photographs()[0].resize((90, 60), Image.Resampling.BICUBIC)
    assert np.abs(np.asarray(picture, int) - np.asarray(reference, int)).mean() < 6
    with pytest.raises(ValueError, match='holds another conversion'):
        convert_images(root, tmp_path / 'out', workers=1, progress=False)


def test_a_file_that_is_no_picture_is_named(tmp_path):
    root = write_folder(tmp_path / 'in', classes=2, each=2)
    (root / 'train' / 'class1' / '1_0.JPEG').write_bytes(b'<html>')
    with pytest.raises(ValueError, match=r"class1/1_0.JPEG' \(6 bytes\) is no picture"):
        convert_images(root, tmp_path / 'out', workers=1, progress=False)
    assert not (tmp_path / 'out' / 'train' / 'index.json').exists()
    with pytest.raises(ValueError, match='resize: expected 1'):
        ImageSource(root / 'train', 0)


def test_cifar_keeps_every_pixel(tmp_path):
    script('sample_data/images.py').write_cifar10(tmp_path / 'in' / 'cifar-10-batches-py')
    told = call('cifar', tmp_path / 'in', tmp_path / 'out', '--shard-size', '1mb', '--quiet')
    assert '800 samples' in told
    assert '300 samples' in told
    for split in ('train', 'test'):
        raw, found = read_cifar(tmp_path / 'in', split, 10), rows(tmp_path / 'out' / split)
        key = lambda pair: (pair[0], pair[1].tobytes())  # noqa: E731
        one = sorted(zip(raw.labels.tolist(), raw.images, strict=True), key=key)
        other = sorted(((row['y'], np.asarray(row['x'])) for row in found), key=key)
        assert all(a[0] == b[0] and np.array_equal(a[1], b[1]) for a, b in zip(one, other, strict=True))


def test_the_script_tells_what_is_wrong_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr('sys.argv', ['convert.py', 'images', 'nowhere', str(tmp_path)])
    with pytest.raises(SystemExit, match="^error: FOLDER: there is no folder 'nowhere/train'"):
        runpy.run_path(str(SCRIPTS / 'convert.py'), run_name='__main__')


def test_the_sample_data_is_in_every_format(tmp_path):
    script('sample_data/images.py').write(tmp_path)
    assert len(scan_folder(tmp_path / 'imagenet' / 'train')) == read_index(tmp_path / 'imagenet-mds' / 'train').samples == 400
    assert len(scan_folder(tmp_path / 'imagenet' / 'val')) == read_index(tmp_path / 'imagenet-mds' / 'val').samples == 200
    assert len(read_cifar(tmp_path / 'cifar10', 'train', 10)) == read_index(tmp_path / 'cifar10-mds' / 'train').samples
    assert set(read_cifar(tmp_path / 'cifar100', 'test', 100).labels.tolist()) == set(range(100))
    with Image.open(scan_folder(tmp_path / 'imagenet' / 'train').path(0)) as picture:
        assert 64 <= min(picture.size) <= max(picture.size) <= 80


def test_the_benchmark_prints_every_pipeline(tmp_path):
    told = CliRunner().invoke(
        script('benchmark_images.py').main, ['--images', '100', '--rounds', '1', '--crop-size', '32', '--folder', str(tmp_path)],
        catch_exceptions=False,
    ).output
    for name in ('plain ImageFolder, PIL', "folder, decoder 'pil'", "folder, decoder 'fast'", "MDS, decoder 'fast'"):
        assert name in told
    assert '500x375' in told
    mean = np.mean([path.stat().st_size for path in tmp_path.rglob('*.JPEG')])
    assert 90_000 < mean < 130_000
