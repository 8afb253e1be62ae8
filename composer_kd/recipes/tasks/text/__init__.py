from composer_kd.recipes.tasks.text.masked_text import masked_text

__all__ = ['masked_text']
