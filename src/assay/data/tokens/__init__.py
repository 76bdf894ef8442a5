"""From records to tokens: templates, tables of tokens, packed batches."""
