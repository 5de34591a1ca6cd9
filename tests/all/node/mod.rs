//! A whole node reached as its callers reach it.

mod allocations;
mod gliner;
mod holders;
mod real_model;
