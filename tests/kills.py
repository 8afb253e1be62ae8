"""How often tests kill what they try: a few times, or as often as ``COMPOSER_KD_KILLS`` says."""

import os

MORE = 'COMPOSER_KD_KILLS'


def how_many(few: int) -> int:
    """The number of kills that the environment asks for; ``few`` if it does not."""
    said = int(os.environ.get(MORE, few))
    assert said >= few, f'{MORE}: {few} or more, got {said}'
    return said
