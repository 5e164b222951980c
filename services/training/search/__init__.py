"""Search owns searches and search_trials: it looks for the recipe with the lowest validation loss, by Optuna.

Its trials are ordinary fine-tuning jobs, on whatever training worker is free. It hears that a trial was validated or
ended, looks at its rows and says what is next: start a trial, stop one that falls behind, end. Nothing waits for it.
"""
