from composer_kd.recipes.build import build_trainer, check_recipe, train
from composer_kd.recipes.folder import recipe_digest
from composer_kd.recipes.load import load_recipe, parse_recipe
from composer_kd.recipes.main import train_main
from composer_kd.recipes.schema import Recipe
from composer_kd.recipes.tasks import DATA

__all__ = [
    'DATA', 'Recipe', 'build_trainer', 'check_recipe', 'load_recipe', 'parse_recipe', 'recipe_digest', 'train',
    'train_main',
]
