"""Reading the files of published weights, in the layouts of `transformers` and `diffusers`."""
