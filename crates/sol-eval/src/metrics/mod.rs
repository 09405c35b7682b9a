//! Answers to figures.
