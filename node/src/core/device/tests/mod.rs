//! The device as a whole, driven on a virtual clock.

mod conservation;
mod latency;
mod life;
mod loading;
mod obey;
mod overload;
mod pieces;
mod trouble;
mod virtual_device;
