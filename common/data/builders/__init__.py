"""Datasets by name. A new dataset is a builder, in this folder as a rule, and a line here."""

from common.data.builders import (
  chorales,
  digits,
  image_folder,
  npz,
  series,
  text,
)
from common.data.builders.mixtures import gaussians, stacked
from common.data.builders.published import (
  cifar10,
  competitions,
  idx,
  imagenet,
  long,
  texts,
)
from common.data.builders.sequences import copy_memory, piano_rolls, pixels
from common.data.dialogues.builder import Dialogues

BUILDERS = {
  'digits': digits.Digits,
  'mnist': idx.Mnist,
  'fashion_mnist': idx.FashionMnist,
  'stacked_mnist': stacked.StackedMnist,
  'cifar10': cifar10.Cifar10,
  'ring': gaussians.Ring,
  'gaussians25': gaussians.Gaussians25,
  'imagenet': imagenet.ImageNet,
  'image_folder': image_folder.ImageFolder,
  'npz': npz.Npz,
  'series': series.Series,
  'aus_retail': series.AusRetail,
  'm1': competitions.M1,
  'm3': competitions.M3,
  'm4': competitions.M4,
  'tourism': competitions.Tourism,
  'exchange_rate': long.ExchangeRate,
  'exchange_rate_long': long.ExchangeRateLong,
  'etth1': long.EttH1,
  'etth2': long.EttH2,
  'vic_elec': long.VicElec,
  'text': text.Text,
  'shakespeare': texts.Shakespeare,
  'python_code': texts.PythonCode,
  'dialogues': Dialogues,
  'chorales': chorales.Chorales,
  'piano_rolls': piano_rolls.PianoRolls,
  'copy_memory': copy_memory.CopyMemory,
  'sequential_digits': pixels.SequentialDigits,
  'sequential_mnist': pixels.SequentialMnist,
  'sequential_fashion_mnist': pixels.SequentialFashionMnist,
}
