"""A pretraining run, whatever its model: from options to a trained model, its plan, its report and its card."""
