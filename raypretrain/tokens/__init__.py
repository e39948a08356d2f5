"""Which sequences: tokenizer, plan, packing, stream and cursor."""
