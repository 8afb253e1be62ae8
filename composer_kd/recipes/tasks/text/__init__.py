from composer_kd.recipes.tasks.text.causal_text import causal_text
from composer_kd.recipes.tasks.text.masked_text import masked_text

__all__ = ['causal_text', 'masked_text']
