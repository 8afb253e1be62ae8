import contextlib
import glob
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest


def _program(name):
    found = shutil.which(name) or next(iter(sorted(glob.glob(f'/usr/lib/postgresql/*/bin/{name}'))[::-1]), None)
    # Links in the search path may stand for a package's own folder, where its other programs are looked for.
    return os.path.realpath(found) if found else None


@pytest.fixture(scope='session')
def postgres():
    """URL of a PostgreSQL server of its own, from the system's packages."""
    initdb, server = _program('initdb'), _program('postgres')
    if initdb is None or server is None:
        pytest.skip("no PostgreSQL server on this machine (Debian: apt-get install postgresql)")
    # The server refuses to run as root.
    user = pwd.getpwnam('nobody') if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
    become = {'user': user.pw_uid, 'group': user.pw_gid, 'extra_groups': []} if os.geteuid() == 0 else {}
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix='postgres'))
    os.chown(folder, user.pw_uid, user.pw_gid)
    environment = {**os.environ, 'HOME': str(folder), 'LC_ALL': 'C'}
    made = subprocess.run(
        [initdb, '-D', str(folder / 'data'), '-U', 'study', '-A', 'trust', '-E', 'UTF8'], cwd=folder, env=environment,
        capture_output=True, text=True, **become,
    )
    assert made.returncode == 0, made.stdout + made.stderr
    with open(folder / 'log.txt', 'wb') as log:
        running = subprocess.Popen(
            [server, '-D', str(folder / 'data'), '-p', str(port), '-k', str(folder), '-h', '127.0.0.1', '-F'],
            cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT, **become,
        )
    url = f'postgresql+psycopg://study@127.0.0.1:{port}/postgres'
    try:
        _until_it_answers(url, running, folder)
        yield url
    finally:
        running.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def _until_it_answers(url, running, folder):
    import time

    import psycopg

    for _ in range(300):
        assert running.poll() is None, (folder / 'log.txt').read_text()
        try:
            psycopg.connect(url.replace('+psycopg', ''), connect_timeout=2).close()
            return
        except psycopg.OperationalError:
            time.sleep(0.1)
    raise AssertionError((folder / 'log.txt').read_text())
