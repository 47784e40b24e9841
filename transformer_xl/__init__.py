"""Language models: Transformer-XL and LSTM. Not built yet: see `transformer_xl.pretrain`."""
