//! The server from outside, over HTTP, with the tiny models of `sol-model`.

mod api;
mod errors;
mod going;
mod guided;
mod models;
mod openapi;
mod page;
mod responses;
mod support;
mod tools;
