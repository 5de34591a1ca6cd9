//! What the scenarios in `all/` share: golden data, damaged copies, the real model, the simulated world, and chaos on real processes.

pub mod changed;
pub mod chaos;
pub mod golden;
pub mod serving;
pub mod sim;
pub mod test_model;
