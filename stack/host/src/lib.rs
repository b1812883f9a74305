//! remora's side towards the operating system: system calls, the shared arena and its lock, devices, the driver and its
//! keeper, configuration. No C ABI here, and `unsafe` in `sys` only.

pub mod config;
pub mod device;
pub mod logging;
pub mod runtime;
pub mod sys;
