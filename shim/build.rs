//! Link options of libremora.so: it is never unloaded (its hooks, fork handlers and signal trampolines would dangle),
//! its own references are bound at load time, so that no hook runs the lazy binder inside a signal handler, and it asks
//! for one address in every process, so that an image started by exec can use the shared state of its family, which
//! holds addresses of this library's code and tables.

/// Where the loader puts the library when nothing else lies there (glibc from 2.36 on takes the linked address as a
/// hint): far from where the kernel puts programs, libraries and stacks, and beside the arenas.
const IMAGE_BASE: &str = "0x6c0000000000";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,now");
    // Tells whether two images are of one build.
    println!("cargo:rustc-cdylib-link-arg=-Wl,--build-id=sha1");
    // rustc links with LLD on x86_64 Linux; GNU ld has another name for the option.
    let arch = std::env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    let option = if arch == "x86_64" { "--image-base" } else { "-Ttext-segment" };
    println!("cargo:rustc-cdylib-link-arg=-Wl,{option}={IMAGE_BASE}");
}
