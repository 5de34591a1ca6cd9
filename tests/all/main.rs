//! The one integration binary: every scenario is a module of it, so that it links once.

mod chaos;
mod cli;
mod edge;
mod kernels;
mod node;
mod pull;
mod sim;
mod tidy;
mod view;
