"""Datasets by name. A new dataset is a module here and a line in this dict."""

from common.data.builders import digits

BUILDERS = {
  'digits': digits.Digits,
}
