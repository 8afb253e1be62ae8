from composer_kd.recipes.tasks.glue.data import Sentences, glue
from composer_kd.recipes.tasks.glue.files import read_file
from composer_kd.recipes.tasks.glue.tasks import TASKS, Task

__all__ = ['TASKS', 'Sentences', 'Task', 'glue', 'read_file']
