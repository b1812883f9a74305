//! remora's TCP/IP stack: pure, without clock, thread, allocator or system call of its own.
//!
//! Frames, time, randomness and socket calls go in; frames, events and the next deadline come out.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod counters;
pub mod frame;
pub mod interface;
pub mod io;
pub mod ip;
pub mod random;
pub mod settings;
pub mod socket;
pub mod time;
