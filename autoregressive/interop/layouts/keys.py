"""Keys of `config.json` that every language model in the layout of `transformers` may have."""

# Keys of any model that describe its files, its training or how to sample from it.
DESCRIPTIONS = frozenset(
  """
  model_type architectures transformers_version torch_dtype dtype auto_map tokenizer_class prefix
  _name_or_path _commit_hash _attn_implementation attn_implementation use_cache return_dict
  return_dict_in_generate output_attentions output_hidden_states output_past output_scores
  torchscript use_bfloat16 tf_legacy_loss chunk_size_feed_forward gradient_checkpointing
  initializer_range is_decoder tie_encoder_decoder finetuning_task problem_type id2label label2id
  task_specific_params bos_token_id eos_token_id pad_token_id sep_token_id unk_token_id
  decoder_start_token_id forced_bos_token_id forced_eos_token_id max_length min_length do_sample
  early_stopping num_beams num_beam_groups diversity_penalty temperature top_k top_p typical_p
  repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size
  bad_words_ids num_return_sequences remove_invalid_values exponential_decay_length_penalty
  suppress_tokens begin_suppress_tokens transformers.js_config
  """.split()  # noqa: SIM905
)
# Values that every model here has; another value changes the outputs.
FIXED = {'is_encoder_decoder': False, 'pruned_heads': {}}
