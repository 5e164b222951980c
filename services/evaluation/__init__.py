"""Evaluation: scores variants, compares them on one frozen test split, runs experiments; answers batches.

Owns evaluations, answers, experiments, experiment_steps and test_looks, and the batches. Hears EvaluateVariant,
CompareVariants, WriteReport, AdvanceExperiment (the end of every job that an experiment ordered), RunBatch and
FinishBatch (the end of the former). Says OrderVariants, OrderTraining, OrderRaftDataset, OrderRelease, and asks live
for generations and embeddings.
"""
