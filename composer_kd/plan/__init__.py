from composer_kd.plan.make import plan_recipe
from composer_kd.plan.result import Plan
from composer_kd.plan.show import show

__all__ = ['Plan', 'plan_recipe', 'show']
