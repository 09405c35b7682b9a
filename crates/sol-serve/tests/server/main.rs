//! The server from outside, over HTTP, with the tiny models of `sol-model`.

mod api;
mod errors;
mod going;
mod guided;
mod responses;
mod page;
mod support;
mod tools;
