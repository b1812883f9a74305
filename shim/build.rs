//! Link options of libremora.so: it is never unloaded (its hooks, fork handlers and signal trampolines would dangle),
//! and its own references are bound at load time, so that no hook runs the lazy binder inside a signal handler.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,now");
}
