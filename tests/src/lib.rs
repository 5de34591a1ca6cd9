//! What the scenarios in `all/` share: golden data and the real model.

pub mod golden;
pub mod serving;
pub mod test_model;
