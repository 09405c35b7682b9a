//! The program from outside: arguments, pipes, signals and terminals in, what it prints and leaves behind out.

#[cfg(unix)]
mod conversation;
mod models;
mod run;
mod support;
