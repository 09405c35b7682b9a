//! What Python does, where results depend on it.
