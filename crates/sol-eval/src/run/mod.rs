//! A run: tasks, a model, an answer log, results.
