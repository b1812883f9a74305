//! libremora.so: the socket calls of an unmodified program, answered by remora's own stack.
//!
//! `hooks` is the table of interposed symbols, `real` the originals, `abi` the edge to C, `calls` what the calls come
//! to, `fdtable` which descriptors are ours, `placeholder` the files behind them, `errno` how the stack's errors are called in C, `config` the settings of
//! the process. What is not ours goes to libc untouched.

// Tests are a program of their own, in which nothing is interposed.
#![cfg_attr(test, allow(dead_code, unused_macros))]

mod abi;
mod calls;
mod config;
mod errno;
mod fdtable;
mod hooks;
mod placeholder;
mod real;
mod small_lock;

/// Serves the shared arena to the stack and private memory to everyone else.
#[global_allocator]
static ALLOCATOR: remora_host::sys::alloc::FamilyAllocator = remora_host::sys::alloc::FamilyAllocator;
