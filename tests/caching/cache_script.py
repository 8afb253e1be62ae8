"""``composer-kd cache`` with parts of a few answers: ``cache_script.py SAMPLES ARGUMENTS...``."""

import sys

from composer_kd.teachers import keeper

if __name__ == '__main__':
    keeper.PART_SAMPLES = int(sys.argv[1])

    from composer_kd.cli import main

    main(['cache', *sys.argv[2:]], 'composer-kd')
