//! Results to tables and files.
