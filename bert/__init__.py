"""BERT pretraining from scratch: raw text, tokenizer, packed blocks, masking, model."""
