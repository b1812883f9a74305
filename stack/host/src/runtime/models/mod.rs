//! Models of the runtime's protocols, in which every order of steps is tried (loom): the family's own code where it is
//! plain state, and beside it a small copy of the steps that make system calls, with where they stand. Each is shown to
//! find faults that are planted in it. The model of the robust lock is in `sys::lock`.

mod hand_over;
mod pump_switch;
