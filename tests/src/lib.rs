//! What the scenarios in `all/` share: golden data, the real model, and the simulated world.

pub mod golden;
pub mod serving;
pub mod sim;
pub mod test_model;
