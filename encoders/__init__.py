"""Encoders: texts in, vectors out, in batches that a device likes. No Kafka here; `streams.encoder_worker` adapts it.

`keys` and `folder` need neither torch nor transformers, which come with the extra `encoder`; `model` does.
"""
