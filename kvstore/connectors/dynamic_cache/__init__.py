"""What a transformers `DynamicCache` is to the store: which models have one that can be stored, and its bytes."""
