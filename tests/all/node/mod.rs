//! A whole node reached as its callers reach it.

mod allocations;
mod real_model;
