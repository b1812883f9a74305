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
pub mod link;
pub mod random;
pub mod raw;
pub mod settings;
pub mod settings_text;
pub mod socket;
pub mod stack;
pub mod tcp;
pub mod testkit;
pub mod time;
pub mod udp;
pub mod wire;
