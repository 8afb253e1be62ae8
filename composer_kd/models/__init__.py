from composer_kd.models.bert_classifier import bert_classifier
from composer_kd.models.causal_lm import gpt2, llama
from composer_kd.models.digits import digits_resnet
from composer_kd.models.masked_lm import bert_masked_lm
from composer_kd.models.registry import MODELS, build_model
from composer_kd.models.resnet import torchvision_resnet
from composer_kd.models.resnet_cifar import cifar_resnet
from composer_kd.models.surgery import apply_surgery
from composer_kd.models.tokenizers import load_tokenizer, vocabulary_digest
from composer_kd.models.traits import Traits, traits_of

__all__ = [
    'MODELS', 'Traits', 'apply_surgery', 'bert_classifier', 'bert_masked_lm', 'build_model', 'cifar_resnet',
    'digits_resnet', 'gpt2', 'llama', 'load_tokenizer', 'torchvision_resnet', 'traits_of', 'vocabulary_digest',
]
