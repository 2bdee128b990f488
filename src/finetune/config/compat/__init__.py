"""Names and values of other tools' hyperparameters."""
