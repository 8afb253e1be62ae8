from composer_kd.recipes.tasks.digits import digits
from composer_kd.recipes.tasks.registry import DATA

__all__ = ['DATA', 'digits']
