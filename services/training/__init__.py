"""Training owns training_jobs, adapters, checkpoints; hears TrainAdapter, OrderTraining; says JobEnded with an adapter.

It turns a dataset or an uploaded chat file into rows as the model will see them when serving, has a supervised child
process train a LoRA adapter on them, and keeps the adapter as a blob that any worker can fetch.
"""
