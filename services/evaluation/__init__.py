"""Evaluation: scores variants, compares them on one frozen test split, runs experiments, steers the loop.

Owns evaluations, answers, experiments, experiment_steps and test_looks. Hears EvaluateVariant, CompareVariants,
WriteReport and AdvanceExperiment (the end of every job that an experiment ordered). Says OrderVariants, OrderTraining,
OrderRaftDataset, OrderRelease, and asks live for generations.
"""
