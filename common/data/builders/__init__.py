"""Datasets by name. A new dataset is a builder, in this folder as a rule, and a line here."""

from common.data.builders import (
  chorales,
  cifar10,
  digits,
  idx,
  image_folder,
  npz,
  series,
  text,
)
from common.data.dialogues.builder import Dialogues

BUILDERS = {
  'digits': digits.Digits,
  'mnist': idx.Mnist,
  'fashion_mnist': idx.FashionMnist,
  'cifar10': cifar10.Cifar10,
  'image_folder': image_folder.ImageFolder,
  'npz': npz.Npz,
  'series': series.Series,
  'aus_retail': series.AusRetail,
  'text': text.Text,
  'shakespeare': text.Shakespeare,
  'python_code': text.PythonCode,
  'dialogues': Dialogues,
  'chorales': chorales.Chorales,
}
